"""What stands before Dagster's UI, which itself checks neither who asks nor from where, and executes mutations by GET.

Any page in the user's browser can send requests to 127.0.0.1. So a request is let in only if
* it names this machine: a page that lets its own name lead to 127.0.0.1 (DNS rebinding) is refused by the header Host;
* it comes from the UI itself: another site, another port of this machine included, is refused by the headers Origin and
  Sec-Fetch-Site, which browsers set and pages cannot change. A link to a page of the UI may be followed;
* it acts by a POST of JSON, which no image, link or form can send, and by nothing in its URL;
* it has the password, if there is one.

An ASGI middleware: plain functions of a request's headers, and no Dagster.
"""

import base64
import binascii
import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NAME = r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
HOST = re.compile(NAME)
ORIGIN = re.compile(rf"(?P<scheme>https?)://{NAME}")
USUAL_PORTS = {"http": 80, "https": 443}
GRAPHQL = "/graphql"
# Everything else that GET has is a page, or a file that belongs to the UI.
NOT_PAGES = re.compile(r"/(graphql|server_info|dagit|logs/|notebook|download_debug/|report_)")
REFUSED_WEBSOCKET = 1008  # "policy violation"


@dataclass(frozen=True)
class Refusal:
    """What is answered in place of Dagster."""

    status: int
    reason: str


class UiGate:
    """Lets requests through to `app`, or answers them with 4xx and a sentence."""

    def __init__(self, app: App, *, password: str | None, local_only: bool) -> None:
        """password: demanded by HTTP Basic authentication, with any user name. local_only: the Host must be local."""
        self._app = app
        self._password = password
        self._local_only = local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(_without_operation(scope), receive, _unframed(send))
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
            return Refusal(403, f"This UI is for this machine only, and is not to be reached as {host}.")
        if not _is_from_here(scope, host):
            return Refusal(403, "Another site may not use this UI. Its own pages may, and links to them.")
        if self._password is not None and not _has_password(_only(scope, b"authorization"), self._password):
            return Refusal(401, "The UI has a password: that in BATCH_ASSETS_UI_PASSWORD. Any user name will do.")
        return _refused_method(scope) if scope["type"] == "http" else None


def is_local(name: str) -> bool:
    """Whether a host name, or an address (IPv6: with or without brackets), means this machine, whatever DNS says."""
    name = name.lower().removesuffix(".").removeprefix("[").removesuffix("]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_from_here(scope: Scope, host: str) -> bool:
    """Whether it was sent by a page of the UI, by no page, or follows a link to one."""
    origins = _values(scope, b"origin")
    if len(origins) > 1 or (origins and not _is_same(origins[0], host)):
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


def _is_same(origin: str, host: str) -> bool:
    sender, receiver = ORIGIN.fullmatch(origin), HOST.fullmatch(host)
    if sender is None or receiver is None:  # `null`, for example
        return False
    usual = USUAL_PORTS[sender["scheme"]]
    return (sender["name"].lower(), int(sender["port"] or usual)) == (
        receiver["name"].lower(),
        int(receiver["port"] or usual),
    )


def _refused_method(scope: Scope) -> Refusal | None:
    if scope["method"] in ("GET", "HEAD"):
        return None
    if scope["method"] != "POST":
        return Refusal(405, "The UI is read by GET and acts by POST.")
    if scope["query_string"] and scope["path"] != GRAPHQL:
        return Refusal(400, "What a POST is to do belongs into its body, not into its URL.")
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
    """Dagster finds no operation in the URL of /graphql: not that of a GET, which shows the playground, nor of a POST.

    The UI itself puts a name there, `?op=…`, for readers of a log.
    """
    return {**scope, "query_string": b""} if scope["path"] == GRAPHQL else scope


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for found, value in scope["headers"] if found == name]


def _only(scope: Scope, name: bytes) -> str:
    """The value of a header that is there once; empty otherwise."""
    values = _values(scope, name)
    return values[0] if len(values) == 1 else ""


def _unframed(send: Send) -> Send:
    """No page of another site shows the UI in a frame, where a click could be led astray."""

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
