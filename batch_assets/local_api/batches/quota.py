"""The limit of enqueued tokens: the prompts of a model's batches in progress may not come to more.

As at OpenAI, a batch that finds no room is taken, and fails a moment later; nothing is queued for anybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from batch_assets.local_api.batches import batches
from batch_assets.local_api.batches.lines import Problem, problem
from batch_assets.local_api.batches.validation import ValidationResult
from batch_assets.local_api.engines.tokens import count_tokens
from batch_assets.local_api.settings import Settings
from batch_assets.local_api.storage.database import Store
from batch_assets.local_api.wire import strict_json

_PROMPTS = ("messages", "instructions", "input", "prompt")  # of a body, whichever its endpoint


def begin(store: Store, settings: Settings, batch_id: str, result: ValidationResult) -> list[Problem]:
    """validating → in_progress, and nothing; or why there is no room for the batch, which stays as it is."""
    limit = settings.fault_injector.faults.token_limit
    if not limit:
        batches.move_to_in_progress(store, batch_id, total=result.total, model=result.model)
        return []
    with settings.fault_injector.admission:
        tokens = enqueued_tokens(settings.work_directory / batch_id / "input.jsonl")
        for other in batches.in_progress(store, result.model):
            try:
                tokens += enqueued_tokens(settings.work_directory / other / "input.jsonl")
            except FileNotFoundError:  # has ended meanwhile
                continue
        if tokens > limit:
            return [_no_room(result.model, limit)]
        batches.move_to_in_progress(store, batch_id, total=result.total, model=result.model)
        return []


def _no_room(model: str, limit: int) -> Problem:
    """[openai-python#2084]"""
    message = (
        f"Enqueued token limit reached for {model} in organization org-local. Limit: {limit:,} enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    )
    return problem("token_limit_exceeded", message)


@lru_cache(maxsize=4096)
def enqueued_tokens(path: Path) -> int:
    """Prompt tokens of a valid request file, which doesn't change under its path; by the extractive engine's count."""
    with path.open("rb") as file:
        return sum(
            count_tokens(text)
            for line in file
            for name in _PROMPTS
            for text in _texts(strict_json.loads(line)["body"].get(name))
        )


def _texts(value: Any) -> Iterator[str]:
    """All strings in it, apart from such as say what something is. Without recursion: JSON may be nested deeply."""
    left = [value]
    while left:
        match left.pop():
            case str(text):
                yield text
            case list(items):
                left.extend(items)
            case dict(members):
                left.extend(member for name, member in members.items() if name not in ("role", "type"))
