"""`/control/faults`: faults that are changed while the server runs. Only there when the server was told so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from batch_assets.local_api.faults import FaultInjector, read_fault_config
from batch_assets.local_api.http.json_response import JsonResponse
from batch_assets.local_api.wire.errors import ApiError


def routes(fault_injector: FaultInjector, read_json: Callable[[Request], Awaitable[Any]]) -> list[Route]:
    """GET answers with the faults; PUT replaces them all, and what it doesn't name is off."""

    async def get(_: Request) -> Response:
        return JsonResponse(fault_injector.as_json())

    async def put(request: Request) -> Response:
        try:
            faults = read_fault_config(await read_json(request))
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        fault_injector.change(faults)
        return JsonResponse(fault_injector.as_json())

    return [Route("/control/faults", get), Route("/control/faults", put, methods=["PUT"])]
