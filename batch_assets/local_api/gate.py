"""The gate before the application: who may come in, and the headers that every answer bears."""

from __future__ import annotations

import hmac
import ipaddress
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batch_assets.local_api import ids
from batch_assets.local_api.answers import error_answer
from batch_assets.local_api.errors import ApiError

_LOCAL_NAMES = ("localhost", "host.docker.internal")


class Gate:
    """ASGI middleware.

    With a key, requests must bear it. Without one the server listens on loopback only, and there a
    web page in the user's own browser is the stranger: what a browser sends on behalf of another site,
    or to a name that this site made point here, is refused.
    """

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app = app
        self._api_key = api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = ids.new_request_id()
                headers["openai-version"] = "2020-10-01"
                headers["openai-processing-ms"] = str(round((time.monotonic() - began) * 1000))
            await send(message)

        try:
            self._check(scope)
        except ApiError as error:
            await error_answer(error)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._api_key is None:
            _check_local(headers)
        elif scope["path"] != "/healthz":
            _check_key(headers, self._api_key)


def _check_key(headers: Headers, api_key: str) -> None:
    """OpenAI's 401s; the key that was tried is not repeated, not even in part."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        message = (
            "You didn't provide an API key. You need to provide your API key in an Authorization header "
            "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
        )
        raise ApiError(401, message)
    if not hmac.compare_digest(key.strip().encode(), api_key.encode()):
        raise ApiError(401, "Incorrect API key provided.", param=None, code="invalid_api_key")


def _check_local(headers: Headers) -> None:
    origin = headers.get("origin")
    if not _is_local(urlsplit("//" + headers.get("host", "")).hostname) or (
        origin is not None and not _is_local(urlsplit(origin).hostname)
    ):
        message = (
            "Without an API key, the local Batch API answers only requests to localhost that come from no "
            "other site. Set BATCH_ASSETS_SERVE_KEY to let others in."
        )
        raise ApiError(403, message)


def _is_local(name: str | None) -> bool:
    if name is None:
        return False
    if name in _LOCAL_NAMES or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
