"""The endpoints that answer a request, directly or as a line of a batch: one table for both."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from batch_assets.local_api.endpoints import chat, embeddings, models, responses
from batch_assets.local_api.engines.engine import Engine
from batch_assets.local_api.engines.engine_choice import Engines, Forwarder

Endpoint = Callable[[Engine, object], dict[str, Any]]
"""Makes OpenAI's response object of a request body. Raises ApiError for a body that OpenAI would refuse."""

ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": chat.answer,
    "/v1/embeddings": embeddings.answer,
    "/v1/responses": responses.answer,
}


def answer(engines: Engines, endpoint: str, body: object, *, stop: threading.Event, attempts: int) -> dict[str, Any]:
    """OpenAI's response object for a request body. Raises ApiError for a body that OpenAI would refuse.

    stop, attempts: for an engine on another server. Raises EngineUnavailableError when that takes no requests now.
    """
    engine = engines.choose(body)
    if isinstance(engine, Forwarder):
        return engine.forward(endpoint, body, stop=stop, attempts=attempts)
    if isinstance(body, dict):
        models.check_model(body.get("model"), endpoint)
    return ENDPOINTS[endpoint](engine, body)
