"""Another server as the engine: temporary errors lose no request, and final errors are results."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from batch_assets.local_api.engines.remote_engine import ForwardedError, RemoteEngine
from batch_assets.local_api.settings import Limits
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    ENDPOINT,
    chat_body,
    custom_ids,
    lines_of,
    post_json,
    request_line,
    results,
    submit,
)
from batch_assets_tests.local_api.upstream import Reply, completion, first, good_reply, unused_port, upstream

pytestmark = pytest.mark.end_to_end  # processes, and waiting for them


TWO_ATTEMPTS = Limits(engine_attempts=2)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": "max_tokens is too large", "type": "BadRequestError", "code": 400}}),
        (401, {"error": "no such key"}),
        (404, {"detail": "Not Found"}),
    ],
)
def test_errors_of_the_other_server_are_in_the_error_file_unchanged(tmp_path: Path, status: int, body: Any) -> None:
    with upstream(lambda *_: Reply(status, body)) as up, serving(tmp_path, engine=up.url) as api:
        batch = api.wait(submit(api, lines_of(2)).id)
        output, errors = results(api, batch)
        direct = post_json(api, ENDPOINT, chat_body())
    assert (batch.status, output) == ("completed", [])
    assert [(line["response"]["status_code"], line["response"]["body"]) for line in errors] == [(status, body)] * 2
    assert (direct.status, direct.json) == (status, body)
    assert len(up.received) == 3, "such a request is not repeated"


def test_after_temporary_errors_no_request_is_lost(tmp_path: Path) -> None:
    failures = [
        Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.1"}),
        Reply(503, b"<html>loading</html>", {"Retry-After": "0"}),
        Reply(500, {"error": {"message": "out of memory"}}),
        Reply(200, b"not json"),
        Reply(200, [1]),
        None,
    ]
    lines = lines_of(len(failures))
    with upstream(first(*failures)) as up, serving(tmp_path, engine=up.url, concurrency=len(failures)) as api:
        batch = api.wait(submit(api, lines).id)
        output, errors = results(api, batch)
    assert (batch.status, custom_ids(output), errors) == ("completed", custom_ids(lines), [])
    assert len(up.received) == 2 * len(lines)


@pytest.mark.parametrize("wish", ["3600", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_retry_after_of_a_busy_server_is_respected(tmp_path: Path, wish: str) -> None:
    with upstream(lambda *_: Reply(429, {}, {"Retry-After": wish})) as up:
        with serving(tmp_path, engine=up.url, concurrency=1, completion_window_seconds=1.0) as api:
            batch = api.wait(submit(api, lines_of(3)).id)
        assert (batch.status, len(up.received)) == ("expired", 1)


def test_a_request_that_always_fails_is_given_up_and_the_others_are_not(tmp_path: Path) -> None:
    poison = request_line("poison", body=chat_body(seed=13))
    failure = {"error": {"message": "assertion failed", "type": "InternalServerError"}}

    def reply(body: Any, number: int) -> Reply:
        return Reply(500, failure) if body.get("seed") == 13 else good_reply(body, number)

    with upstream(reply) as up, serving(tmp_path, engine=up.url, limits=TWO_ATTEMPTS) as api:
        batch = api.wait(submit(api, [poison, *lines_of(3)]).id)
        output, errors = results(api, batch)
    assert custom_ids(output) == custom_ids(lines_of(3))
    assert [(line["custom_id"], line["response"]["status_code"]) for line in errors] == [("poison", 500)]
    assert errors[0]["response"]["body"] == failure
    assert len(up.received) == 5


def test_a_request_that_brings_the_server_down_every_time_is_given_up_too(tmp_path: Path) -> None:

    def reply(_body: Any, number: int) -> Reply | None:
        restarting = Reply(503, {}, {"Retry-After": "0"})
        return None if number % 2 == 0 else restarting

    with upstream(reply) as up, serving(tmp_path, engine=up.url, limits=TWO_ATTEMPTS) as api:
        _, errors = results(api, api.wait(submit(api, lines_of(1)).id))
    assert errors[0]["response"]["status_code"] == 502
    assert len(up.received) == 3


def test_a_batch_waits_for_a_server_that_is_down(tmp_path: Path) -> None:
    port = unused_port()
    with serving(tmp_path, engine=f"http://127.0.0.1:{port}/v1") as api:
        batch = submit(api, lines_of(8))
        direct = post_json(api, ENDPOINT, chat_body())
        assert (direct.status, direct.json["error"]["code"]) == (503, "engine_error")
        assert f"http://127.0.0.1:{port}/v1 can't be reached" in direct.json["error"]["message"]
        with upstream(good_reply, port) as up:
            batch = api.wait(batch.id)
            output, errors = results(api, batch)
            assert api.stats()["requests_executed"] == 9
    assert (batch.status, custom_ids(output), errors) == ("completed", custom_ids(lines_of(8)), [])
    assert len(up.received) == 8


def test_while_a_server_is_down_other_batches_begin_end_and_are_cancelled(tmp_path: Path) -> None:
    with serving(tmp_path, engine=f"http://127.0.0.1:{unused_port()}", concurrency=2) as api:
        stuck = submit(api, lines_of(50))
        other = api.wait(submit(api, [request_line(body=chat_body(model="local-extractive"))]).id)
        assert other.status == "completed"
        api.client.batches.cancel(stuck.id)
        stuck = api.wait(stuck.id, seconds=5)
        output, errors = results(api, stuck)
    assert (stuck.status, output, custom_ids(errors)) == ("cancelled", [], custom_ids(lines_of(50)))
    assert stuck.request_counts is not None
    assert (stuck.request_counts.completed, stuck.request_counts.failed) == (0, 0)


def test_a_server_that_stays_down_makes_the_batch_expire(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{unused_port()}/v1"
    with serving(tmp_path, engine=url, completion_window_seconds=1.0) as api:
        batch = api.wait(submit(api, lines_of(3)).id)
        _, errors = results(api, batch)
    assert batch.status == "expired"
    assert [line["error"]["code"] for line in errors] == ["batch_expired"] * 3


def test_a_response_after_the_timeout_is_an_error(tmp_path: Path) -> None:
    options = {"engine_timeout_seconds": 0.1, "limits": TWO_ATTEMPTS}
    slow = Reply(body=completion(), after_seconds=0.5)
    with upstream(lambda *_: slow) as up, serving(tmp_path, engine=up.url, **options) as api:
        _, errors = results(api, api.wait(submit(api, lines_of(1)).id))
    response = errors[0]["response"]
    assert (response["status_code"], len(up.received)) == (504, 2)
    assert response["body"]["error"]["message"] == f"The engine at {up.url} gave no answer within 0.1 seconds."


def test_a_kept_connection_that_the_other_server_has_closed_is_replaced(tmp_path: Path) -> None:
    def reply(body: Any, number: int) -> Reply:
        return Reply(body=completion(), headers={"Connection": "close"} if number % 2 else {})

    with upstream(reply) as up, serving(tmp_path, engine=up.url) as api:
        for _ in range(4):
            assert post_json(api, ENDPOINT, chat_body()).status == 200
        port = int(up.url.split(":")[2].removesuffix("/v1"))
    with serving(tmp_path, engine=up.url) as api:
        with upstream(good_reply, port):
            assert post_json(api, ENDPOINT, chat_body()).status == 200
        with upstream(good_reply, port):
            assert post_json(api, ENDPOINT, chat_body()).status == 200


def test_a_redirect_is_an_error_and_the_key_goes_to_no_other_address() -> None:
    with (
        upstream(good_reply) as other,
        upstream(lambda *_: Reply(307, {"error": "moved"}, {"Location": f"{other.url}/chat/completions"})) as up,
        contextlib.closing(RemoteEngine(up.url, key="sk-upstream")) as engine,
        pytest.raises(ForwardedError) as raised,
    ):
        engine.forward(ENDPOINT, chat_body(), stop=threading.Event(), attempts=3)
    assert (raised.value.status, raised.value.body()) == (307, {"error": "moved"})
    assert (len(up.received), other.received) == (1, [])


def test_a_proxy_of_the_environment_gets_neither_request_nor_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    with upstream(good_reply) as up, contextlib.closing(RemoteEngine(up.url, key="sk-upstream")) as engine:
        assert engine.forward(ENDPOINT, chat_body(), stop=threading.Event(), attempts=1) == completion()
    assert len(up.received) == 1
