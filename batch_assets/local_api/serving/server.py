"""Running the local Batch API: all steps from the start of a server to its end."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from batch_assets.local_api.batches.execution import Executor
from batch_assets.local_api.engines.engine_choice import Engines
from batch_assets.local_api.engines.remote_engine import KEY_VARIABLE as ENGINE_KEY_VARIABLE
from batch_assets.local_api.faults import FaultConfig, FaultInjector
from batch_assets.local_api.http.access import AccessMiddleware
from batch_assets.local_api.http.app import create_app, recover
from batch_assets.local_api.http.handlers import Api
from batch_assets.local_api.http.local_names import is_local
from batch_assets.local_api.page.access import PageAccess
from batch_assets.local_api.serving import discovery, webhooks
from batch_assets.local_api.serving.directory_lock import directory_lock
from batch_assets.local_api.serving.events import reporting
from batch_assets.local_api.serving.keys import KEY_VARIABLE, given_key, provide_key
from batch_assets.local_api.serving.listener import base_url, listen
from batch_assets.local_api.serving.uvicorn_server import AnnouncedServer, configure
from batch_assets.local_api.serving.webhooks import Webhook
from batch_assets.local_api.settings import (
    BUILT_IN_ENGINE,
    COMPLETION_WINDOW_SECONDS,
    ENGINE_TIMEOUT_SECONDS,
    Limits,
    Settings,
    Timing,
)
from batch_assets.local_api.storage import disk_errors
from batch_assets.local_api.storage.database import Store

logger = logging.getLogger(__name__)


def serve(
    directory: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    api_key: str | None = None,
    without_key: bool = False,
    engine: str = BUILT_IN_ENGINE,
    engine_model: str | None = None,
    engine_timeout_seconds: float = ENGINE_TIMEOUT_SECONDS,
    concurrency: int = 4,
    latency_seconds: float = 0.0,
    batch_seconds: float = 0.0,
    completion_window_seconds: float = COMPLETION_WINDOW_SECONDS,
    faults: FaultConfig | None = None,
    control: bool = False,
    webhook: str | None = None,
    ready: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
    timing: Timing | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve a directory until SIGINT, SIGTERM or `stop`, and return when the lines in execution are done.

    port: 0 takes the last port if it is free, otherwise any; another number must be free (OSError).
    api_key: demanded of every client, with the key in the directory as an alternative (`keys.key_path`). None takes
        BATCH_ASSETS_SERVE_KEY. Without that, only the key in the directory is valid, and `host` must be a loopback
        address (ValueError).
    without_key: every user of this machine may use the server. ValueError with a key or another host.
    webhook: URL for the ends of batches, signed with BATCH_ASSETS_SERVE_WEBHOOK_SECRET or `webhooks.secret_path`.
    ready: called with the base URL (ending in /v1) when the server listens and other processes can find it.
    stop: ends the server when set; for a thread other than the main one, which gets no signals.
    The others: see Settings. Raises AlreadyRunningError, and OSError for a directory that is not writable.
    """
    settings = Settings(
        directory=directory.resolve(),
        engine=engine,
        engine_model=engine_model,
        engine_timeout_seconds=engine_timeout_seconds,
        concurrency=concurrency,
        latency_seconds=latency_seconds,
        batch_seconds=batch_seconds,
        completion_window_seconds=completion_window_seconds,
        fault_injector=FaultInjector(faults),
        control=control,
        timing=timing or Timing(),
        limits=limits or Limits(),
    )
    access = _Access(host, port, api_key or given_key(), without_key)
    access.check()
    _run(settings, access, webhook, ready or (lambda url: None), stop or threading.Event())


@dataclass(frozen=True)
class _Access:
    """Where the server listens, and with which key its users come. user_key: None without a key of theirs."""

    host: str
    port: int
    user_key: str | None
    without_key: bool

    def check(self) -> None:
        """Raises ValueError for options that contradict each other."""
        if not is_local(self.host) and self.user_key is None:
            raise ValueError(
                f"Listening on {self.host} lets other machines in. Set {KEY_VARIABLE} to a key that they must send."
            )
        if self.without_key and self.user_key is not None:
            raise ValueError(
                f"A server without a key can't have one: unset {KEY_VARIABLE}, or leave out --without-key."
            )

    def provide_keys(self, directory: Path) -> list[str]:
        """The keys that are valid; none when every user may use the server. Raises OSError."""
        if self.without_key:
            return []
        return [key for key in (provide_key(directory), self.user_key) if key is not None]


def _run(
    settings: Settings,
    access: _Access,
    webhook_url: str | None,
    ready: Callable[[str], None],
    stop: threading.Event,
) -> None:
    """Start all parts of the server, serve, and end them in the reverse order."""
    directory = settings.directory
    engines = _make_engines(settings)
    with disk_errors.writable(directory):
        settings.make_directories()
        disk_errors.check_writable(settings.uploads_directory)
    with (
        directory_lock(directory),
        contextlib.closing(engines),
        contextlib.closing(_open_store(settings)) as store,
    ):
        with disk_errors.writable(directory):
            keys = access.provide_keys(directory)
            secret = "" if webhook_url is None else webhooks.provide_secret(directory)
        webhook = None if webhook_url is None else webhooks.make_webhook(webhook_url, secret)
        api = Api(settings, store, Executor(store, settings, engines), secrets.token_hex(16))
        with contextlib.closing(listen(directory, store, access.host, access.port)) as listener:
            with disk_errors.writable(directory):
                recover(api)
                webhooks.store_events(store, webhook)
            url = base_url(access.host, listener)
            page = PageAccess(keys)
            app = _restrict(api, page, keys, only_local=access.user_key is None)
            server = AnnouncedServer(configure(app, settings), lambda: _announce(api, page, url, ready), stop)
            with _background_work(api, webhook):
                server.run(sockets=[listener])
        if server.failure is not None:
            raise server.failure


def _make_engines(settings: Settings) -> Engines:
    """Raises ValueError for an engine that does not exist or is not installed."""
    return Engines(
        settings.engine,
        key=os.environ.get(ENGINE_KEY_VARIABLE) or None,
        model=settings.engine_model,
        timeout_seconds=settings.engine_timeout_seconds,
    )


def _open_store(settings: Settings) -> Store:
    with disk_errors.writable(settings.directory):
        return Store(settings.database_path)


def _restrict(api: Api, page: PageAccess, keys: list[str], *, only_local: bool) -> AccessMiddleware:
    return AccessMiddleware(
        create_app(api, page),
        keys,
        only_local=only_local,
        api_name=api.settings.api_name,
        maximum_head_bytes=api.settings.limits.request_head_bytes,
    )


def _announce(api: Api, page: PageAccess, url: str, ready: Callable[[str], None]) -> None:
    """Let other processes find the server, which listens already. Raises OSError."""
    with disk_errors.writable(api.settings.directory):
        page_url = url.removesuffix("/v1") + page.address
        discovery.write_discovery(api.settings.directory, url=url, instance=api.instance, page_url=page_url)
    ready(url)
    faults = api.settings.fault_injector.faults
    if faults != FaultConfig():
        logger.info("Faults: %s", faults)


@contextlib.contextmanager
def _background_work(api: Api, webhook: Webhook | None) -> Iterator[None]:
    timing = api.settings.timing
    with (
        webhooks.delivering(api.store, webhook, timing),
        reporting(api.store, api.executor, timing.progress_report_seconds),
    ):
        yield
