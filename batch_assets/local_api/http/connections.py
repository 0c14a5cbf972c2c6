"""Limits for connections: how many clients may have, and how long the server waits for a client.

The server is uvicorn with h11. When a new connection is one too many, the server aborts another one that waits for its
client. It also aborts a connection whose client sends or reads nothing for some time. It never aborts a slow client
whose bytes still arrive.
"""

from __future__ import annotations

import asyncio
import functools
import time
from enum import Enum, auto
from typing import Any, NamedTuple, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from batch_assets.local_api.http.request_head import refused_head_error
from batch_assets.local_api.http.responses import error_response
from batch_assets.local_api.settings import Limits, Timing
from batch_assets.local_api.wire import ids

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

MAXIMUM_CONNECTIONS = 500
BACKLOG = 64  # connections that the system may accept before the server has aborted an older one
PROGRESS_BYTES = 4096  # of a body: fewer bytes count as no progress
_OWN_FILES = 320  # for the database, 64 batches, engines, and connections that are not aborted yet
# Of a refused request. A client reads the error only if the server reads the rest of the request.
_MAXIMUM_DISCARDED_BYTES = 256 * 1024 * 1024


class Wait(Enum):
    """What a connection waits for."""

    HEAD = auto()
    """The client sends the head of a request."""
    BODY = auto()
    """The client sends the body of a request."""
    READER = auto()
    """The client reads the response."""

    def timeout_seconds(self, timing: Timing) -> float:
        match self:
            case Wait.HEAD:
                return timing.request_head_seconds
            case Wait.BODY:
                return timing.request_body_seconds
            case Wait.READER:
                return timing.response_read_seconds


class _Waiting(NamedTuple):
    """A connection that waits for its client."""

    connection: Connection
    wait: Wait


class Connections:
    """All connections of one server. For its event loop only."""

    def __init__(self, timing: Timing, limits: Limits) -> None:
        self.maximum = _maximum_connections()
        self.limits = limits
        self._timing = timing
        self._open: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def protocol(self) -> type[asyncio.Protocol]:
        """Uvicorn calls it for each connection."""
        return cast(type[asyncio.Protocol], functools.partial(Connection, self))

    def admit(self, new: Connection) -> None:
        """Add a new connection. If there are too many, first abort those that wait for their clients."""
        while len(self._open) >= self.maximum:
            other = self._connection_to_abort()
            if other is None:  # the server works for all of them
                break
            other.abort()
        self._open.add(new)
        if self._timer is None:
            self._timer = new.loop.call_later(self._timing.connection_check_seconds, self._check, new.loop)

    def remove(self, connection: Connection) -> None:
        self._open.discard(connection)

    def _waiting(self) -> list[_Waiting]:
        found = []
        for connection in self._open:
            connection.note_reading()
            wait = connection.wait()
            if wait is not None:
                found.append(_Waiting(connection, wait))
        return found

    def _connection_to_abort(self) -> Connection | None:
        """Of the connections with the most frequent wait: one that has sent the least, and that has waited the longest.

        So clients that begin many requests and never end them abort each other, and not the requests of other clients.
        Amounts within the same power of two count as equal.
        """
        by_wait: dict[Wait, list[Connection]] = {wait: [] for wait in Wait}
        for connection, wait in self._waiting():
            by_wait[wait].append(connection)
        most = max(by_wait.values(), key=len)
        return min(most, key=lambda one: (one.body_bytes.bit_length(), one.progress_at), default=None)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        """Abort the connections whose time is over. Runs at intervals while there are any connections."""
        now = time.monotonic()
        for connection, wait in self._waiting():
            if now - connection.progress_at > wait.timeout_seconds(self._timing):
                connection.abort()
        self._timer = loop.call_later(self._timing.connection_check_seconds, self._check, loop) if self._open else None


def _maximum_connections() -> int:
    if resource is None:
        return MAXIMUM_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAXIMUM_CONNECTIONS
    # A connection needs two files: the socket, and the file that the client uploads or downloads.
    return max(16, min(MAXIMUM_CONNECTIONS, (files - _OWN_FILES) // 2))


class Connection(H11Protocol):
    """A connection that knows what it waits for.

    progress_at: when the client last sent or read something, in seconds of the monotonic clock.
    body_bytes: how much of the request's body has arrived.
    """

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.progress_at = time.monotonic()
        self.body_bytes = 0
        self._connections = connections
        self._bytes_since_progress = 0
        self._unread_response_bytes = 0
        self._is_refused = False
        self._discarded_bytes = 0

    def wait(self) -> Wait | None:
        """What the connection waits for; None while the server works, or does not read the client's bytes."""
        if self._unread_response_bytes:
            return Wait.READER
        if self.conn.their_state in (h11.IDLE, h11.ERROR):
            return Wait.HEAD
        if self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused:
            return Wait.BODY
        return None

    def note_reading(self) -> None:
        """Note how much of the response the client has not read yet. If it is less than before, that is progress."""
        unread_bytes = self.transport.get_write_buffer_size()
        if unread_bytes < self._unread_response_bytes:
            self.progress_at = time.monotonic()
        self._unread_response_bytes = unread_bytes

    def abort(self) -> None:
        self._connections.remove(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connections.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            self._discard(data)
            return
        before = self.conn.their_state
        super().data_received(data)
        if self.conn.their_state is h11.SEND_BODY:
            self.body_bytes += len(data)
            self._bytes_since_progress += len(data)
        if self.conn.their_state is not before or self._bytes_since_progress >= PROGRESS_BYTES:
            self._note_progress()

    def _discard(self, data: bytes) -> None:
        self._discarded_bytes += len(data)
        if self._discarded_bytes > _MAXIMUM_DISCARDED_BYTES:
            self.abort()

    def _note_progress(self) -> None:
        self.progress_at = time.monotonic()
        self._bytes_since_progress = 0

    def on_response_complete(self) -> None:
        self.body_bytes = 0
        self._note_progress()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._note_progress()
        super().pause_writing()

    def send_400_response(self, msg: str) -> None:
        """Respond to bytes that h11 can't read, and then discard the rest of them.

        If another response has begun, no second one is possible: the connection is closed.
        """
        self._is_refused = True
        self._discarded_bytes = 0
        self._note_progress()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or self.transport.is_closing():
            self.transport.close()
            return
        error = refused_head_error(self.conn.trailing_data[0], self._connections.limits.request_head_bytes)
        response = error_response(error)
        headers = [*response.raw_headers, (b"x-request-id", ids.new_request_id().encode()), (b"connection", b"close")]
        for event in (
            h11.Response(status_code=response.status_code, headers=headers),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.write_eof()

    def shutdown(self) -> None:
        if self._is_refused:
            self.abort()
            return
        super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        if not self._is_refused:
            super().timeout_keep_alive_handler()
