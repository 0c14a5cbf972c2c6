"""Limits for clients that have not sent a key yet: endless heads, requests that never end, too many connections."""

from __future__ import annotations

import contextlib
import itertools
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_assets.local_api.settings import Limits, Timing
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.http.raw_connections import answer_to, connected, read_all, seconds_until_cut
from batch_assets_tests.local_api.support import http_request, server_process
from batch_assets_tests.local_api_client import LocalApi

GET = b"GET /v1/files HTTP/1.1\r\nHost: localhost\r\n"


POST = b"POST /v1/batches HTTP/1.1\r\nHost: localhost\r\ncontent-length: 100000\r\n\r\n{"


CLIENTS = 1_200


MEGABYTE = b"x" * 1_000_000


@pytest.mark.parametrize(
    ("status", "pieces"),
    [
        (b"431", lambda: [GET, b"X-Large: ", *itertools.repeat(MEGABYTE, 100), b"\r\n\r\n"]),
        (b"431", lambda: [GET, *itertools.repeat(b"X-Many: of them\r\n" * 50_000, 100), b"\r\n"]),
        (
            b"414",
            lambda: [b"GET /v1/files?x=", *itertools.repeat(MEGABYTE, 50), b" HTTP/1.1\r\nHost: localhost\r\n\r\n"],
        ),
    ],
    ids=["100 MB in a header", "85 MB of headers", "a URL of 50 MB"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="measures another process")
def test_an_endless_head_is_refused_early_and_needs_no_memory(tmp_path: Path, status: bytes, pieces: object) -> None:
    assert callable(pieces)
    with server_process(tmp_path, engine="instant") as server:
        http_request(server.api, "GET", "/v1/files")
        before = server.peak_kb()
        answer = answer_to(server.api, pieces())
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b'{"error":' in answer
        assert answer.count(b"HTTP/1.1") == 1
        assert server.peak_kb() - before < 8_000
        assert http_request(server.api, "GET", "/v1/files").status == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [("/v1/files?x=" + "x" * 1_000, {}, 414), ("/v1/files", {"x": "x" * 600, "y": "y" * 600}, 431)],
)
def test_a_large_head_that_comes_in_one_piece_is_refused(
    tmp_path: Path, path: str, headers: dict[str, str], status: int
) -> None:
    with serving(tmp_path, limits=Limits(request_head_bytes=1_000)) as api:
        assert http_request(api, "GET", path, headers=headers).status == status


@pytest.mark.parametrize("size", [8_000, 60_000])
def test_a_large_head_within_the_limit_is_accepted(shared_api: LocalApi, size: int) -> None:
    assert http_request(shared_api, "GET", "/v1/files", headers={"x": "x" * size}).status == 200


@pytest.fixture
def api_with_short_timeouts(tmp_path: Path) -> Iterator[LocalApi]:
    """A server that waits half a second for each step of a client."""
    timing = Timing(
        connection_check_seconds=0.05, request_head_seconds=0.5, request_body_seconds=0.5, response_read_seconds=0.5
    )
    with serving(tmp_path, engine="instant", timing=timing) as api:
        yield api


@pytest.mark.parametrize("sent", [b"", GET, GET + b"\r\n" + GET], ids=["nothing", "half a head", "half a second head"])
def test_a_head_that_does_not_end_ends_the_connection_after_a_timeout(
    api_with_short_timeouts: LocalApi, sent: bytes
) -> None:
    with connected(api_with_short_timeouts) as client:
        client.sendall(sent)
        if sent.endswith(b"\r\n" + GET):
            client.recv(65536)
        assert seconds_until_cut(client, trickle=b"x" if sent else b"") > 0.3


@pytest.mark.parametrize("trickle", [b"", b"x"])
def test_a_body_that_stops_arriving_ends_the_connection_after_a_timeout(
    api_with_short_timeouts: LocalApi, trickle: bytes
) -> None:
    with connected(api_with_short_timeouts) as client:
        client.sendall(POST)
        assert seconds_until_cut(client, trickle=trickle) > 0.3


def test_a_refused_body_that_does_not_end_ends_the_connection_after_a_timeout(
    api_with_short_timeouts: LocalApi,
) -> None:
    with connected(api_with_short_timeouts) as client:
        client.sendall(POST.replace(b"/v1/batches", b"/nowhere"))
        assert client.recv(65536).startswith(b"HTTP/1.1 404")
        seconds_until_cut(client, trickle=b"x")


def test_a_slow_upload_arrives(api_with_short_timeouts: LocalApi) -> None:
    content = b"x" * 200_000
    body = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + content + b"\r\n--x--\r\n"
    )
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\ncontent-type: multipart/form-data; boundary=x\r\n"
    head += b"connection: close\r\n"
    with connected(api_with_short_timeouts) as client:
        client.sendall(head + b"content-length: %d\r\n\r\n" % len(body))
        began = time.monotonic()
        for start in range(0, len(body), 10_000):
            client.sendall(body[start : start + 10_000])
            time.sleep(0.1)
        assert time.monotonic() - began > 1.5
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 200")
    (file,) = api_with_short_timeouts.client.files.list().data
    assert api_with_short_timeouts.client.files.content(file.id).content == content


def large_file(api: LocalApi, size: int) -> bytes:
    """A request for the content of a file of this size."""
    file_id = api.client.files.create(file=("large", b"x" * size), purpose="user_data").id
    return b"GET /v1/files/%s/content HTTP/1.1\r\nHost: localhost\r\nconnection: close\r\n\r\n" % file_id.encode()


def test_a_response_that_is_not_read_ends_the_connection_after_a_timeout(api_with_short_timeouts: LocalApi) -> None:
    request = large_file(api_with_short_timeouts, 30_000_000)
    with connected(api_with_short_timeouts) as client:
        client.sendall(request)
        time.sleep(2)
        assert len(read_all(client)) < 30_000_000


def test_a_response_that_is_read_slowly_arrives(tmp_path: Path) -> None:
    timing = Timing(connection_check_seconds=0.05, response_read_seconds=1.0)
    with serving(tmp_path, engine="instant", timing=timing) as api, connected(api) as client:
        request = large_file(api, 30_000_000)
        began, received = time.monotonic(), 0
        client.sendall(request)
        while data := client.recv(300_000):
            received += len(data)
            time.sleep(len(data) / 12_000_000)
    assert time.monotonic() - began > 2
    assert received > 30_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="limits the files of another process")
@pytest.mark.parametrize("sent", [b"", GET, POST], ids=["nothing", "half a head", "half a body"])
@pytest.mark.parametrize("files", [1_024, 400])
def test_requests_that_never_end_do_not_block_other_clients(tmp_path: Path, sent: bytes, files: int) -> None:
    """There are more clients than the server may have files. An upload that began before them continues."""
    prelude = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))"
    with (
        server_process(tmp_path, prelude=prelude, engine="instant") as server,
        many_files(),
        contextlib.ExitStack() as stack,
    ):
        upload = stack.enter_context(connected(server.api))
        upload.sendall(POST + b" " * 70_000)
        for number in range(CLIENTS):
            stack.enter_context(connected(server.api)).sendall(sent)
            if number % 50 == 0:
                assert http_request(server.api, "GET", "/v1/files").status == 200
        for _ in range(5):
            assert http_request(server.api, "GET", "/v1/files").status == 200
        assert server.api.client.files.create(file=("a", b"x" * 1_000_000), purpose="user_data").bytes == 1_000_000
        upload.sendall(b" " * (100_000 - 70_001))
        assert upload.recv(65536).startswith(b"HTTP/1.1 400"), "the body has arrived, and is not JSON"


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Allow this process enough open files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
