"""`/control/drills`: drills that are changed while the server runs. Only there when the server was told so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from batch_assets.local_api.faults import Rehearsal, read_drills
from batch_assets.local_api.http.json_response import JsonAnswer
from batch_assets.local_api.wire.errors import ApiError


def routes(rehearsal: Rehearsal, read_json: Callable[[Request], Awaitable[Any]]) -> list[Route]:
    """GET answers with the drills; PUT replaces them all, and what it doesn't name is off."""

    async def get(_: Request) -> Response:
        return JsonAnswer(rehearsal.as_json())

    async def put(request: Request) -> Response:
        try:
            drills = read_drills(await read_json(request))
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        rehearsal.change(drills)
        return JsonAnswer(rehearsal.as_json())

    return [Route("/control/drills", get), Route("/control/drills", put, methods=["PUT"])]
