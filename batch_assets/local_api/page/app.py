"""The routes of the web page, its errors as pages, and the headers of all its responses."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batch_assets.local_api.http.handlers import Api
from batch_assets.local_api.page import batch_pages, file_pages, sign_in
from batch_assets.local_api.page.access import PageAccess, SessionMiddleware
from batch_assets.local_api.page.rendering import error_page
from batch_assets.local_api.storage.disk_errors import storage_error
from batch_assets.local_api.wire.errors import ApiError, server_error

logger = logging.getLogger(__name__)

_STATIC = Path(__file__).parent / "static"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Not `no-referrer`: with it, browsers send `Origin: null` with forms.
    "referrer-policy": "same-origin",
}


def create_page(api: Api, access: PageAccess) -> ASGIApp:
    """The application for all paths below `access.PREFIX`. It checks access itself."""
    pages = [*batch_pages.ROUTES, *file_pages.ROUTES]
    app = Starlette(
        routes=[
            *sign_in.ROUTES,
            Mount("/static", StaticFiles(directory=_STATIC)),
            Mount("/{folder}", routes=pages, middleware=[Middleware(SessionMiddleware, access=access)]),
        ],
        exception_handlers=_ERROR_HANDLERS,
    )
    app.router.redirect_slashes = False
    app.state.api = api
    app.state.access = access
    return _HeadersMiddleware(app)  # outside of the application, whose page of an unexpected error has them, too


class _HeadersMiddleware:
    """Adds the headers of all responses. Caches store no page, and ask again before they use a script or a style."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_static = "/static/" in scope["path"]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers["cache-control"] = "no-cache" if is_static else "no-store"
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_page(request, error)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = "There is no such page." if error.status_code == 404 else f"{error.detail}."
    return error_page(request, ApiError(error.status_code, message))


def _on_disconnect(_: Request, error: Exception) -> Response:
    return Response(status_code=499)


def _on_storage_error(request: Request, error: Exception) -> Response:
    logger.error("A request of the web page failed.", exc_info=error)
    return error_page(request, storage_error(error))


def _on_error(request: Request, error: Exception) -> Response:
    return error_page(request, server_error())


_ERROR_HANDLERS: Mapping[Any, Callable[[Request, Exception], Response]] = {
    ApiError: _on_api_error,
    HTTPException: _on_http_error,
    ClientDisconnect: _on_disconnect,
    OSError: _on_storage_error,
    sqlite3.Error: _on_storage_error,
    Exception: _on_error,
}
