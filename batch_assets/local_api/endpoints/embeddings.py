"""`/v1/embeddings`: makes OpenAI's list of embeddings of a request body, with the built-in embedder.

Limits and defaults are OpenAI's. The error messages are those that its users report. Embeddings come from `embedder`,
also when another built-in engine answers chats.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any

from batch_assets.local_api.engines import embedder
from batch_assets.local_api.engines.engine import Engine
from batch_assets.local_api.engines.tokens import count_tokens
from batch_assets.local_api.wire import errors
from batch_assets.local_api.wire.errors import ApiError
from batch_assets.local_api.wire.parameter_table import Parameter, check_parameters, integer, string, unchecked
from batch_assets.local_api.wire.parameters import read_model, unrecognized_argument

_PARAMETERS = {
    "input": Parameter(unchecked),
    "model": Parameter(unchecked),
    "dimensions": Parameter(integer(minimum=1)),
    "encoding_format": Parameter(unchecked),
    "user": Parameter(string()),
}
_FORMATS = ("float", "base64")
_DEFAULT_DIMENSIONS = 1536
_DIMENSIONS = {"text-embedding-3-large": 3072}
_FIXED_MODEL = "text-embedding-ada-002"
MAXIMUM_INPUTS = 2048
_MAXIMUM_TOKENS = 8192  # of one input
_MAXIMUM_REQUEST_TOKENS = 300_000
_MAXIMUM_TOKEN_ID = 2**31 - 1

Input = str | Sequence[int]


def answer(_: Engine, body: object) -> dict[str, Any]:
    """The embeddings for a request body. Raises ApiError for a body that OpenAI would refuse."""
    if not isinstance(body, dict):
        raise errors.invalid_type("body", "an object", body)
    check_parameters(body, _PARAMETERS, unrecognized_argument)
    model = read_model(body)
    inputs = read_inputs(body.get("input"))
    encoding = body.get("encoding_format") or "float"
    if encoding not in _FORMATS:
        raise ApiError(400, f"'{encoding}' is not one of {list(_FORMATS)} - 'encoding_format'")
    size = _DIMENSIONS.get(model, _DEFAULT_DIMENSIONS)
    dimensions = _read_dimensions(body.get("dimensions"), model, size)
    tokens = _count_tokens(inputs)
    vectors = (_embed(item, dimensions, size) for item in inputs)
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _base64(vector) if encoding == "base64" else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def count_inputs(value: object) -> int:
    """The number of inputs in a body's `input`, as the limit of a batch counts them. An invalid input counts as 1."""
    return len(value) if isinstance(value, list) and not _is_tokens(value) else 1


def read_inputs(value: object) -> list[Input]:
    """The inputs: one or several strings, or one or several arrays of token ids. Raises ApiError."""
    if isinstance(value, str) or _is_tokens(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise _invalid_input()
    if len(value) > MAXIMUM_INPUTS:
        raise ApiError(400, f"Invalid 'input': array length must be {MAXIMUM_INPUTS} or less.", param="input")
    kinds = {type(item) for item in value}
    if not ((kinds == {str} and all(value)) or (kinds == {list} and all(map(_is_tokens, value)))):
        raise _invalid_input()
    return value


def _is_tokens(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(token) is int and 0 <= token <= _MAXIMUM_TOKEN_ID for token in value)
    )


def _invalid_input() -> ApiError:
    return ApiError(
        400, "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
    )


def _read_dimensions(dimensions: int | None, model: str, size: int) -> int:
    if dimensions is None:
        return size
    if model == _FIXED_MODEL:
        raise ApiError(400, "This model does not support specifying dimensions.")
    if dimensions > size:
        raise ApiError(400, f"Invalid value for 'dimensions' = {dimensions}. Must be less than or equal to {size}.")
    return dimensions


def _count_tokens(inputs: Sequence[Input]) -> int:
    """Raises ApiError when one input is too long, or all inputs together are."""
    total = 0
    for item in inputs:
        tokens = count_tokens(item) if isinstance(item, str) else len(item)
        if tokens > _MAXIMUM_TOKENS:
            raise ApiError(
                400,
                f"This model's maximum context length is {_MAXIMUM_TOKENS} tokens, however you requested {tokens} "
                f"tokens ({tokens} in your prompt; 0 for the completion). Please reduce your prompt; or completion "
                "length.",
            )
        total += tokens
    if total > _MAXIMUM_REQUEST_TOKENS:
        message = f"Requested {total} tokens, max {_MAXIMUM_REQUEST_TOKENS} tokens per request"
        raise ApiError(400, message, code="max_tokens_per_request", kind="max_tokens_per_request")
    return total


def _embed(item: Input, dimensions: int, size: int) -> list[float]:
    if isinstance(item, str):
        return embedder.embed_text(item, dimensions, size)
    return embedder.embed_tokens(item, dimensions, size)


def _base64(vector: list[float]) -> str:
    """32-bit floats, little-endian. The official SDKs ask for this format."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
