"""Uvicorn, configured for the local Batch API."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from batch_assets.local_api.http.connections import BACKLOG, Connections
from batch_assets.local_api.settings import Settings


def configure(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    connections = Connections(settings.timing, settings.limits)
    logging.getLogger("uvicorn.error").addFilter(_is_not_about_truncation)
    return uvicorn.Config(
        app,
        http=connections.protocol(),
        h11_max_incomplete_event_size=settings.limits.request_head_bytes,
        # Uvicorn responds with 503 to more. They are too many only when the server works for all of them.
        limit_concurrency=connections.maximum + 2 * BACKLOG,
        backlog=BACKLOG,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        # A client that does not read its response must not delay the stop of the server.
        timeout_graceful_shutdown=3,
    )


def _is_not_about_truncation(record: logging.LogRecord) -> bool:
    """Uvicorn logs an error for a response that a fault truncates."""
    return record.msg != "ASGI callable returned without completing response."


class AnnouncedServer(uvicorn.Server):
    """Uvicorn's server. It calls `announce` when it listens, and it returns after a signal or `stop`.

    failure: the exception of `announce`, which ends the server.
    """

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None], stop: threading.Event) -> None:
        super().__init__(config)
        self.failure: Exception | None = None
        self._announce = announce
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            try:
                await asyncio.to_thread(self._announce)
            except Exception as error:  # the caller raises it, after the regular end of the server
                self.failure = error
                self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._stop.is_set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Uvicorn's own method raises the signal again at the end. That would kill the process before `serve` could
        # remove the discovery file.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = (signal.SIGINT, signal.SIGTERM)
        previous = {name: signal.signal(name, self.handle_exit) for name in names}
        try:
            yield
        finally:
            for name, handler in previous.items():
                signal.signal(name, handler)
