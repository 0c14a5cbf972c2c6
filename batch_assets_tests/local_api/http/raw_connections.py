"""Connections without an HTTP client, for requests that no client would send."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from batch_assets_tests.local_api_client import LocalApi


def port_of(api: LocalApi) -> int:
    port = urlsplit(api.url).port
    assert port is not None
    return port


@contextlib.contextmanager
def connected(api: LocalApi) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port_of(api)), timeout=20) as client:
        yield client


def read_head(client: socket.socket, timeout_seconds: float) -> bytes:
    """The first line and headers of the response; empty if the server sends none within the timeout."""
    client.settimeout(timeout_seconds)
    received = b""
    with contextlib.suppress(TimeoutError):
        while b"\r\n\r\n" not in received and (data := client.recv(65536)):
            received = (received + data).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    return received


def read_all(client: socket.socket) -> bytes:
    """All bytes until the server ends the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65536):
            received += data
    return received


def answer_to(api: LocalApi, pieces: Iterable[bytes]) -> bytes:
    """The response to a client that sends all pieces, and then reads."""
    with connected(api) as client:
        for piece in pieces:
            client.sendall(piece)
        return read_all(client)


def is_open(client: socket.socket) -> bool:
    """Whether the connection is open. The server must have no bytes to send."""
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        client.settimeout(20)


def seconds_until_cut(client: socket.socket, *, trickle: bytes = b"") -> float:
    """How long the server keeps a connection. trickle: bytes that the client sends again and again."""
    began = time.monotonic()
    while is_open(client):
        assert time.monotonic() - began < 20, "the server keeps the connection"
        with contextlib.suppress(ConnectionError):
            client.sendall(trickle)
        time.sleep(0.02)
    return time.monotonic() - began
