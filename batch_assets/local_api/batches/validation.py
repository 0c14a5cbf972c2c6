"""A batch's input file, checked line by line before anything is executed, as OpenAI does.

Codes, messages, `param` and `line` come from recorded OpenAI traffic where a record exists
(llama-stack's transcripts of 2025-08, user reports); the others are marked as ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from batch_assets.local_api.batches.line_checks import MAXIMUM_LINE_BYTES, LineChecker, Problem, problem
from batch_assets.local_api.settings import Limits
from batch_assets.local_api.wire import strict_json

# Ours: a file in which every line is wrong should not make a batch object of megabytes.
_MAXIMUM_PROBLEMS = 100
_READ_BYTES = 128 * 1024


class ValidationCancelledError(Exception):
    """Validation ended early: the batch is cancelled, or the server stops."""


@dataclass
class ValidationResult:
    """The number of lines of an input file, and their model. `problems` is empty when the batch may run."""

    total: int = 0
    model: str = ""
    problems: list[Problem] = field(default_factory=list)


def file_not_found(file_id: str) -> Problem:
    message = f"Cannot find file {file_id}, or organization org-local does not have access to it."
    return problem("invalid_request", message, param="file_id")


def wrong_purpose(file_id: str, purpose: str) -> Problem:
    """Ours: OpenAI's error for a file with another purpose is not known."""
    message = f"File {file_id} has the purpose '{purpose}'; the input of a batch needs the purpose 'batch'."
    return problem("invalid_request", message, param="file_id")


def validate(path: Path, endpoint: str, limits: Limits, *, stopped: Callable[[], bool]) -> ValidationResult:
    """Read the file once, line by line. Raises ValidationCancelledError soon after `stopped` turns true."""
    if path.stat().st_size > limits.batch_input_bytes:
        return ValidationResult(problems=[_too_large(path, limits.batch_input_bytes)])
    checker = LineChecker(endpoint, limits)
    result = ValidationResult()
    with path.open("rb", buffering=_READ_BYTES) as file:
        for number, line in enumerate(_lines(file), start=1):
            if number % 256 == 0 and stopped():
                raise ValidationCancelledError
            if number > limits.batch_requests:
                return ValidationResult(problems=[_too_many_requests(limits.batch_requests)])
            found = checker.check(line, number)
            if found is not None:
                result.problems.append(found)
                if checker.is_over_limit or len(result.problems) >= _MAXIMUM_PROBLEMS:
                    return result
            result.total, result.model = number, checker.model
    if result.total == 0:
        message = "The input file is empty. Please ensure that the batch contains at least one request."
        result.problems.append(problem("empty_file", message))
    return result


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file. A line that is too long is cut, to a length that is still too long."""
    # A binary file splits at b"\n" only: U+2028 and the like are part of a line.
    while line := file.readline(MAXIMUM_LINE_BYTES + 1):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(_READ_BYTES)
        yield line


def _too_many_requests(maximum: int) -> Problem:
    """Code and text are ours. Azure has this code; OpenAI's code and text are not known."""
    message = f"The batch input file contains more than the maximum of {maximum} requests."
    return problem("too_many_tasks", message)


def _too_large(path: Path, maximum_bytes: int) -> Problem:
    """Users report the text; the code is not known. The model is that of the first line."""
    with path.open("rb") as file:
        try:
            model = str(strict_json.loads(file.readline(1024 * 1024))["body"]["model"])
        except (ValueError, KeyError, TypeError):
            model = "requested"
    return problem(None, f"The batch input file is larger than the {maximum_bytes} maximum for the {model} model")
