"""Exceptions of handlers, turned into OpenAI's errors."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from batch_assets.local_api.http.responses import error_response
from batch_assets.local_api.storage.disk_errors import storage_error
from batch_assets.local_api.wire.errors import ApiError, server_error

logger = logging.getLogger(__name__)


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors, with OpenAI's messages."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        api_error = ApiError(404, f"Invalid URL ({request.method} {request.url.path})")
    elif error.status_code == 405:
        message = (
            f"Not allowed to {request.method} on {request.url.path}. "
            "(HINT: Perhaps you meant to use a different HTTP method?)"
        )
        api_error = ApiError(405, message, code="method_not_supported")
    else:
        api_error = ApiError(error.status_code, error.detail)
    return error_response(api_error)


async def _on_disconnect(_: Request, error: Exception) -> Response:
    """The client has closed the connection. Without this handler, the log would have a traceback."""
    return Response(status_code=499)


async def _on_storage_error(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed.", request.method, request.url.path, exc_info=error)
    return error_response(storage_error(error))


async def _on_error(_: Request, error: Exception) -> Response:
    return error_response(server_error())


HANDLERS: Mapping[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    ApiError: _on_api_error,
    HTTPException: _on_http_error,
    ClientDisconnect: _on_disconnect,
    OSError: _on_storage_error,
    sqlite3.Error: _on_storage_error,
    Exception: _on_error,
}
