"""The endpoints that answer a request, directly or as a line of a batch: one table for both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batch_assets.local_api import chat
from batch_assets.local_api.engines import Engine

Answer = Callable[[Engine, object], dict[str, Any]]

ANSWERS: dict[str, Answer] = {"/v1/chat/completions": chat.answer}


def answer(engine: Engine, endpoint: str, body: object) -> dict[str, Any]:
    """OpenAI's object for a request body; raises ApiError for one that OpenAI would refuse."""
    return ANSWERS[endpoint](engine, body)
