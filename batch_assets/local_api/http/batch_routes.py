"""`/v1/batches`. The first four functions do what a route does, for the web page too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from batch_assets.local_api.batches import batches
from batch_assets.local_api.batches.batch_row import BatchStatus, batch_object
from batch_assets.local_api.http.handlers import Api, api_of, read_json, respond, response_to_creation

_RUNNING = (BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.CANCELLING)


def create_batch(api: Api, body: object) -> dict[str, Any]:
    batch = batches.create_batch(api.store, api.settings, body)
    api.executor.submit(batch["id"])
    return batch


def list_batches(api: Api, query: Mapping[str, str]) -> dict[str, Any]:
    page = batches.list_batches(api.store, api.settings, query)
    for batch in page["data"]:
        _update_counts(api, batch)
    return page


def get_batch(api: Api, batch_id: str) -> dict[str, Any]:
    return _update_counts(api, batch_object(batches.find_batch(api.store, batch_id)))


def cancel_batch(api: Api, batch_id: str) -> dict[str, Any]:
    batch = batches.cancel_batch(api.store, batch_id)
    api.executor.cancel(batch["id"])
    return _update_counts(api, batch)


async def _create_batch(request: Request) -> Response:
    api = api_of(request)
    body = await read_json(request)
    return response_to_creation(api, "create", await run_in_threadpool(create_batch, api, body))


async def _list_batches(request: Request) -> Response:
    return await respond(list_batches, api_of(request), request.query_params)


async def _get_batch(request: Request) -> Response:
    return await respond(get_batch, api_of(request), request.path_params["batch_id"])


async def _cancel_batch(request: Request) -> Response:
    return await respond(cancel_batch, api_of(request), request.path_params["batch_id"])


def _update_counts(api: Api, batch: dict[str, Any]) -> dict[str, Any]:
    """Replace the counts of a batch that runs. Those in the database are updated from time to time only."""
    if batch["status"] in _RUNNING:
        progress = api.executor.progress(batch["id"])
        if progress is not None:
            batch["request_counts"] |= {"completed": progress.completed, "failed": progress.failed}
    return batch


ROUTES = [
    Route("/v1/batches", _create_batch, methods=["POST"]),
    Route("/v1/batches", _list_batches),
    Route("/v1/batches/{batch_id}", _get_batch),
    Route("/v1/batches/{batch_id}/cancel", _cancel_batch, methods=["POST"]),
]
