"""What a client may cost before it has said who it is: limits on sizes, time and numbers of connections.

Uvicorn's server with h11, which reads a request's head piece by piece and refuses one that is too large. Beyond that:
a connection waits only so long for a client that sends or takes nothing, and when there are too many connections, one
of those that wait gives way to the new one. A client whose bytes move is never cut for being slow.
"""

from __future__ import annotations

import asyncio
import functools
import time
from enum import Enum
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from batch_assets.local_api.http.json_response import error_answer
from batch_assets.local_api.wire import ids
from batch_assets.local_api.wire.errors import ApiError

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

MAXIMUM_HEAD_BYTES = 64 * 1024  # the first line and all headers
MAXIMUM_CONNECTIONS = 500
BACKLOG = 64  # so many connections may be accepted before one of the older ones has given way
HEAD_SECONDS = 10.0  # from the connection, or from the last answer, to the end of a request's head
BODY_SECONDS = 60.0  # in which a body moves on by MOVE_BYTES, or ends
READER_SECONDS = 300.0  # in which the client takes something of an answer. Much of it lies in the system's buffers.
MOVE_BYTES = 4096
_LOOK_SECONDS = 1.0
_OWN_FILES = 320  # for the database, 64 batches, engines, and connections that have not given way yet
_DISCARDED_BYTES = 256 * 1024 * 1024  # of a refused request: a client that is cut while it sends sees no answer


class Wait(Enum):
    """What a connection waits for its client to do; the value is the name of the time-out."""

    HEAD = "HEAD_SECONDS"
    BODY = "BODY_SECONDS"
    READER = "READER_SECONDS"

    @property
    def seconds(self) -> float:
        return cast(float, globals()[self.value])


class Connections:
    """All connections of one server. For its event loop only."""

    def __init__(self) -> None:
        self.maximum = MAXIMUM_CONNECTIONS
        if resource is not None:
            files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            if files != resource.RLIM_INFINITY:  # a connection needs two: its own, and the file that it moves
                self.maximum = max(16, min(self.maximum, (files - _OWN_FILES) // 2))
        self._open: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn makes for each connection."""
        return cast(type[asyncio.Protocol], functools.partial(Connection, self))

    def enter(self, new: Connection) -> None:
        """Note a connection; if it is one too many, another one that waits is cut."""
        while len(self._open) >= self.maximum and (victim := self._one_to_cut()) is not None:
            victim.cut()
        self._open.add(new)
        if self._timer is None:
            self._timer = new.loop.call_later(_LOOK_SECONDS, self._look, new.loop)

    def leave(self, gone: Connection) -> None:
        self._open.discard(gone)

    def _one_to_cut(self) -> Connection | None:
        """Of those that wait for the same as most do: one that has sent the least (by powers of two), the stalest.

        So a flood of one kind, heads or bodies that never end, is cut, rather than others that came after it.
        """
        waiting: dict[Wait, list[Connection]] = {wait: [] for wait in Wait}
        for connection in self._open:
            if (wait := connection.waits_for()) is not None:
                waiting[wait].append(connection)
        most = max(waiting.values(), key=len)
        return min(most, key=lambda one: (one.received.bit_length(), one.since), default=None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cut the connections whose time is over; every second while there are any."""
        now = time.monotonic()
        for connection in list(self._open):
            wait = connection.waits_for()
            if wait is not None and now - connection.since > wait.seconds:
                connection.cut()
        self._timer = loop.call_later(_LOOK_SECONDS, self._look, loop) if self._open else None


class Connection(H11Protocol):
    """A connection that knows what it waits for.

    since: when the client last moved on, in seconds of the monotonic clock.
    received: bytes that have come with the request's body.
    """

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.since = time.monotonic()
        self.received = 0
        self._connections = connections
        self._unmoved_bytes = 0
        self._unread_bytes = 0
        self._discarded_bytes: int | None = None  # since the request was refused

    def waits_for(self) -> Wait | None:
        """What the client has to do next; None while the server works, or does not take what the client sends."""
        unread = self.transport.get_write_buffer_size()
        if unread < self._unread_bytes:
            self.since = time.monotonic()
        self._unread_bytes = unread
        if unread:
            return Wait.READER
        if self.conn.their_state in (h11.IDLE, h11.ERROR):
            return Wait.HEAD
        if self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused:
            return Wait.BODY
        return None

    def cut(self) -> None:
        self._connections.leave(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connections.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._discarded_bytes is not None:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > _DISCARDED_BYTES:
                self.cut()
            return
        before = self.conn.their_state
        super().data_received(data)
        if self.conn.their_state is h11.SEND_BODY:
            self.received += len(data)
            self._unmoved_bytes += len(data)
        if self.conn.their_state is not before or self._unmoved_bytes >= MOVE_BYTES:
            self._moved()

    def _moved(self) -> None:
        self.since = time.monotonic()
        self._unmoved_bytes = 0

    def on_response_complete(self) -> None:
        self.received = 0
        self._moved()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._moved()
        super().pause_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what h11 can't read, and then read on for a while: a client that is cut while it sends sees no answer.

        Where an answer has begun, there is no room for another: the connection is closed.
        """
        self._discarded_bytes = 0
        self._moved()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or self.transport.is_closing():
            self.transport.close()
            return
        answer = error_answer(_problem(self.conn.trailing_data[0]))
        headers = [*answer.raw_headers, (b"x-request-id", ids.new_request_id().encode()), (b"connection", b"close")]
        for event in (
            h11.Response(status_code=answer.status_code, headers=headers),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.write_eof()

    def shutdown(self) -> None:
        if self._discarded_bytes is not None:
            self.cut()
            return
        super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        if self._discarded_bytes is None:
            super().timeout_keep_alive_handler()


def _problem(unread: bytes) -> ApiError:
    """Why the head was refused: it is too large, or it is no HTTP."""
    if len(unread) <= MAXIMUM_HEAD_BYTES:
        return ApiError(400, "Invalid HTTP request received.")
    if b"\n" not in unread[:MAXIMUM_HEAD_BYTES]:
        return too_long_url()
    return too_large_head()


def too_long_url() -> ApiError:
    return ApiError(414, f"The URL is longer than the {MAXIMUM_HEAD_BYTES} bytes maximum.")


def too_large_head() -> ApiError:
    return ApiError(431, f"The request's headers are larger than the {MAXIMUM_HEAD_BYTES} bytes maximum.")


def check_head(url_bytes: int, headers: list[tuple[bytes, bytes]]) -> None:
    """Raise ApiError for a head that came in one piece, larger than h11 would have read in several."""
    if url_bytes > MAXIMUM_HEAD_BYTES:
        raise too_long_url()
    if url_bytes + sum(len(name) + len(value) + 4 for name, value in headers) > MAXIMUM_HEAD_BYTES:
        raise too_large_head()
