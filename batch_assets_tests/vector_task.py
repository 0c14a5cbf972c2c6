"""A task whose answers are vectors."""

from typing import Any

from batch_assets.batching.planning.task import Task


def vector_task(**fields: Any) -> Task:
    """fields: those that differ."""
    given: dict[str, Any] = {
        "model": "text-embedding-3-small",
        "system_prompt": "",
        "max_output_tokens": 0,
        "endpoint": "/v1/embeddings",
        "answer_column": "embedding",
    }
    return Task(**{**given, **fields})
