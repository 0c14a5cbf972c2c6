"""Access control before the application, and the headers of every response."""

from __future__ import annotations

import hmac
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batch_assets.local_api.http.local_names import is_local
from batch_assets.local_api.http.request_head import check_head
from batch_assets.local_api.http.responses import error_response
from batch_assets.local_api.page.access import is_page
from batch_assets.local_api.wire import ids
from batch_assets.local_api.wire.errors import ApiError

API_HEADER = "x-batch-assets-api"  # marks answers that no OpenAI model made: `local`, or `local+` and the engine's name
_HOST_OF_CONTAINER = "host.docker.internal"


class AccessMiddleware:
    """ASGI middleware.

    keys: a request must have one of them. Without any, every program on this machine may send requests. The web page
        checks its own requests (`page.access`).
    only_local: refuse requests of web pages in the user's browser: from another origin, or to another host name, which
        the page's site may have pointed to this machine (DNS rebinding).
    api_name: value of API_HEADER.
    """

    def __init__(
        self, app: ASGIApp, keys: Sequence[str], *, only_local: bool, api_name: str, maximum_head_bytes: int
    ) -> None:
        self._app = app
        self._keys = [key.encode(errors="surrogateescape") for key in keys]
        self._only_local = only_local
        self._api_name = api_name
        self._maximum_head_bytes = maximum_head_bytes

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
                headers[API_HEADER] = self._api_name
                headers["openai-processing-ms"] = str(round((time.monotonic() - began) * 1000))
            await send(message)

        try:
            self._check(scope)
        except ApiError as error:
            await error_response(error)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _check(self, scope: Scope) -> None:
        check_head(len(scope["raw_path"]) + len(scope["query_string"]), scope["headers"], self._maximum_head_bytes)
        headers = Headers(scope=scope)
        if self._only_local:
            _check_local(headers)
        if self._keys and scope["path"] != "/healthz" and not is_page(scope["path"]):
            _check_key(headers, self._keys)


def _check_key(headers: Headers, keys: Sequence[bytes]) -> None:
    """Raises OpenAI's 401s. The message repeats no part of the client's key."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        message = (
            "You didn't provide an API key. You need to provide your API key in an Authorization header "
            "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
        )
        raise ApiError(401, message)
    sent = key.strip().encode()
    if not any(hmac.compare_digest(sent, right) for right in keys):
        raise ApiError(401, "Incorrect API key provided.", param=None, code="invalid_api_key")


def _check_local(headers: Headers) -> None:
    """Raises a 403.

    Starlette's TrustedHostMiddleware checks no Origin, knows no range of addresses (127.0.0.0/8), and responds with a
    plain text that OpenAI's clients do not read as an error.
    """
    origin = headers.get("origin")
    if not _is_local("//" + headers.get("host", "")) or (origin is not None and not _is_local(origin)):
        message = (
            "The local Batch API answers only requests to localhost that come from no other site. "
            "Set BATCH_ASSETS_SERVE_KEY to a key of yours to let others in."
        )
        raise ApiError(403, message)


def _is_local(url: str) -> bool:
    """Whether the host in the URL is this machine, or a container's name for it. False for an invalid URL."""
    try:
        name = urlsplit(url).hostname
    except ValueError:
        return False
    return name is not None and (name == _HOST_OF_CONTAINER or is_local(name))
