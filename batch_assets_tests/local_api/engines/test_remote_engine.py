"""Another server answers: its words go through unchanged, its bad moments don't cost a batch its requests."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_assets.local_api.engines.remote_engine import KEY_VARIABLE
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    ENDPOINT,
    body_of,
    custom_ids,
    http_request,
    lines_of,
    post_json,
    request_line,
    results,
    submit,
)
from batch_assets_tests.local_api.upstream import Reply, completion, upstream

pytestmark = pytest.mark.end_to_end  # processes, and waiting for them


def good(_body: Any, _number: int) -> Reply:
    return Reply(body=completion())


def first(*replies: Reply | None) -> Callable[[Any, int], Reply | None]:
    """These, one after the other, then good ones."""
    return lambda body, number: replies[number] if number < len(replies) else good(body, number)


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def test_a_request_goes_there_as_it_is_and_the_answer_comes_back_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-upstream")
    caplog.set_level(logging.DEBUG)
    body = body_of(top_k=5, response_format={"type": "json_object"}, temperature=7, guided_regex="é\ud800")
    with upstream(good) as up, serving(tmp_path, engine=up.url) as api:
        batch = api.wait(submit(api, [request_line(body=body)]).id)
        (output,), errors = results(api, batch)
        direct = post_json(api, ENDPOINT, body)
    assert (output["response"]["status_code"], output["response"]["body"], errors) == (200, completion(), [])
    assert (direct.status, direct.json) == (200, completion())
    assert [(seen.path, seen.body) for seen in up.seen] == [(ENDPOINT, body)] * 2
    assert {seen.headers["Authorization"] for seen in up.seen} == {"Bearer sk-upstream"}
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (7, 3, 10)
    assert "sk-upstream" not in caplog.text


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": "max_tokens is too large", "type": "BadRequestError", "code": 400}}),
        (401, {"error": "no such key"}),
        (404, {"detail": "Not Found"}),
    ],
)
def test_what_the_server_refuses_is_in_the_error_file_in_its_words(tmp_path: Path, status: int, body: Any) -> None:
    with upstream(lambda *_: Reply(status, body)) as up, serving(tmp_path, engine=up.url) as api:
        batch = api.wait(submit(api, lines_of(2)).id)
        output, errors = results(api, batch)
        direct = post_json(api, ENDPOINT, body_of())
    assert (batch.status, output) == ("completed", [])
    assert [(line["response"]["status_code"], line["response"]["body"]) for line in errors] == [(status, body)] * 2
    assert (direct.status, direct.json) == (status, body)
    assert len(up.seen) == 3, "asking again would change nothing"


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": None, "completion_tokens": "3"}, {"prompt_tokens_details": None}]
)
def test_missing_usage_counts_as_nothing(tmp_path: Path, usage: Any) -> None:
    with upstream(lambda *_: Reply(body=completion(usage=usage))) as up:
        with serving(tmp_path, engine=up.url) as api:
            batch = api.wait(submit(api, lines_of(3)).id)
        assert batch.status == "completed"
        assert batch.usage is not None
        assert batch.usage.total_tokens == 0


def test_trouble_that_passes_costs_no_request(tmp_path: Path) -> None:
    troubles = [
        Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.1"}),
        Reply(503, b"<html>loading</html>", {"Retry-After": "0"}),
        Reply(500, {"error": {"message": "out of memory"}}),
        Reply(200, b"not json"),
        Reply(200, [1]),
        None,
    ]
    lines = lines_of(len(troubles))
    with upstream(first(*troubles)) as up, serving(tmp_path, engine=up.url, concurrency=len(troubles)) as api:
        batch = api.wait(submit(api, lines).id)
        output, errors = results(api, batch)
    assert (batch.status, custom_ids(output), errors) == ("completed", custom_ids(lines), [])
    assert len(up.seen) == 2 * len(lines)


@pytest.mark.parametrize("wish", ["3600", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_server_that_is_busy_is_left_alone_for_as_long_as_it_wishes(tmp_path: Path, wish: str) -> None:
    with upstream(lambda *_: Reply(429, {}, {"Retry-After": wish})) as up:
        with serving(tmp_path, engine=up.url, concurrency=1, completion_window_seconds=1.0) as api:
            batch = api.wait(submit(api, lines_of(3)).id)
        assert (batch.status, len(up.seen)) == ("expired", 1)


def test_a_request_that_always_fails_is_given_up_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch_assets.local_api.batches.execution.PATIENT_TRIES", 2)
    poison = request_line("poison", body=body_of(seed=13))
    failure = {"error": {"message": "assertion failed", "type": "InternalServerError"}}

    def reply(body: Any, number: int) -> Reply:
        return Reply(500, failure) if body.get("seed") == 13 else good(body, number)

    with upstream(reply) as up, serving(tmp_path, engine=up.url) as api:
        batch = api.wait(submit(api, [poison, *lines_of(3)]).id)
        output, errors = results(api, batch)
    assert custom_ids(output) == custom_ids(lines_of(3))
    assert [(line["custom_id"], line["response"]["status_code"]) for line in errors] == [("poison", 500)]
    assert errors[0]["response"]["body"] == failure
    assert len(up.seen) == 5


def test_a_request_that_brings_the_server_down_every_time_is_given_up_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch_assets.local_api.batches.execution.PATIENT_TRIES", 2)

    def reply(_body: Any, number: int) -> Reply | None:
        restarting = Reply(503, {}, {"Retry-After": "0"})
        return None if number % 2 == 0 else restarting

    with upstream(reply) as up, serving(tmp_path, engine=up.url) as api:
        _, errors = results(api, api.wait(submit(api, lines_of(1)).id))
    assert errors[0]["response"]["status_code"] == 502
    assert len(up.seen) == 3


def test_a_server_that_is_down_is_waited_for(tmp_path: Path) -> None:
    port = unused_port()
    with serving(tmp_path, engine=f"http://127.0.0.1:{port}/v1") as api:
        batch = submit(api, lines_of(8))
        direct = post_json(api, ENDPOINT, body_of())
        assert (direct.status, direct.json["error"]["code"]) == (503, "engine_error")
        assert f"http://127.0.0.1:{port}/v1 can't be reached" in direct.json["error"]["message"]
        with upstream(good, port) as up:
            batch = api.wait(batch.id)
            output, errors = results(api, batch)
            assert api.stats()["requests_executed"] == 9
    assert (batch.status, custom_ids(output), errors) == ("completed", custom_ids(lines_of(8)), [])
    assert len(up.seen) == 8


def test_while_a_server_is_down_other_batches_begin_end_and_are_cancelled(tmp_path: Path) -> None:
    with serving(tmp_path, engine=f"http://127.0.0.1:{unused_port()}", concurrency=2) as api:
        stuck = submit(api, lines_of(50))
        other = api.wait(submit(api, [request_line(body=body_of(model="local-extractive"))]).id)
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


def test_an_answer_that_takes_too_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_assets.local_api.batches.execution.PATIENT_TRIES", 2)
    slow = Reply(body=completion(), after_seconds=0.5)
    with upstream(lambda *_: slow) as up, serving(tmp_path, engine=up.url, engine_timeout_seconds=0.1) as api:
        _, errors = results(api, api.wait(submit(api, lines_of(1)).id))
    response = errors[0]["response"]
    assert (response["status_code"], len(up.seen)) == (504, 2)
    assert response["body"]["error"]["message"] == f"The engine at {up.url} gave no answer within 0.1 seconds."


@pytest.mark.parametrize("how", ["cancel", "stop"])
def test_a_request_under_way_holds_up_neither_a_cancel_nor_a_stop(tmp_path: Path, how: str) -> None:
    hold, arrived = threading.Event(), threading.Event()

    def reply(body: Any, number: int) -> Reply:
        arrived.set()
        if number < 2:
            hold.wait(60)
        return good(body, number)

    try:
        with upstream(reply) as up:
            with serving(tmp_path, engine=up.url, concurrency=2) as api:
                batch = submit(api, lines_of(5))
                assert arrived.wait(10)
                if how == "cancel":
                    api.client.batches.cancel(batch.id)
                    batch = api.wait(batch.id, seconds=10)
                    assert batch.status == "cancelled"
                    assert custom_ids(results(api, batch)[1]) == custom_ids(lines_of(5))
            if how == "stop":
                hold.set()
                with serving(tmp_path, engine=up.url) as api:
                    output, errors = results(api, api.wait(batch.id))
                assert (custom_ids(output), errors) == (custom_ids(lines_of(5)), [])
            hold.set()
    finally:
        hold.set()


def test_as_many_requests_at_a_time_as_the_concurrency_over_connections_that_are_kept(tmp_path: Path) -> None:
    barrier = threading.Barrier(3)

    def reply(body: Any, number: int) -> Reply:
        barrier.wait(10)  # three are here together, or this fails
        return good(body, number)

    with upstream(reply) as up, serving(tmp_path, engine=up.url, concurrency=3) as api:
        batches = [submit(api, lines_of(15)), submit(api, lines_of(15))]
        for batch in batches:
            assert api.wait(batch.id).request_counts.completed == 15  # type: ignore[union-attr]
    assert up.most_at_once == 3
    assert len({seen.client for seen in up.seen}) == 3


def test_a_kept_connection_that_the_server_closed_meanwhile_is_no_trouble(tmp_path: Path) -> None:
    def reply(body: Any, number: int) -> Reply:
        return Reply(body=completion(), headers={"Connection": "close"} if number % 2 else {})

    with upstream(reply) as up, serving(tmp_path, engine=up.url) as api:
        for _ in range(4):
            assert post_json(api, ENDPOINT, body_of()).status == 200
        port = int(up.url.split(":")[2].removesuffix("/v1"))
    with serving(tmp_path, engine=up.url) as api:
        with upstream(good, port):
            assert post_json(api, ENDPOINT, body_of()).status == 200
        with upstream(good, port):
            assert post_json(api, ENDPOINT, body_of()).status == 200


def test_a_batch_goes_through_two_local_batch_apis(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "far", engine="extractive", api_key="far-key") as far,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(KEY_VARIABLE, "far-key")
        with serving(tmp_path / "near", engine=far.url, engine_model="gpt-4o-mini") as near:
            bad = request_line("bad", body=body_of(n=0))
            batch = near.wait(submit(near, [*lines_of(20), bad]).id)
            output, errors = results(near, batch)
            models = {model.id for model in near.client.models.list()}
    assert custom_ids(output) == custom_ids(lines_of(20))
    assert {line["response"]["body"]["model"] for line in output} == {"gpt-4o-mini"}
    assert {line["response"]["body"]["system_fingerprint"] for line in output} == {"fp_local_extractive"}
    assert errors[0]["response"]["body"]["error"]["code"] == "integer_below_min_value"
    assert models >= {"local-extractive", "gpt-4o-mini"}
    assert batch.usage is not None
    assert batch.usage.total_tokens == sum(line["response"]["body"]["usage"]["total_tokens"] for line in output)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/responses", {"model": "gpt-6-luna", "input": "One. Two."}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "One. Two."}),
    ],
)
def test_every_endpoint_is_forwarded(tmp_path: Path, endpoint: str, body: dict[str, Any]) -> None:
    with serving(tmp_path / "far") as far, serving(tmp_path / "near", engine=far.url) as near:
        answer = post_json(near, endpoint, body)
        assert answer.status == 200
        assert (answer.json["object"], far.stats()["requests_executed"]) == (
            {"/v1/responses": "response", "/v1/embeddings": "list"}[endpoint],
            1,
        )


def test_streaming_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with upstream(good) as up, serving(tmp_path, engine=up.url) as api:
        answer = post_json(api, ENDPOINT, body_of(stream=True))
    assert (answer.status, answer.json["error"]["param"], up.seen) == (400, "stream", [])


def test_models_are_listed_even_when_the_server_is_down(tmp_path: Path) -> None:
    with serving(tmp_path, engine=f"http://127.0.0.1:{unused_port()}/v1") as api:
        listed = [model["id"] for model in http_request(api, "GET", "/v1/models").json["data"]]
    assert "local-extractive" in listed
    assert not [name for name in listed if name.startswith("gpt-")], "whether it has those, only the server knows"


@pytest.mark.parametrize("url", ["ftp://host/v1", "http:///v1", "http://host/v1?key=1", "http://me:secret@host/v1"])
def test_a_url_that_is_none_is_refused_without_showing_secrets(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="engine's") as caught, serving(tmp_path, engine=url):
        pass
    assert "secret" not in str(caught.value)


def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-\nsecret")
    with pytest.raises(ValueError, match=KEY_VARIABLE) as caught, serving(tmp_path, engine="http://127.0.0.1:1"):
        pass
    assert "secret" not in str(caught.value)
