"""JSON answers over HTTP."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from batch_assets.local_api import strict_json
from batch_assets.local_api.errors import ApiError


class JsonAnswer(JSONResponse):
    """ASCII, with escapes: a client's text may hold half a surrogate pair, which UTF-8 has no bytes for."""

    def render(self, content: Any) -> bytes:
        return strict_json.dumps(content)


def error_answer(error: ApiError) -> JsonAnswer:
    return JsonAnswer(error.body(), status_code=error.status)
