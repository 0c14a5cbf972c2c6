"""OpenAI's errors: `{"error": {"message", "type", "param", "code"}}` with an HTTP status.

Messages marked [rec] are copied from OpenAI's recorded traffic. The others follow the pattern that the same API uses
for the same kind of error elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ErrorBody = dict[str, Any]
_MAXIMUM_MESSAGE = 1000


def shorten(message: str) -> str:
    """A message repeats a client's text, which may have megabytes."""
    return message if len(message) <= _MAXIMUM_MESSAGE else message[: _MAXIMUM_MESSAGE - 1] + "…"


class ApiError(Exception):
    """A refused request: becomes an HTTP response, or the response of a line in a batch."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = shorten(message)
        self.param = None if param is None else shorten(param)
        self.code = code
        self.kind = kind

    def body(self) -> ErrorBody:
        """The JSON body. Every key is present, with null where OpenAI sends null."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def server_error() -> ApiError:
    """OpenAI's error for an error of its own."""
    message = "The server had an error while processing your request. Sorry about that!"
    return ApiError(500, message, kind="server_error")


def streaming_unsupported() -> ApiError:
    """Ours: OpenAI streams, and this server does not."""
    message = "Unsupported value: 'stream' does not support true with the local Batch API."
    return ApiError(400, message, param="stream", code="unsupported_value")


def missing_parameter(param: str) -> ApiError:
    return ApiError(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def unknown_parameter(param: str) -> ApiError:
    return ApiError(400, f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")


def invalid_type(param: str, expected: str, value: object) -> ApiError:
    """`Invalid type for 'metadata.tags': expected a string, but got an array instead.` [rec]"""
    message = f"Invalid type for '{param}': expected {expected}, but got {json_type(value)} instead."
    return ApiError(400, message, param=param, code="invalid_type")


def invalid_value(param: str, value: str, supported: Sequence[str]) -> ApiError:
    """`Invalid value: '/v1/x'. Supported values are: '/v1/a', '/v1/b', and '/v1/c'.` [rec]"""
    message = f"Invalid value: '{value}'. Supported values are: {_enumerate(supported)}."
    return ApiError(400, message, param=param, code="invalid_value")


def out_of_range(
    param: str, kind: str, value: float, *, minimum: float | None, maximum: float | None
) -> ApiError | None:
    """The error for a number (kind: integer or decimal) outside its range; None for a number inside."""
    if minimum is not None and value < minimum:
        message = f"{kind} below minimum value. Expected a value >= {minimum}, but got {value} instead."
        return ApiError(400, f"Invalid '{param}': {message}", param=param, code=f"{kind}_below_min_value")
    if maximum is not None and value > maximum:
        message = f"{kind} above maximum value. Expected a value <= {maximum}, but got {value} instead."
        return ApiError(400, f"Invalid '{param}': {message}", param=param, code=f"{kind}_above_max_value")
    return None


def array_length(param: str, length: int, *, minimum: int, maximum: int | None) -> ApiError | None:
    """The error for an array with too few or too many items; None for one within the limits."""
    if length < minimum:
        message = f"empty array. Expected an array with minimum length {minimum}, but got an empty array instead."
        return ApiError(400, f"Invalid '{param}': {message}", param=param, code="empty_array")
    if maximum is not None and length > maximum:
        message = (
            f"array too long. Expected an array with maximum length {maximum}, "
            f"but got an array with length {length} instead."
        )
        return ApiError(400, f"Invalid '{param}': {message}", param=param, code="array_above_max_length")
    return None


def check_integer(param: str, value: object, *, minimum: int | None = None, maximum: int | None = None) -> int:
    """`value` as an integer in its range. Raises ApiError otherwise. A JSON true is no integer."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid_type(param, "an integer", value)
    if error := out_of_range(param, "integer", value, minimum=minimum, maximum=maximum):
        raise error
    return value


def check_string(param: str, value: object, *, maximum_length: int | None = None) -> str:
    if not isinstance(value, str):
        raise invalid_type(param, "a string", value)
    if maximum_length is not None and len(value) > maximum_length:
        message = (
            f"Invalid '{param}': string too long. Expected a string with maximum length {maximum_length}, "
            f"but got a string with length {len(value)} instead."
        )
        raise ApiError(400, message, param=param, code="string_above_max_length")
    return value


def json_type(value: object) -> str:
    """The JSON type of a Python value, with its article, as in OpenAI's messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def _enumerate(values: Sequence[str]) -> str:
    quoted = [f"'{value}'" for value in values]
    if len(quoted) < 3:
        return " and ".join(quoted)
    return ", ".join(quoted[:-1]) + f", and {quoted[-1]}"
