"""Token counts of responses, under the names of a batch's usage. Other servers may leave out some, or all."""

from __future__ import annotations

from typing import Any, NamedTuple


class Usage(NamedTuple):
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0


def read_usage(body: dict[str, Any]) -> Usage:
    """The counts of a response body. Endpoints name them differently. A count that is missing is 0."""
    usage = _object(body.get("usage"))
    input_tokens = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    output_tokens = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    input_details = _object(usage.get("prompt_tokens_details", usage.get("input_tokens_details")))
    output_details = _object(usage.get("completion_tokens_details", usage.get("output_tokens_details")))
    return Usage(
        input_tokens,
        _count(input_details.get("cached_tokens")),
        output_tokens,
        _count(output_details.get("reasoning_tokens")),
        _count(usage.get("total_tokens")) or input_tokens + output_tokens,
    )


def no_usage() -> dict[str, Any]:
    """A batch's usage object, which `add_usage` adds to."""
    return {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    }


def add_usage(total: dict[str, Any], usage: Usage) -> None:
    total["input_tokens"] += usage.input_tokens
    total["input_tokens_details"]["cached_tokens"] += usage.cached_tokens
    total["output_tokens"] += usage.output_tokens
    total["output_tokens_details"]["reasoning_tokens"] += usage.reasoning_tokens
    total["total_tokens"] += usage.total_tokens


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    return value if type(value) is int else 0
