"""A batch's input file, checked line by line before anything is executed, as OpenAI does.

Codes, messages, `param` and `line` come from recorded OpenAI traffic where a record exists
(llama-stack's transcripts of 2025-08, user reports); the others are marked as ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batch_assets.local_api import errors, strict_json

MAXIMUM_REQUESTS = 50_000
MAXIMUM_INPUT_BYTES = 200 * 1024 * 1024  # "larger than the 209715200 maximum"
# Ours: a file in which every line is wrong need not make a batch object of megabytes.
_MAXIMUM_PROBLEMS = 100

Problem = dict[str, Any]


class Stopped(Exception):  # noqa: N818 (no fault)
    """Validation was abandoned because the batch is being cancelled or the server stops."""


@dataclass
class Verdict:
    """What is known of an input file: `problems` is empty when the batch may run."""

    total: int = 0
    model: str = ""
    problems: list[Problem] = field(default_factory=list)


def problem(code: str | None, message: str, *, param: str | None = None, line: int | None = None) -> Problem:
    """One entry of a failed batch's `errors.data`; lines count from 1."""
    return {"code": code, "message": errors.shorten(message), "param": param, "line": line}


def file_not_found(file_id: str) -> Problem:
    message = f"Cannot find file {file_id}, or organization org-local does not have access to it."
    return problem("invalid_request", message, param="file_id")


def wrong_purpose(file_id: str, purpose: str) -> Problem:
    """Ours: OpenAI's answer to a file that was uploaded for something else is not known."""
    message = f"File {file_id} has the purpose '{purpose}'; the input of a batch needs the purpose 'batch'."
    return problem("invalid_request", message, param="file_id")


def validate(path: Path, endpoint: str, *, stopped: Callable[[], bool]) -> Verdict:
    """Read the file once, line by line; raises Stopped soon after `stopped` turns true."""
    verdict = Verdict()
    seen: set[bytes] = set()
    if path.stat().st_size > MAXIMUM_INPUT_BYTES:
        return Verdict(problems=[_too_large(path)])
    with path.open("rb") as file:
        # A binary file splits at b"\n" only: U+2028 and the like are part of a line.
        for number, line in enumerate(file, start=1):
            if number % 256 == 0 and stopped():
                raise Stopped
            if number > MAXIMUM_REQUESTS:
                # Code and text are ours: Azure calls it so, OpenAI's words are not known.
                message = f"The batch input file contains more than the maximum of {MAXIMUM_REQUESTS} requests."
                return Verdict(problems=[problem("too_many_tasks", message)])
            found = _check_line(line, number, endpoint, verdict, seen)
            if found is not None:
                verdict.problems.append(found)
                if len(verdict.problems) >= _MAXIMUM_PROBLEMS:
                    return verdict
            verdict.total = number
    if verdict.total == 0:
        message = "The input file is empty. Please ensure that the batch contains at least one request."
        verdict.problems.append(problem("empty_file", message))
    return verdict


def _too_large(path: Path) -> Problem:
    """Users report the text; the code is not known. The model is that of the first line."""
    with path.open("rb") as file:
        try:
            model = str(strict_json.loads(file.readline(1024 * 1024))["body"]["model"])
        except (ValueError, KeyError, TypeError):
            model = "requested"
    return problem(None, f"The batch input file is larger than the {MAXIMUM_INPUT_BYTES} maximum for the {model} model")


def _check_line(line: bytes, number: int, endpoint: str, verdict: Verdict, seen: set[bytes]) -> Problem | None:
    """The first thing that is wrong with a line; notes its model and custom_id for the lines to come."""
    try:
        request = strict_json.loads(line)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        return problem("invalid_json_line", "This line is not parseable as valid JSON.", line=number)
    for name in ("custom_id", "method", "url", "body"):
        if request.get(name) is None:
            return _as_problem(errors.missing_parameter(name), number)
    wrong_type = _check_types(request, number)
    if wrong_type is not None:
        return wrong_type
    # 16 bytes instead of the id, whose length nobody bounds.
    digest = hashlib.blake2b(request["custom_id"].encode("utf-8", "surrogatepass"), digest_size=16).digest()
    if digest in seen:
        message = (
            "The custom_id for this request is a duplicate of another request. "
            "The custom_id parameter must be unique for each request in a batch."
        )
        return problem("duplicate_custom_id", message, param="custom_id", line=number)
    seen.add(digest)
    if request["method"] != "POST":
        return _as_problem(errors.invalid_value("method", request["method"], ["POST"]), number)
    if request["url"] != endpoint:
        message = "The URL provided for this request does not match the batch endpoint."
        return problem("invalid_url", message, param="url", line=number)
    return _check_body(request["body"], number, verdict)


def _check_types(request: dict[str, Any], number: int) -> Problem | None:
    for name in ("custom_id", "method", "url"):
        if not isinstance(request[name], str):
            return _as_problem(errors.invalid_type(name, "a string", request[name]), number)
    if not isinstance(request["body"], dict):
        return _as_problem(errors.invalid_type("body", "an object", request["body"]), number)
    return None


def _check_body(body: dict[str, Any], number: int, verdict: Verdict) -> Problem | None:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        return problem("invalid_request", "Model parameter is required.", param="body.model", line=number)
    if not verdict.model:
        verdict.model = model
    if "messages" not in body:
        return problem("invalid_request", "Messages parameter is required.", param="body.messages", line=number)
    if body.get("stream"):
        message = "Chat Completions: Streaming is not supported in the Batch API."
        return problem("streaming_unsupported", message, param="body.stream", line=number)
    if model != verdict.model:
        message = (
            f"The model '{model}' for this request does not match the rest of the batch. "
            "Each batch must contain requests for a single model."
        )
        return problem("mismatched_model", message, param="body.model", line=number)
    return None


def _as_problem(error: errors.ApiError, number: int) -> Problem:
    return problem(error.code, error.message, param=error.param, line=number)
