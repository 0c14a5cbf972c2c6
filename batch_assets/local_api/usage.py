"""Token counts of answers, under the names of a batch's usage. Other servers leave out some, or all."""

from __future__ import annotations

from typing import Any


def no_usage() -> dict[str, Any]:
    return {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    }


def add_usage(total: dict[str, Any], body: dict[str, Any]) -> None:
    """Add an answer's counts, which a chat completion and a response name differently; what is missing counts as 0."""
    usage = _object(body, "usage")
    given = _count(usage, "prompt_tokens", "input_tokens")
    made = _count(usage, "completion_tokens", "output_tokens")
    given_details = _object(usage, "prompt_tokens_details", "input_tokens_details")
    made_details = _object(usage, "completion_tokens_details", "output_tokens_details")
    total["input_tokens"] += given
    total["input_tokens_details"]["cached_tokens"] += _count(given_details, "cached_tokens")
    total["output_tokens"] += made
    total["output_tokens_details"]["reasoning_tokens"] += _count(made_details, "reasoning_tokens")
    total["total_tokens"] += _count(usage, "total_tokens") or given + made


def _object(parent: dict[str, Any], *names: str) -> dict[str, Any]:
    return next((value for name in names if isinstance(value := parent.get(name), dict)), {})


def _count(parent: dict[str, Any], *names: str) -> int:
    return next((value for name in names if type(value := parent.get(name)) is int), 0)
