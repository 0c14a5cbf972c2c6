"""Access to Dagster's UI. Dagster itself does not check who sends a request, and executes mutations by GET.

Any page in the user's browser can send requests to 127.0.0.1. So a request is accepted only if
* its header Host names this machine. This refuses a page whose own name resolves to 127.0.0.1 (DNS rebinding);
* the UI itself sends it. The headers Origin and Sec-Fetch-Site, which browsers set and pages cannot change, show
  another site or another port of this machine. Links from there to a page of the UI are accepted;
* a change is a POST of JSON, which no image, link or form can send, and the URL holds no part of it;
* it has the password, if there is one.

An ASGI middleware: plain functions of a request's headers, and no Dagster.
"""

import base64
import binascii
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from batch_assets.local_api.http.local_names import is_local
from batch_assets.local_api.http.same_origin import HOST, is_same_origin

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

GRAPHQL = "/graphql"
# Every other path is a page, or a file of the UI.
NOT_PAGES = re.compile(r"/(graphql|server_info|dagit|logs/|notebook|download_debug/|report_)")
REFUSED_WEBSOCKET = 1008  # "policy violation"


@dataclass(frozen=True)
class Refusal:
    """The answer to a request that does not reach Dagster."""

    status: int
    reason: str


class UiAccessMiddleware:
    """Passes requests on to `app`, or answers them with 4xx and a sentence."""

    def __init__(self, app: App, *, password: str | None, local_only: bool) -> None:
        """password: asked for by HTTP Basic authentication, with any user name. local_only: the Host must be local."""
        self._app = app
        self._password = password
        self._local_only = local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(_without_operation(scope), receive, _with_frame_options(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": REFUSED_WEBSOCKET, "reason": refusal.reason})
        else:
            await _answer(refusal, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        host = _only(scope, b"host")
        parts = HOST.fullmatch(host)
        if parts is None:
            return Refusal(400, "The request needs one header Host, which names this server.")
        if self._local_only and not is_local(parts["name"]):
            return Refusal(403, f"This UI is for this machine only, and not for requests to {host}.")
        if not _is_same_site(scope, host):
            return Refusal(403, "Another site may not use this UI. Only its own pages, and links to them, may.")
        if self._password is not None and not _has_password(_only(scope, b"authorization"), self._password):
            return Refusal(401, "The UI asks for the password in BATCH_ASSETS_UI_PASSWORD. Any user name is accepted.")
        return _refused_method(scope) if scope["type"] == "http" else None


def _is_same_site(scope: Scope, host: str) -> bool:
    """Whether a page of the UI or no page sent the request, or it follows a link to a page of the UI."""
    origins = _values(scope, b"origin")
    if len(origins) > 1 or (origins and not is_same_origin(origins[0], host)):
        return False
    if all(site in ("same-origin", "none") for site in _values(scope, b"sec-fetch-site")):
        return True
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and not origins
        and _values(scope, b"sec-fetch-mode") == ["navigate"]
        and _values(scope, b"sec-fetch-dest") == ["document"]  # not in a frame
        and NOT_PAGES.match(scope["path"]) is None
    )


def _refused_method(scope: Scope) -> Refusal | None:
    if scope["method"] in ("GET", "HEAD"):
        return None
    if scope["method"] != "POST":
        return Refusal(405, "The UI accepts GET and POST only.")
    if scope["query_string"] and scope["path"] != GRAPHQL:
        return Refusal(400, "A POST must have its parameters in its body, not in its URL.")
    if _only(scope, b"content-type").partition(";")[0].strip().lower() != "application/json":
        return Refusal(415, "The body of a POST must be JSON, with the header Content-Type: application/json.")
    return None


def _has_password(authorization: str, password: str) -> bool:
    scheme, _, encoded = authorization.partition(" ")
    try:
        _, _, given = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return False
    return scheme.lower() == "basic" and secrets.compare_digest(given, password.encode())


def _without_operation(scope: Scope) -> Scope:
    """Remove the query from the URL of /graphql, so that Dagster executes no operation from it, by GET or by POST.

    The UI itself puts only a name there, `?op=…`, for logs.
    """
    return {**scope, "query_string": b""} if scope["path"] == GRAPHQL else scope


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for found, value in scope["headers"] if found == name]


def _only(scope: Scope, name: bytes) -> str:
    """The value of a header that the request has once; empty otherwise."""
    values = _values(scope, name)
    return values[0] if len(values) == 1 else ""


def _with_frame_options(send: Send) -> Send:
    """Let no page of another site show the UI in a frame, where it could trick the user into a click."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-frame-options", b"SAMEORIGIN")]}
        await send(message)

    return sending


async def _answer(refusal: Refusal, send: Send) -> None:
    body = f"{refusal.reason}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b'Basic realm="batch_assets", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
