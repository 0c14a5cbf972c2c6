"""The kinds of HTTP responses."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from batch_assets.local_api.wire import strict_json
from batch_assets.local_api.wire.errors import ApiError


class JsonResponse(JSONResponse):
    """ASCII with escapes, since a client's text may hold half of a surrogate pair, which UTF-8 can't encode."""

    def render(self, content: Any) -> bytes:
        return strict_json.dumps(content)


class TruncatedResponse(Response):
    """Announces a body of one byte, and sends none, so that the server closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})


def error_response(error: ApiError) -> JsonResponse:
    return JsonResponse(error.body(), status_code=error.status)
