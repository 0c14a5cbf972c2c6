"""What a client may cost before it has said who it is: heads without end, requests that never end, too many of both."""

from __future__ import annotations

import contextlib
import itertools
import resource
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from batch_assets.local_api.http import connections
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import http_request, server_process
from batch_assets_tests.local_api_client import LocalApi

GET = b"GET /v1/files HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/batches HTTP/1.1\r\nHost: localhost\r\ncontent-length: 100000\r\n\r\n{"
CLIENTS = 1_200


def port_of(api: LocalApi) -> int:
    port = urlsplit(api.url).port
    assert port is not None
    return port


@contextlib.contextmanager
def connected(api: LocalApi) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port_of(api)), timeout=20) as client:
        yield client


def read_head(client: socket.socket) -> bytes:
    """The first line and headers of the answer; nothing if the server waits for more."""
    client.settimeout(0.5)
    received = b""
    with contextlib.suppress(TimeoutError):
        while b"\r\n\r\n" not in received and (data := client.recv(65536)):
            received = (received + data).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    return received


def read_all(client: socket.socket) -> bytes:
    """Until the server ends the connection, in whatever way."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65536):
            received += data
    return received


def answer_to(api: LocalApi, pieces: Iterable[bytes]) -> bytes:
    """What the server says to a client that sends all of it, and then reads."""
    with connected(api) as client:
        for piece in pieces:
            client.sendall(piece)
        return read_all(client)


def is_open(client: socket.socket) -> bool:
    """Whether a server that has nothing to say has left the connection open."""
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
    """How long the server keeps a connection on which, at most, a byte comes now and then."""
    began = time.monotonic()
    while is_open(client):
        assert time.monotonic() - began < 20, "it is kept"
        with contextlib.suppress(ConnectionError):
            client.sendall(trickle)
        time.sleep(0.02)
    return time.monotonic() - began


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
def test_a_head_without_end_is_refused_early_and_costs_no_memory(tmp_path: Path, status: bytes, pieces: object) -> None:
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
    shared_api: LocalApi, monkeypatch: pytest.MonkeyPatch, path: str, headers: dict[str, str], status: int
) -> None:
    monkeypatch.setattr(connections, "MAXIMUM_HEAD_BYTES", 1_000)  # h11 has been told another limit
    assert http_request(shared_api, "GET", path, headers=headers).status == status


@pytest.mark.parametrize("size", [8_000, 60_000])
def test_a_large_head_is_taken_as_long_as_it_is_within_the_limit(shared_api: LocalApi, size: int) -> None:
    assert http_request(shared_api, "GET", "/v1/files", headers={"x": "x" * size}).status == 200


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalApi]:
    monkeypatch.setattr(connections, "_LOOK_SECONDS", 0.05)
    with serving(tmp_path, engine="instant") as api:
        yield api


@pytest.mark.parametrize("sent", [b"", GET, GET + b"\r\n" + GET], ids=["nothing", "half a head", "half a second head"])
def test_a_head_that_does_not_end_is_waited_for_a_while(
    impatient: LocalApi, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with connected(impatient) as client:
        client.sendall(sent)
        if sent.endswith(b"\r\n" + GET):
            client.recv(65536)
        assert seconds_until_cut(client, trickle=b"x" if sent else b"") > 0.3


@pytest.mark.parametrize("trickle", [b"", b"x"])
def test_a_body_that_does_not_move_is_waited_for_a_while(
    impatient: LocalApi, monkeypatch: pytest.MonkeyPatch, trickle: bytes
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.5)
    with connected(impatient) as client:
        client.sendall(POST)
        assert seconds_until_cut(client, trickle=trickle) > 0.3


def test_a_body_that_was_refused_and_does_not_end_is_waited_for_a_while(
    impatient: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.5)
    with connected(impatient) as client:
        client.sendall(POST.replace(b"/v1/batches", b"/nowhere"))
        assert client.recv(65536).startswith(b"HTTP/1.1 404")
        seconds_until_cut(client, trickle=b"x")


def test_an_upload_that_moves_slowly_arrives(impatient: LocalApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.5)
    content = b"x" * 200_000
    body = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + content + b"\r\n--x--\r\n"
    )
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\ncontent-type: multipart/form-data; boundary=x\r\n"
    head += b"connection: close\r\n"
    with connected(impatient) as client:
        client.sendall(head + b"content-length: %d\r\n\r\n" % len(body))
        began = time.monotonic()
        for start in range(0, len(body), 10_000):
            client.sendall(body[start : start + 10_000])
            time.sleep(0.1)
        assert time.monotonic() - began > 1.5
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 200")
    (file,) = impatient.client.files.list().data
    assert impatient.client.files.content(file.id).content == content


def large_file(api: LocalApi, size: int) -> bytes:
    """The request for a file of this size."""
    file_id = api.client.files.create(file=("large", b"x" * size), purpose="user_data").id
    return b"GET /v1/files/%s/content HTTP/1.1\r\nHost: localhost\r\nconnection: close\r\n\r\n" % file_id.encode()


def test_an_answer_that_is_not_read_is_offered_for_a_while(
    impatient: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "READER_SECONDS", 0.5)
    request = large_file(impatient, 30_000_000)
    with connected(impatient) as client:
        client.sendall(request)
        time.sleep(2)
        assert len(read_all(client)) < 30_000_000


def test_an_answer_that_is_read_slowly_arrives(impatient: LocalApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READER_SECONDS", 1.0)
    request = large_file(impatient, 30_000_000)
    began, received = time.monotonic(), 0
    with connected(impatient) as client:
        client.sendall(request)
        while data := client.recv(300_000):
            received += len(data)
            time.sleep(len(data) / 12_000_000)
    assert time.monotonic() - began > 2
    assert received > 30_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="limits the files of another process")
@pytest.mark.parametrize("sent", [b"", GET, POST], ids=["nothing", "half a head", "half a body"])
@pytest.mark.parametrize("files", [1_024, 400])
def test_clients_that_never_end_their_requests_lock_out_nobody(tmp_path: Path, sent: bytes, files: int) -> None:
    """More of them than the server may have files; an upload that began before them goes on."""
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
        assert upload.recv(65536).startswith(b"HTTP/1.1 400"), "it is no JSON, but it has arrived"


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """This process may open as many as it takes."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


BAD_VALUES = [
    b"[::1",
    b"::1]",
    b"[",
    b"]",
    b"[v1.x]",
    b"[not an address]",
    b"http://[::1",
    b"//[",
    b"localhost:99999",
    b"localhost:x",
    b"localhost:-1",
    b"user@localhost@evil",
    b"\xbd\xff\xfe\x80",
    b"\xef\xbc\x8f",
    b"%00",
    b"%",
    b"9" * 5_000,
    b"-" + b"9" * 5_000,
    b"bytes=" + b"9" * 5_000 + b"-",
    b"bytes=" + b"0-0," * 1_000,
    b"bytes=x-y",
    b'multipart/form-data; boundary="',
    b"multipart/form-data; boundary=" + b"x" * 5_000,
    b"multipart/form-data; boundary*=x'y'%ff",
    b"application/json; charset=no-such",
    b"Bearer \xff\xfe",
    b"Bearer " + b"x" * 10_000,
    b";" * 5_000,
    b'"' * 5_000,
    b"websocket",
    b"h2c",
    b"100-continue, x",
    b"chunked, chunked",
    b"gzip",
    b"Thu, 99 Foo 99999 99:99:99 GMT",
    b"",
]
BAD_HEADERS = [
    *(b"Host", b"Origin", b"Authorization", b"Content-Type", b"Content-Length", b"Transfer-Encoding", b"Expect"),
    *(b"Range", b"If-Range", b"If-None-Match", b"If-Modified-Since", b"Accept-Encoding", b"Connection", b"Upgrade"),
    *(b"Cookie", b"Referer", b"X-Forwarded-For", b"X-Forwarded-Host", b"OpenAI-Organization", b"User-Agent"),
]


@pytest.mark.parametrize("header", BAD_HEADERS, ids=lambda header: header.decode())
@pytest.mark.parametrize("api_key", [None, "right"])
def test_a_header_that_makes_no_sense_is_never_the_servers_fault(
    both: dict[str | None, LocalApi], header: bytes, api_key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {b"Host": b"localhost", b"Connection": b"close", b"Authorization": b"Bearer right"}
    targets = (b"GET /v1/files", b"GET /openapi.json", b"POST /v1/files", b"POST /v1/batches", b"HEAD /healthz")
    for target, value in itertools.product(targets, BAD_VALUES):
        sent = {**headers, header: value}
        lines = b"".join(b"%s: %s\r\n" % item for item in sent.items())
        with connected(both[api_key]) as client:
            client.sendall(target + b" HTTP/1.1\r\n" + lines + b"\r\n")
            answer = read_head(client)
        if answer or header not in (b"Content-Length", b"Transfer-Encoding"):  # others are not waited for
            assert 200 <= int(answer[9:12]) < 500, (sent, answer[:300])
    assert "Traceback" not in caplog.text


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str | None, LocalApi]]:
    """A server without a key, and one with one."""
    folder = tmp_path_factory.mktemp("both")
    with serving(folder / "open") as without, serving(folder / "closed", api_key="right") as closed:
        yield {None: without, "right": closed}


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: local\x00host\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\ncontent-length: x\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\ntransfer-encoding: chunked\r\n\r\nno number\r\n",
        b"POST /v1/batches HTTP/1.1\r\nHost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{no end of it",
        b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\ntransfer-encoding: chunked\r\n\r\nno number\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\nconnection: close\r\n\r\n",
        b"GET http://[::1/v1/files HTTP/1.1\r\nHost: localhost\r\nconnection: close\r\n\r\n",
        b"GET /v1/files?%ff=%zz&limit=%00 HTTP/1.1\r\nHost: localhost\r\nconnection: close\r\n\r\n",
        b"GET /v1/models/%00%ff%1b HTTP/1.1\r\nHost: localhost\r\nconnection: close\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(shared_api: LocalApi, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    answer = answer_to(shared_api, [sent])
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert b'{"error":' in answer
    assert "Traceback" not in caplog.text
    assert http_request(shared_api, "GET", "/v1/files").status == 200
