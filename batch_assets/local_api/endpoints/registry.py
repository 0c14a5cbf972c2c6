"""The endpoints that answer a request, directly or as a line of a batch: one table for both."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from batch_assets.local_api.endpoints import chat, completions, embeddings, models, moderations, responses
from batch_assets.local_api.engines.engine import Engine
from batch_assets.local_api.engines.engine_choice import Engines, Forwarder


class Endpoint(NamedTuple):
    """answer: makes OpenAI's response object of a request body. Raises ApiError for a body that OpenAI would refuse.

    title: the endpoint's name in OpenAI's refusal to stream.
    required: what a body in a batch must have besides the model: one of these. The error names the first.
    """

    answer: Callable[[Engine, object], dict[str, Any]]
    title: str
    required: tuple[str, ...]


ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": Endpoint(chat.answer, "Chat Completions", ("messages",)),
    "/v1/completions": Endpoint(completions.answer, "Completions", ("prompt",)),
    "/v1/embeddings": Endpoint(embeddings.answer, "Embeddings", ("input",)),
    "/v1/moderations": Endpoint(moderations.answer, "Moderations", ("input",)),
    # OpenAI takes the input of a stored object in place of `input`.
    "/v1/responses": Endpoint(
        responses.answer, "Responses", ("input", "prompt", "previous_response_id", "conversation")
    ),
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
    return ENDPOINTS[endpoint].answer(engine, body)
