"""What the handlers of all routes have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from batch_assets.local_api.batches.execution import Executor
from batch_assets.local_api.http.responses import JsonResponse, TruncatedResponse, error_response
from batch_assets.local_api.settings import Settings
from batch_assets.local_api.storage.database import Store
from batch_assets.local_api.wire import strict_json
from batch_assets.local_api.wire.errors import ApiError, server_error

_MAXIMUM_JSON_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Api:
    """The parts of a server. instance: a new id at every start."""

    settings: Settings
    store: Store
    executor: Executor
    instance: str


def api_of(request: Request) -> Api:
    api: Api = request.app.state.api
    return api


async def respond(work: Callable[..., dict[str, Any]], *arguments: Any) -> JsonResponse:
    """The result of the work, which runs in a thread: it waits for the disk, and the event loop must not."""
    return JsonResponse(await run_in_threadpool(work, *arguments))


async def read_json(request: Request) -> Any:
    """The JSON body. A body that is too large is read to its end, so that the client reads the error."""
    body = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= _MAXIMUM_JSON_BYTES:
            body += chunk
    if size > _MAXIMUM_JSON_BYTES:
        raise ApiError(413, f"The request body is larger than the {_MAXIMUM_JSON_BYTES} bytes maximum.")
    try:
        return await run_in_threadpool(strict_json.loads, bytes(body))
    except ValueError as error:
        message = (
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using "
            "your HTTP library correctly. The API expects a JSON payload, but what was sent was not valid JSON.)"
        )
        raise ApiError(400, message) from error


def response_to_creation(api: Api, action: Literal["upload", "create"], created: dict[str, Any]) -> Response:
    """The response to a creation, unless a fault replaces it."""
    if api.settings.fault_injector.claim(f"cut_{action}", created["id"]):
        return TruncatedResponse()
    if api.settings.fault_injector.claim(f"error_{action}", created["id"]):
        return error_response(server_error())
    return JsonResponse(created)
