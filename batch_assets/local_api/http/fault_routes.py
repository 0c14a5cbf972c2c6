"""`/control/faults`: clients read and change the faults of a running server. Only with the option `control`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from batch_assets.local_api.faults import read_fault_config
from batch_assets.local_api.http.handlers import api_of, read_json
from batch_assets.local_api.http.responses import JsonResponse
from batch_assets.local_api.wire.errors import ApiError


async def _get_faults(request: Request) -> Response:
    return JsonResponse(api_of(request).settings.fault_injector.as_json())


async def _put_faults(request: Request) -> Response:
    """Replace all faults. A fault that the body doesn't name is off."""
    fault_injector = api_of(request).settings.fault_injector
    try:
        faults = read_fault_config(await read_json(request))
    except ValueError as error:
        raise ApiError(400, str(error)) from error
    fault_injector.change(faults)
    return JsonResponse(fault_injector.as_json())


ROUTES = [Route("/control/faults", _get_faults), Route("/control/faults", _put_faults, methods=["PUT"])]
