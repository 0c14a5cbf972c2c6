"""Routes of ours, which OpenAI has not: `/healthz`, `/stats` and `/openapi.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from batch_assets.local_api.http.handlers import Api, api_of, respond
from batch_assets.local_api.serving.discovery import INSTANCE_HEADER
from batch_assets.local_api.storage.database import read_counter

_OPENAPI = Path(__file__).parents[1] / "openapi.json"


async def _healthz(request: Request) -> Response:
    """Says "ok", and which instance of the server it is."""
    return PlainTextResponse("ok", headers={INSTANCE_HEADER: api_of(request).instance})


async def _stats(request: Request) -> Response:
    """Counts, for tests."""
    return await respond(_count, api_of(request))


def _count(api: Api) -> dict[str, Any]:
    with api.store.read() as connection:
        (files_created,) = connection.execute("SELECT count(*) FROM file WHERE purpose <> 'batch_output'").fetchone()
        (batches_created,) = connection.execute("SELECT count(*) FROM batch").fetchone()
        executed = read_counter(connection, "requests_executed")
    return {
        "files_created": files_created,
        "batches_created": batches_created,
        "requests_executed": executed + api.executor.uncounted(),
        "requests_in_flight": api.executor.in_flight(),
    }


async def _openapi(request: Request) -> Response:
    """The server's description, for tools that read OpenAPI."""
    return FileResponse(_OPENAPI, media_type="application/json")


ROUTES = [Route("/healthz", _healthz), Route("/stats", _stats), Route("/openapi.json", _openapi)]
