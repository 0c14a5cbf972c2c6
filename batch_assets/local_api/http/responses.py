"""JSON answers over HTTP."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from batch_assets.local_api.wire import strict_json
from batch_assets.local_api.wire.errors import ApiError


class JsonResponse(JSONResponse):
    """ASCII, with escapes: a client's text may hold half a surrogate pair, which UTF-8 has no bytes for."""

    def render(self, content: Any) -> bytes:
        return strict_json.dumps(content)


class CutAnswer(Response):
    """Promises a byte that never comes: a server can only close the connection then."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})


def error_answer(error: ApiError) -> JsonResponse:
    return JsonResponse(error.body(), status_code=error.status)
