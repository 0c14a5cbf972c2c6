"""Running the local Batch API: one server for a directory, found through `server.json` there."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from filelock import FileLock, Timeout

from batch_assets.local_api.batches.execution import Executor
from batch_assets.local_api.engines.engine_choice import Engines
from batch_assets.local_api.engines.remote_engine import KEY_VARIABLE as ENGINE_KEY_VARIABLE
from batch_assets.local_api.faults import FaultConfig, FaultInjector
from batch_assets.local_api.http.access import AccessMiddleware
from batch_assets.local_api.http.app import Api, create_app, prepare
from batch_assets.local_api.http.connections import BACKLOG, MAXIMUM_HEAD_BYTES, Connections
from batch_assets.local_api.serving import discovery, webhooks
from batch_assets.local_api.serving.events import reporting
from batch_assets.local_api.serving.keys import KEY_VARIABLE, given_key, provide_key
from batch_assets.local_api.settings import COMPLETION_WINDOW_SECONDS, ENGINE_TIMEOUT_SECONDS, Settings
from batch_assets.local_api.storage import disk_errors
from batch_assets.local_api.storage.database import Store, read_setting, write_setting

logger = logging.getLogger(__name__)

BUILT_IN_ENGINE = "extractive"
_STARTING_SECONDS = 5.0


class AlreadyRunningError(Exception):
    """Another process serves the directory; `url` is None when it does not answer (yet)."""

    def __init__(self, directory: Path, url: str | None) -> None:
        where = f"at {url}" if url else "but does not answer"
        super().__init__(f"A local Batch API is already running for {directory}, {where}.")
        self.url = url


def serve(
    directory: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    api_key: str | None = None,
    without_key: bool = False,
    engine: str = "extractive",
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
) -> None:
    """Serve a directory until SIGINT, SIGTERM or `stop`, then end what is being executed, and return.

    port: 0 takes the port of the last time when it is free, else any; another number must be free (OSError).
    api_key: demanded of every client; None takes BATCH_ASSETS_SERVE_KEY. The key that is made and kept in the directory
        (`keys.key_path`) is good as well, and without a key of yours the only one. That is for loopback: another host
        without a key of yours is a ValueError.
    without_key: every user of this machine may use the server. Not with a key, nor with another host: a ValueError.
    webhook: URL that is told when a batch has ended; signed with BATCH_ASSETS_SERVE_WEBHOOK_SECRET, or a secret
        that is made and kept in the directory (`webhooks.secret_path`).
    ready: called with the base URL (ending in /v1) once the server listens and is announced.
    stop: ends the server when set, where there are no signals, in a thread other than the main one.

    Raises AlreadyRunningError when another process serves the directory, and OSError, with a sentence, when nothing
    can be written there. Options: see Settings.
    """
    api_key = api_key or given_key()
    if not _is_loopback(host) and api_key is None:
        raise ValueError(
            f"Listening on {host} lets other machines in. Set {KEY_VARIABLE} to a key that they must send."
        )
    if without_key and api_key is not None:
        raise ValueError(f"A server without a key can't have one: unset {KEY_VARIABLE}, or leave out --without-key.")
    directory = directory.resolve()
    settings = Settings(
        directory=directory,
        engine=engine,
        engine_model=engine_model,
        engine_timeout_seconds=engine_timeout_seconds,
        concurrency=concurrency,
        latency_seconds=latency_seconds,
        batch_seconds=batch_seconds,
        completion_window_seconds=completion_window_seconds,
        fault_injector=FaultInjector(faults),
        control=control,
    )
    engines = Engines(
        engine,
        key=os.environ.get(ENGINE_KEY_VARIABLE) or None,
        model=engine_model,
        timeout_seconds=engine_timeout_seconds,
    )
    with disk_errors.writable(directory):
        settings.make_directories()
        disk_errors.try_to_write(settings.uploads_directory)
    with (
        _only_server_of(directory),
        contextlib.closing(engines),
        contextlib.closing(_open_store(settings)) as store,
    ):
        with disk_errors.writable(directory):
            keys = [] if without_key else [key for key in (provide_key(directory), api_key) if key is not None]
            secret = "" if webhook is None else webhooks.provide_secret(directory)
        receiver = None if webhook is None else webhooks.make_webhook(webhook, secret)
        listener = _listen(directory, store, host, port)
        url = _base_url(host, listener.getsockname()[1])
        api = Api(settings, store, Executor(store, settings, engines), secrets.token_hex(16))
        with disk_errors.writable(directory):
            prepare(api)
            webhooks.note_ends(store, receiver)

        def announce() -> None:
            with disk_errors.writable(directory):
                discovery.write_discovery(directory, url=url, instance=api.instance)
            if ready is not None:
                ready(url)
            if settings.fault_injector.faults != FaultConfig():
                logger.info("Faults: %s", settings.fault_injector.faults)

        connections = Connections()
        logging.getLogger("uvicorn.error").addFilter(_is_no_cut)
        config = uvicorn.Config(
            AccessMiddleware(create_app(api), keys, only_local=api_key is None, api_name=_api_name(engine)),
            http=connections.protocol(),
            h11_max_incomplete_event_size=MAXIMUM_HEAD_BYTES,
            limit_concurrency=connections.maximum + 2 * BACKLOG,  # none of them waits, all are worked for: answers 503
            backlog=BACKLOG,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            # A client that reads slowly, or not at all, must not keep the server from stopping.
            timeout_graceful_shutdown=3,
        )
        try:
            with webhooks.delivering(store, receiver), reporting(store, api.executor):
                server = _Server(config, announce, stop or threading.Event())
                server.run(sockets=[listener])
        finally:
            listener.close()
        if server.failure is not None:
            raise server.failure


def _api_name(engine: str) -> str:
    """Who answers, for clients that keep answers of models and of the built-in engine apart."""
    if engine == BUILT_IN_ENGINE:
        return "local"
    parts = urlsplit(engine)
    return f"local+{parts.hostname}:{parts.port}" if parts.hostname else f"local+{engine}"


def _is_no_cut(record: logging.LogRecord) -> bool:
    """Uvicorn complains of answers that a fault cuts."""
    return record.msg != "ASGI callable returned without completing response."


class _Server(uvicorn.Server):
    """Uvicorn's server, which says when it listens, and returns on a signal instead of dying of it."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None], stop: threading.Event) -> None:
        super().__init__(config)
        self.failure: Exception | None = None  # of the announcement
        self._announce = announce
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            try:
                await asyncio.to_thread(self._announce)
            except Exception as error:  # raised once everything that has started has ended
                self.failure = error
                self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._stop.is_set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Uvicorn's own raises the signal again afterwards, which would kill the process
        # before `serve` could remove the discovery file.
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


@contextlib.contextmanager
def _only_server_of(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; raises AlreadyRunningError. The lock dies with the process, however it dies."""
    lock = FileLock(discovery.lock_path(directory), mode=0o600)
    with disk_errors.writable(directory):
        is_ours = _is_acquired(lock)
    if not is_ours:
        deadline = time.monotonic() + _STARTING_SECONDS
        while (url := discovery.running_url(directory)) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        raise AlreadyRunningError(directory, url)
    try:
        with disk_errors.writable(directory):
            discovery.remove_discovery(directory)  # of a server that was killed
        yield
    finally:
        with contextlib.suppress(OSError):
            discovery.remove_discovery(directory)
        lock.release()


def _is_acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _open_store(settings: Settings) -> Store:
    with disk_errors.writable(settings.directory):
        return Store(settings.database_path)


def _listen(directory: Path, store: Store, host: str, port: int) -> socket.socket:
    """A bound socket; remembers its port, so that URLs stay valid when the server is started again."""
    with disk_errors.writable(directory), store.read() as connection:
        last = read_setting(connection, "port")
    if port:
        listener = _bind(host, port)
    else:
        try:
            listener = _bind(host, int(last or 0))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            listener = _bind(host, 0)
    try:
        with disk_errors.writable(directory), store.transaction() as connection:
            write_setting(connection, "port", str(listener.getsockname()[1]))
    except OSError:
        listener.close()
        raise
    return listener


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name != "nt":  # there it would allow two servers on one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _base_url(host: str, port: int) -> str:
    """Where this machine's programs reach the server, also when it listens on every interface."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{name}:{port}/v1"
