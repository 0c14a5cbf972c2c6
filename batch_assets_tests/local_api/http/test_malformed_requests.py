"""Requests that are no HTTP, or have invalid headers: refused with an error, and never the server's own error."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.http.raw_connections import answer_to, connected, read_head
from batch_assets_tests.local_api.support import http_request
from batch_assets_tests.local_api_client import LocalApi

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
def test_an_invalid_header_is_never_a_server_error(
    apis_by_key: dict[str | None, LocalApi], header: bytes, api_key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {b"Host": b"localhost", b"Connection": b"close", b"Authorization": b"Bearer right"}
    targets = (b"GET /v1/files", b"GET /openapi.json", b"POST /v1/files", b"POST /v1/batches", b"HEAD /healthz")
    may_announce_body = header in (b"Content-Length", b"Transfer-Encoding")  # then the server may wait for the body
    for target, value in itertools.product(targets, BAD_VALUES):
        sent = {**headers, header: value}
        lines = b"".join(b"%s: %s\r\n" % item for item in sent.items())
        with connected(apis_by_key[api_key]) as client:
            client.sendall(target + b" HTTP/1.1\r\n" + lines + b"\r\n")
            answer = read_head(client, timeout_seconds=0.5 if may_announce_body else 20)
        if answer or not may_announce_body:
            assert 200 <= int(answer[9:12]) < 500, (sent, answer[:300])
    assert "Traceback" not in caplog.text


@pytest.fixture(scope="module")
def apis_by_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str | None, LocalApi]]:
    """A server without a key, and a server with a key."""
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
def test_requests_that_are_not_http_are_refused(
    shared_api: LocalApi, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = answer_to(shared_api, [sent])
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert b'{"error":' in answer
    assert "Traceback" not in caplog.text
    assert http_request(shared_api, "GET", "/v1/files").status == 200
