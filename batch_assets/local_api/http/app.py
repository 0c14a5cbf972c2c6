"""The HTTP side: routes, request bodies, error bodies, and who may come in.

Paths, objects and errors are OpenAI's, with additions of ours: `GET /healthz` says "ok" and which instance answers;
`GET /stats` counts what was done, for tests; `GET /openapi.json` describes the server; `/control/faults`, when it is
wanted, changes what goes wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from batch_assets.local_api.batches import batches
from batch_assets.local_api.batches.execution import Executor
from batch_assets.local_api.endpoints import models, registry
from batch_assets.local_api.http import fault_control
from batch_assets.local_api.http.json_response import CutAnswer, JsonResponse, error_answer
from batch_assets.local_api.http.uploads import receive_upload
from batch_assets.local_api.serving.discovery import INSTANCE_HEADER
from batch_assets.local_api.settings import Settings
from batch_assets.local_api.storage import files
from batch_assets.local_api.storage.database import Store, read_counter
from batch_assets.local_api.storage.disk_errors import storage_error
from batch_assets.local_api.wire import strict_json
from batch_assets.local_api.wire.errors import ApiError, server_error

logger = logging.getLogger(__name__)


_MAXIMUM_JSON_BYTES = 16 * 1024 * 1024
_OPENAPI = Path(__file__).parents[1] / "openapi.json"
_CHUNK_BYTES = 256 * 1024
_SWEEP_SECONDS = 3600.0


@dataclass(frozen=True)
class Api:
    """What the handlers work with; `instance` is new at every start of the server."""

    settings: Settings
    store: Store
    executor: Executor
    instance: str


def create_app(api: Api) -> Starlette:
    """The application; its lifespan starts and stops the execution of batches, which `prepare` has taken up."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        api.executor.start()
        sweeper = asyncio.create_task(_sweep_forever(api))
        try:
            yield
        finally:
            sweeper.cancel()
            await run_in_threadpool(api.executor.stop)

    app = Starlette(
        routes=[
            Route("/healthz", _healthz),
            Route("/stats", _stats),
            Route("/openapi.json", _openapi),
            Route("/v1/models", _list_models),
            Route("/v1/models/{model_id:path}", _get_model),
            Route("/v1/files", _create_file, methods=["POST"]),
            Route("/v1/files", _list_files),
            Route("/v1/files/{file_id}", _get_file),
            Route("/v1/files/{file_id}", _delete_file, methods=["DELETE"]),
            Route("/v1/files/{file_id}/content", _get_content),
            Route("/v1/batches", _create_batch, methods=["POST"]),
            Route("/v1/batches", _list_batches),
            Route("/v1/batches/{batch_id}", _get_batch),
            Route("/v1/batches/{batch_id}/cancel", _cancel_batch, methods=["POST"]),
            Route("/v1/responses/{response_id}", _no_response, methods=["GET", "DELETE"]),
            *(Route(endpoint, _answer_now, methods=["POST"]) for endpoint in registry.ANSWERS),
            *(fault_control.routes(api.settings.fault_injector, _read_json) if api.settings.control else []),
        ],
        exception_handlers={
            ApiError: _on_api_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
            OSError: _on_storage_error,
            sqlite3.Error: _on_storage_error,
            Exception: _on_error,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.api = api
    return app


def prepare(api: Api) -> None:
    """What a server does with its folder before it listens. Raises OSError and sqlite3.Error."""
    files.sweep(api.store, api.settings)
    api.executor.take_up()


async def _sweep_forever(api: Api) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        try:
            await run_in_threadpool(files.remove_expired, api.store, api.settings)
        except Exception:
            logger.exception("Could not remove expired files; the next attempt is in an hour.")


def _api(request: Request) -> Api:
    api: Api = request.app.state.api
    return api


async def _answer(work: Callable[..., dict[str, Any]], *arguments: Any) -> JsonResponse:
    """Do the work in a thread, since it waits for the disk; the event loop serves others meanwhile."""
    return JsonResponse(await run_in_threadpool(work, *arguments))


async def _read_json(request: Request) -> Any:
    """The JSON body; one that is too large is read to its end, so that the client sees the answer."""
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


async def _healthz(request: Request) -> Response:
    return PlainTextResponse("ok", headers={INSTANCE_HEADER: _api(request).instance})


async def _openapi(request: Request) -> Response:
    """What the server offers, for tools that read OpenAPI."""
    return FileResponse(_OPENAPI, media_type="application/json")


async def _stats(request: Request) -> Response:
    def count(api: Api) -> dict[str, Any]:
        with api.store.read() as connection:
            (files_created,) = connection.execute(
                "SELECT count(*) FROM file WHERE purpose <> 'batch_output'"
            ).fetchone()
            (batches_created,) = connection.execute("SELECT count(*) FROM batch").fetchone()
            executed = read_counter(connection, "requests_executed")
        return {
            "files_created": files_created,
            "batches_created": batches_created,
            "requests_executed": executed + api.executor.uncounted(),
            "requests_in_flight": api.executor.in_flight(),
        }

    return await _answer(count, _api(request))


async def _list_models(request: Request) -> Response:
    return await _answer(models.list_models, _api(request).executor.engines)


async def _get_model(request: Request) -> Response:
    return JsonResponse(models.model_object(request.path_params["model_id"]))


async def _create_file(request: Request) -> Response:
    api = _api(request)
    async with receive_upload(request, api.settings.uploads_directory) as upload:
        file = await run_in_threadpool(
            files.create_file, api.store, api.settings, upload.path, upload.filename, upload.fields
        )
    return _answer_of(api, "upload", file)


async def _list_files(request: Request) -> Response:
    return await _answer(files.list_files, _api(request).store, request.query_params)


async def _get_file(request: Request) -> Response:
    row = await run_in_threadpool(files.get_file, _api(request).store, request.path_params["file_id"])
    return JsonResponse(files.file_object(row))


async def _delete_file(request: Request) -> Response:
    api = _api(request)
    return await _answer(files.delete_file, api.store, api.settings, request.path_params["file_id"])


async def _get_content(request: Request) -> Response:
    """Chunked octets, as recorded from OpenAI, although the specification speaks of a JSON string."""
    api = _api(request)
    file_id = request.path_params["file_id"]
    row = await run_in_threadpool(files.get_file, api.store, file_id)
    missing = ApiError(404, f"No such File object: {file_id}", param="id")
    output_late = api.settings.fault_injector.faults.output_late
    if row["purpose"] == "batch_output" and time.time() < row["created_at"] + output_late:
        raise missing
    try:
        # Opened here: a deletion from now on doesn't disturb the download.
        file = files.content_path(api.settings, file_id).open("rb")
    except FileNotFoundError as error:
        raise missing from error
    disposition = _content_disposition(row["filename"])
    return StreamingResponse(
        _chunks(file), media_type="application/octet-stream", headers={"content-disposition": disposition}
    )


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _content_disposition(filename: str) -> str:
    """The name was the client's: quoted when it is harmless, percent-encoded (RFC 6266) when it isn't."""
    name = Path(filename).name
    if name.isascii() and name.isprintable() and not set(name) & set('"\\'):
        return f'attachment; filename="{name}"'
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


async def _create_batch(request: Request) -> Response:
    api = _api(request)
    body = await _read_json(request)

    def create() -> dict[str, Any]:
        batch = batches.create_batch(api.store, api.settings, body)
        api.executor.submit(batch["id"])
        return batch

    return _answer_of(api, "create", await run_in_threadpool(create))


def _answer_of(api: Api, action: Literal["upload", "create"], made: dict[str, Any]) -> Response:
    """The answer to a creation, unless a fault withholds it."""
    if api.settings.fault_injector.claim(f"cut_{action}", made["id"]):
        return CutAnswer()
    if api.settings.fault_injector.claim(f"error_{action}", made["id"]):
        return error_answer(server_error())
    return JsonResponse(made)


async def _list_batches(request: Request) -> Response:
    api = _api(request)

    def work() -> dict[str, Any]:
        page = batches.list_batches(api.store, api.settings, request.query_params)
        for batch in page["data"]:
            _add_progress(api, batch)
        return page

    return await _answer(work)


async def _get_batch(request: Request) -> Response:
    api = _api(request)

    def work() -> dict[str, Any]:
        row = batches.find_batch(api.store, request.path_params["batch_id"])
        return _add_progress(api, batches.batch_object(row))

    return await _answer(work)


def _add_progress(api: Api, batch: dict[str, Any]) -> dict[str, Any]:
    """Replace the counts of a batch that runs: the database has them every now and then only."""
    if batch["status"] in ("in_progress", "finalizing", "cancelling"):
        progress = api.executor.progress(batch["id"])
        if progress is not None:
            batch["request_counts"]["completed"], batch["request_counts"]["failed"] = progress
    return batch


async def _cancel_batch(request: Request) -> Response:
    api = _api(request)

    def work() -> dict[str, Any]:
        batch = batches.cancel_batch(api.store, request.path_params["batch_id"])
        api.executor.cancel(batch["id"])
        return _add_progress(api, batch)

    return await _answer(work)


async def _answer_now(request: Request) -> Response:
    """A request outside of any batch; the path is one of `endpoints.ANSWERS`."""
    body = await _read_json(request)
    return await _answer(_api(request).executor.answer_now, request.url.path, body)


async def _no_response(request: Request) -> Response:
    """Responses are not stored."""
    raise ApiError(404, f"Response with id '{request.path_params['response_id']}' not found.")


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_answer(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors, in OpenAI's words."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        problem = ApiError(404, f"Invalid URL ({where})")
    elif error.status_code == 405:
        message = (
            f"Not allowed to {request.method} on {request.url.path}. "
            "(HINT: Perhaps you meant to use a different HTTP method?)"
        )
        problem = ApiError(405, message, code="method_not_supported")
    else:
        problem = ApiError(error.status_code, error.detail)
    return error_answer(problem)


async def _on_disconnect(_: Request, error: Exception) -> Response:
    """Nobody reads this; it only keeps a client that hung up out of the error log."""
    return Response(status_code=499)


async def _on_storage_error(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed.", request.method, request.url.path, exc_info=error)
    return error_answer(storage_error(error))


async def _on_error(_: Request, error: Exception) -> Response:
    return error_answer(server_error())
