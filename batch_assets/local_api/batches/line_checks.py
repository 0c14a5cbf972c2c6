"""One line of a batch's input file: what makes OpenAI refuse it, and with it the batch."""

from __future__ import annotations

import hashlib
from typing import Any

from batch_assets.local_api.endpoints import embeddings, models
from batch_assets.local_api.wire import errors, strict_json

MAXIMUM_EMBEDDING_INPUTS = 50_000  # "/v1/embeddings batches are also restricted to 50,000 inputs" [spec]
# Ours, so that no line takes more memory than a direct request may; OpenAI's limit is not known.
MAXIMUM_LINE_BYTES = 16 * 1024 * 1024

# What a body must have besides the model, and what OpenAI calls the endpoint when it refuses to stream.
_REQUIRED = {
    "/v1/chat/completions": ("messages", "Chat Completions"),
    "/v1/embeddings": ("input", "Embeddings"),
    "/v1/responses": ("input", "Responses"),
}

Problem = dict[str, Any]


def problem(code: str | None, message: str, *, param: str | None = None, line: int | None = None) -> Problem:
    """One entry of a failed batch's `errors.data`; lines count from 1."""
    return {"code": code, "message": errors.shorten(message), "param": param, "line": line}


class LineChecker:
    """Checks the lines of one file in their order, since ids must differ and models must not.

    model: that of the first line which names one; "" before.
    has_enough: set when further lines need not be looked at.
    """

    def __init__(self, endpoint: str) -> None:
        self.model = ""
        self.has_enough = False
        self._endpoint = endpoint
        self._required, self._name = _REQUIRED[endpoint]
        self._ids: set[bytes] = set()
        self._inputs = 0

    def check(self, line: bytes, number: int) -> Problem | None:
        """The first thing that is wrong with a line."""
        if len(line) > MAXIMUM_LINE_BYTES:
            message = f"This line is longer than the maximum of {MAXIMUM_LINE_BYTES} bytes."
            return problem("invalid_request", message, line=number)
        try:
            request = strict_json.loads(line)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            return problem("invalid_json_line", "This line is not parseable as valid JSON.", line=number)
        for name in ("custom_id", "method", "url", "body"):
            if request.get(name) is None:
                return _as_problem(errors.missing_parameter(name), number)
        for name in ("custom_id", "method", "url"):
            if not isinstance(request[name], str):
                return _as_problem(errors.invalid_type(name, "a string", request[name]), number)
        if not isinstance(request["body"], dict):
            return _as_problem(errors.invalid_type("body", "an object", request["body"]), number)
        # 16 bytes instead of the id, whose length nobody bounds.
        digest = hashlib.blake2b(request["custom_id"].encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in self._ids:
            message = (
                "The custom_id for this request is a duplicate of another request. "
                "The custom_id parameter must be unique for each request in a batch."
            )
            return problem("duplicate_custom_id", message, param="custom_id", line=number)
        self._ids.add(digest)
        if request["method"] != "POST":
            return _as_problem(errors.invalid_value("method", request["method"], ["POST"]), number)
        if request["url"] != self._endpoint:
            message = "The URL provided for this request does not match the batch endpoint."
            return problem("invalid_url", message, param="url", line=number)
        return self._check_body(request["body"], number)

    def _check_body(self, body: dict[str, Any], number: int) -> Problem | None:
        model = body.get("model")
        if not isinstance(model, str) or not model:
            return problem("invalid_request", "Model parameter is required.", param="body.model", line=number)
        if model != self.model:
            if not models.is_usable(model, self._endpoint):
                message = f"The provided model '{model}' is not supported by the Batch API."
                return problem("model_not_found", message, param="body.model", line=number)
            self.model = self.model or model
        if self._required not in body:
            message = f"{self._required.title()} parameter is required."
            return problem("invalid_request", message, param=f"body.{self._required}", line=number)
        if body.get("stream"):
            message = f"{self._name}: Streaming is not supported in the Batch API."
            return problem("streaming_unsupported", message, param="body.stream", line=number)
        if model != self.model:
            message = (
                f"The model '{model}' for this request does not match the rest of the batch. "
                "Each batch must contain requests for a single model."
            )
            return problem("mismatched_model", message, param="body.model", line=number)
        return self._check_inputs(body["input"]) if self._endpoint == "/v1/embeddings" else None

    def _check_inputs(self, value: object) -> Problem | None:
        self._inputs += embeddings.count_inputs(value)
        if self._inputs <= MAXIMUM_EMBEDDING_INPUTS:
            return None
        self.has_enough = True
        # Code and text are ours, as for too many lines: OpenAI's are not known.
        message = f"The batch input file contains more than the maximum of {MAXIMUM_EMBEDDING_INPUTS} embedding inputs."
        return problem("too_many_tasks", message)


def _as_problem(error: errors.ApiError, number: int) -> Problem:
    return problem(error.code, error.message, param=error.param, line=number)
