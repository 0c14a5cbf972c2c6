"""The limit of enqueued tokens: the prompts of a model's batches in progress may not come to more.

As at OpenAI, the creation of a batch above the limit succeeds, and the batch fails a moment later. It does not wait
until there are fewer enqueued tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from batch_assets.local_api.batches import batches
from batch_assets.local_api.batches.line_checks import Problem, problem
from batch_assets.local_api.batches.validation import ValidationResult
from batch_assets.local_api.engines.tokens import count_tokens
from batch_assets.local_api.settings import Settings
from batch_assets.local_api.storage.database import Store
from batch_assets.local_api.wire import strict_json

_NO_TEXT = ("role", "type", "image_url")
_PROMPT_PARAMETERS = ("messages", "instructions", "input", "prompt")  # of all endpoints


def start_batch(store: Store, settings: Settings, batch_id: str, result: ValidationResult) -> list[Problem]:
    """validating → in_progress, and no problems. Above the limit: the problem, and the batch stays as it is."""
    limit = settings.fault_injector.faults.token_limit
    if not limit:
        batches.move_to_in_progress(store, batch_id, total=result.total, model=result.model)
        return []
    with settings.fault_injector.token_limit_lock:
        tokens = enqueued_tokens(settings.input_path(batch_id))
        for other in batches.batches_in_progress(store, result.model):
            try:
                tokens += enqueued_tokens(settings.input_path(other))
            except FileNotFoundError:  # the other batch has ended meanwhile
                continue
        if tokens > limit:
            return [_limit_reached(result.model, limit)]
        batches.move_to_in_progress(store, batch_id, total=result.total, model=result.model)
        return []


def _limit_reached(model: str, limit: int) -> Problem:
    """[openai-python#2084]"""
    message = (
        f"Enqueued token limit reached for {model} in organization org-local. Limit: {limit:,} enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    )
    return problem("token_limit_exceeded", message)


@lru_cache(maxsize=4096)
def enqueued_tokens(path: Path) -> int:
    """Prompt tokens of a valid request file, as the extractive engine counts them. The file at a path never changes."""
    with path.open("rb") as file:
        return sum(
            count_tokens(text)
            for line in file
            for name in _PROMPT_PARAMETERS
            for text in _texts(strict_json.loads(line)["body"].get(name))
        )


def _texts(value: Any) -> Iterator[str]:
    """All strings in a value, but for roles, types and images. Without recursion: JSON may be nested deeply."""
    pending = [value]
    while pending:
        match pending.pop():
            case str(text):
                yield text
            case list(items):
                pending.extend(items)
            case dict(members):
                pending.extend(member for name, member in members.items() if name not in _NO_TEXT)
