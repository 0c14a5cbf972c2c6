"""`/v1/models`: the server stands in for every model, so each name is found; a few are listed."""

from __future__ import annotations

from typing import Any

from batch_assets.local_api.engine_choice import Engines

_LISTED = ("gpt-4.1-mini", "gpt-4o-mini", "gpt-5-mini", "gpt-5-nano", "gpt-5.6-luna", "gpt-6-luna")
# Any fixed time will do: nothing was created.
_CREATED = 1_700_000_000


def model_object(model_id: str) -> dict[str, Any]:
    return {"id": model_id, "object": "model", "created": _CREATED, "owned_by": "batch-assets"}


def list_models(engines: Engines) -> dict[str, Any]:
    names = [*(_LISTED if engines.stands_in else ()), *engines.model_ids()]
    return {"object": "list", "data": [model_object(name) for name in names]}
