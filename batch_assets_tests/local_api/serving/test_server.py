"""One server for a directory, which programs of the same user find, and other web sites can't use."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import openai
import pytest

from batch_assets.local_api.serving.directory_lock import AlreadyRunningError
from batch_assets.local_api.serving.discovery import running_url
from batch_assets.local_api.serving.server import serve
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import http_request, lines_of, post_json, server_process, submit
from batch_assets_tests.local_api_client import LocalApi


def test_a_running_server_is_found_and_a_stopped_one_is_not(tmp_path: Path) -> None:
    assert running_url(tmp_path / "nowhere") is None
    with serving(tmp_path) as api:
        assert running_url(tmp_path) == api.url
        assert http_request(api, "GET", "/healthz").content == b"ok"
    assert running_url(tmp_path) is None
    assert not (tmp_path / "server.json").exists()


def test_the_discovery_file_of_a_killed_server_is_not_believed(tmp_path: Path) -> None:
    with server_process(tmp_path / "a") as server:
        server.kill()
        stale = json.loads((tmp_path / "a" / "server.json").read_text())
        assert running_url(tmp_path / "a") is None
    # Now the server of another directory has the port.
    with serving(tmp_path / "b", port=int(stale["url"].split(":")[2].removesuffix("/v1"))) as api:
        assert api.url == stale["url"]
        assert running_url(tmp_path / "a") is None
        with serving(tmp_path / "a") as other:
            assert other.url != api.url
            assert running_url(tmp_path / "a") == other.url


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"url": 5, "instance": "x"}', '{"url": "http://127.0.0.1:x/v1", "instance": "x"}']
)
def test_a_broken_discovery_file_means_no_server(tmp_path: Path, content: str) -> None:
    (tmp_path / "server.json").write_text(content)
    assert running_url(tmp_path) is None


def test_a_port_without_an_http_server_means_no_server(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        content = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/v1", "instance": "x"}
        (tmp_path / "server.json").write_text(json.dumps(content))
        assert running_url(tmp_path, timeout_seconds=0.2) is None


def test_a_second_server_of_a_directory_is_refused_with_the_url_of_the_first(tmp_path: Path) -> None:
    with server_process(tmp_path) as server:
        with pytest.raises(AlreadyRunningError) as refusal:
            serve(tmp_path)
        assert refusal.value.url == server.api.url
        assert running_url(tmp_path) == server.api.url, "the first one still runs"


def test_of_servers_that_start_at_the_same_time_one_runs(tmp_path: Path) -> None:
    stop = threading.Event()
    urls: list[str] = []
    refused: list[str | None] = []

    def start() -> None:
        try:
            serve(tmp_path, ready=urls.append, stop=stop)
        except AlreadyRunningError as error:
            refused.append(error.url)
            if len(refused) == 3:
                stop.set()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(urls) == 1
    assert refused == urls * 3


def test_a_restarted_server_has_the_same_port_if_it_is_free(tmp_path: Path) -> None:
    with serving(tmp_path) as api:
        first = api.url
    with serving(tmp_path) as api:
        assert api.url == first
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(first.split(":")[2].removesuffix("/v1"))))
        other.listen()
        with serving(tmp_path) as api:
            assert api.url != first
        with pytest.raises(OSError, match="in use"):
            serve(tmp_path, port=other.getsockname()[1])


def test_other_machines_need_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATCH_ASSETS_SERVE_KEY", raising=False)
    with pytest.raises(ValueError, match="BATCH_ASSETS_SERVE_KEY"):
        serve(tmp_path, host="0.0.0.0")
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("BATCH_ASSETS_SERVE_KEY", "sésame")
    with serving(tmp_path, host="0.0.0.0") as api:
        assert api.url.startswith("http://127.0.0.1:")
        assert running_url(tmp_path) == api.url
        with pytest.raises(openai.AuthenticationError) as refusal:
            api.client.models.list()
        assert refusal.value.code == "invalid_api_key"
        assert "unused" not in str(refusal.value)
        for headers in ({}, {"authorization": "Basic eA=="}, {"authorization": "Bearer"}):
            answer = http_request(api, "GET", "/v1/files", headers=headers)
            assert answer.status == 401
            assert "didn't provide an API key" in answer.json["error"]["message"]
        assert http_request(api, "GET", "/stats").status == 401
        good = http_request(api, "GET", "/v1/files", headers={"authorization": "Bearer sésame"})
        assert good.status == 200


def test_without_a_key_any_key_is_accepted(shared_api: LocalApi) -> None:
    assert http_request(shared_api, "GET", "/v1/files").status == 200
    assert http_request(shared_api, "GET", "/v1/files", headers={"authorization": "Bearer x"}).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": ""}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "[::2]:1"}, 403),
        ({"host": "[::1"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]:1"}, 200),
        ({"host": "127.0.0.2:1"}, 200),
        ({"host": "api.localhost"}, 200),
    ],
)
def test_requests_of_other_web_sites_are_refused(shared_api: LocalApi, headers: dict[str, str], status: int) -> None:
    assert http_request(shared_api, "GET", "/v1/files", headers=headers).status == status


def test_unknown_urls_and_methods_are_openais_errors(shared_api: LocalApi) -> None:
    answer = post_json(shared_api, "/v1/foo", {})
    assert answer.status == 404
    assert answer.json == {
        "error": {
            "message": "Invalid URL (POST /v1/foo)",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
    }
    assert http_request(shared_api, "GET", "/").json["error"]["message"] == "Invalid URL (GET /)"
    answer = http_request(shared_api, "DELETE", "/v1/batches")
    assert answer.status == 405
    assert answer.json["error"]["message"].startswith("Not allowed to DELETE on /v1/batches.")


def test_each_response_has_its_own_request_id(shared_api: LocalApi) -> None:
    answers = [http_request(shared_api, "GET", path) for path in ("/v1/files", "/v1/files", "/v1/foo")]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 3
    assert all(len(i) == 36 and i.startswith("req_") for i in ids)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a":' * 100_000, b"NaN", b'{"a": ' + b"9" * 10_000 + b"}"])
def test_bodies_that_are_not_json_are_refused(shared_api: LocalApi, body: bytes) -> None:
    answer = http_request(shared_api, "POST", "/v1/batches", body)
    assert answer.status == 400
    assert "could not parse the JSON body" in answer.json["error"]["message"]


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"x"'])
@pytest.mark.parametrize("path", ["/v1/batches", "/v1/chat/completions"])
def test_bodies_that_are_not_objects_are_refused(shared_api: LocalApi, body: bytes, path: str) -> None:
    assert http_request(shared_api, "POST", path, body).status == 400


def test_a_huge_json_body_is_refused(shared_api: LocalApi) -> None:
    answer = http_request(shared_api, "POST", "/v1/batches", b" " * (17 * 1024 * 1024))
    assert answer.status == 413


def test_stats_survive_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant") as api:
        api.wait(submit(api, lines_of(3)).id)
        api.client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        before = api.stats()
        assert before["requests_executed"] == 4
    with serving(tmp_path, engine="instant") as api:
        assert api.stats() == before


def test_a_database_of_another_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "local_api.sqlite3") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(RuntimeError, match="another version"):
        serve(tmp_path)


def test_the_server_imports_nothing_heavy() -> None:
    """A Dagster run may start it, and would wait half a second longer for each of these packages."""
    program = (
        "import sys, batch_assets.local_api.serving.server; "
        "print(*({'dagster', 'openai', 'duckdb', 'pydantic', 'httpx2', 'batch_assets.batching'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == ""
