"""`/v1/models`, and which names of models the server accepts: every name that a model may have.

It refuses a name of more than 256 characters, or with spaces or other characters that no model's name has. It also
refuses a model of the wrong kind for an endpoint, which it recognizes by OpenAI's names.
"""

from __future__ import annotations

import re
from typing import Any

from batch_assets.local_api.engines.engine_choice import Engines
from batch_assets.local_api.wire.errors import ApiError

_LISTED = (
    "gpt-4.1-mini",
    "gpt-4o-mini",
    "gpt-5-mini",
    "gpt-5-nano",
    "gpt-5.6-luna",
    "gpt-6-luna",
    "text-embedding-3-large",
    "text-embedding-3-small",
)
# Any fixed time: no model was created.
_CREATED = 1_700_000_000
# Also `org/name`, `name:tag` and fine-tuned models' `ft:gpt-4.1:acme::id`.
_NAME = re.compile(r"[\w.:/@+-]{1,256}")
_EMBEDDING_NAME = re.compile(r"text-embedding-", re.ASCII)
_CHAT_NAME = re.compile(r"(chat)?gpt-|o[1-9](-|$)", re.ASCII)


def model_object(model_id: str) -> dict[str, Any]:
    if _NAME.fullmatch(model_id) is None:
        raise ApiError(404, f"The model '{model_id}' does not exist", param="model", code="model_not_found")
    return {"id": model_id, "object": "model", "created": _CREATED, "owned_by": "batch-assets"}


def list_models(engines: Engines) -> dict[str, Any]:
    names = [*(_LISTED if engines.accepts_any_model else ()), *engines.model_ids()]
    return {"object": "list", "data": [model_object(name) for name in names]}


def is_usable(model: str, endpoint: str) -> bool:
    """Whether the server accepts a model of this name at this endpoint."""
    wrong_kind = _CHAT_NAME if endpoint == "/v1/embeddings" else _EMBEDDING_NAME
    return _NAME.fullmatch(model) is not None and wrong_kind.match(model) is None


def check_model(model: object, endpoint: str) -> None:
    """Raises OpenAI's 404 for a name that is not usable. The endpoint itself refuses a value that is no name."""
    if isinstance(model, str) and model and not is_usable(model, endpoint):
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise ApiError(404, message, code="model_not_found")
