"""`/v1/models`, and requests outside of any batch: `/v1/chat/completions`, `/v1/responses`, `/v1/embeddings`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from batch_assets.local_api.endpoints import models, registry
from batch_assets.local_api.http.handlers import api_of, read_json, respond
from batch_assets.local_api.http.responses import JsonResponse
from batch_assets.local_api.wire.errors import ApiError


async def _list_models(request: Request) -> Response:
    return await respond(models.list_models, api_of(request).executor.engines)


async def _get_model(request: Request) -> Response:
    return JsonResponse(models.model_object(request.path_params["model_id"]))


async def _execute(request: Request) -> Response:
    """A request outside of any batch. Its path is one of `registry.ENDPOINTS`."""
    body = await read_json(request)
    return await respond(api_of(request).executor.execute_directly, request.url.path, body)


async def _no_response(request: Request) -> Response:
    """The server stores no responses."""
    raise ApiError(404, f"Response with id '{request.path_params['response_id']}' not found.")


ROUTES = [
    Route("/v1/models", _list_models),
    Route("/v1/models/{model_id:path}", _get_model),
    *(Route(endpoint, _execute, methods=["POST"]) for endpoint in registry.ENDPOINTS),
    Route("/v1/responses/{response_id}", _no_response, methods=["GET", "DELETE"]),
]
