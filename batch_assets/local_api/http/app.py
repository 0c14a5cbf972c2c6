"""The application: all routes, the handlers of errors, and the work in the background.

Paths, objects and errors are OpenAI's. `status_routes` and `fault_routes` have ours; below `/ui/` is the web page.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route

from batch_assets.local_api.http import (
    batch_routes,
    error_handlers,
    fault_routes,
    file_routes,
    model_routes,
    status_routes,
)
from batch_assets.local_api.http.handlers import Api
from batch_assets.local_api.page.access import PREFIX, PageAccess
from batch_assets.local_api.page.app import create_page
from batch_assets.local_api.storage import files

logger = logging.getLogger(__name__)

_SWEEP_SECONDS = 3600.0


def create_app(api: Api, access: PageAccess) -> Starlette:
    """The application. Its lifespan starts and stops the execution of batches. Call `recover` before.

    access: who may open the web page.
    """

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
            *status_routes.ROUTES,
            *model_routes.ROUTES,
            *file_routes.ROUTES,
            *batch_routes.ROUTES,
            *(fault_routes.ROUTES if api.settings.control else []),
            Route(PREFIX, _to_page),
            Mount(PREFIX, create_page(api, access)),
        ],
        exception_handlers=error_handlers.HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.api = api
    return app


async def _to_page(_: Request) -> Response:
    return RedirectResponse(f"{PREFIX}/", status_code=303)


def recover(api: Api) -> None:
    """Clean the folder up after an earlier server, and queue its batches. Raises OSError and sqlite3.Error."""
    files.sweep(api.store, api.settings)
    api.executor.recover()


async def _sweep_forever(api: Api) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        try:
            await run_in_threadpool(files.remove_expired, api.store, api.settings)
        except Exception:
            logger.exception("Could not remove expired files; the next attempt is in an hour.")
