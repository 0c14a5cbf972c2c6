"""Another server as the engine: requests and responses are forwarded."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from batch_assets.local_api.engines.remote_engine import KEY_VARIABLE
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    ENDPOINT,
    chat_body,
    custom_ids,
    http_request,
    lines_of,
    post_json,
    request_line,
    results,
    submit,
)
from batch_assets_tests.local_api.upstream import Reply, completion, good_reply, unused_port, upstream

pytestmark = pytest.mark.end_to_end  # processes, and waiting for them


def test_requests_and_responses_are_forwarded_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-upstream")
    caplog.set_level(logging.DEBUG)
    # A format that OpenAI refuses: only the other server decides.
    wanted = {"type": "json_schema", "json_schema": {"name": "a b", "strict": True, "schema": {"type": "array"}}}
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,!"}}]
    body = chat_body(top_k=5, response_format=wanted, temperature=7, guided_regex="é\ud800", tools=5, stop="x", n=2)
    body["messages"].append({"role": "user", "content": content})
    with upstream(good_reply) as up, serving(tmp_path, engine=up.url) as api:
        batch = api.wait(submit(api, [request_line(body=body)]).id)
        (output,), errors = results(api, batch)
        direct = post_json(api, ENDPOINT, body)
    assert (output["response"]["status_code"], output["response"]["body"], errors) == (200, completion(), [])
    assert (direct.status, direct.json) == (200, completion())
    assert [(request.path, request.body) for request in up.received] == [(ENDPOINT, body)] * 2
    assert {request.headers["Authorization"] for request in up.received} == {"Bearer sk-upstream"}
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (7, 3, 10)
    assert "sk-upstream" not in caplog.text


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


@pytest.mark.parametrize("how", ["cancel", "stop"])
def test_a_request_in_flight_delays_neither_a_cancel_nor_a_stop(tmp_path: Path, how: str) -> None:
    hold, arrived = threading.Event(), threading.Event()

    def reply(body: Any, number: int) -> Reply:
        arrived.set()
        if number < 2:
            hold.wait(60)
        return good_reply(body, number)

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


def test_concurrency_bounds_requests_and_connections_to_another_server(tmp_path: Path) -> None:
    barrier = threading.Barrier(3)

    def reply(body: Any, number: int) -> Reply:
        barrier.wait(10)  # fails unless three requests are here at the same time
        return good_reply(body, number)

    with upstream(reply) as up, serving(tmp_path, engine=up.url, concurrency=3) as api:
        batches = [submit(api, lines_of(15)), submit(api, lines_of(15))]
        for batch in batches:
            assert api.wait(batch.id).request_counts.completed == 15  # type: ignore[union-attr]
    assert up.maximum_in_flight == 3
    assert len({request.client for request in up.received}) == 3


def test_a_batch_goes_through_two_local_batch_apis(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "far", engine="extractive", api_key="far-key") as far,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(KEY_VARIABLE, "far-key")
        with serving(tmp_path / "near", engine=far.url, engine_model="gpt-4o-mini") as near:
            bad = request_line("bad", body=chat_body(n=0))
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
    with upstream(good_reply) as up, serving(tmp_path, engine=up.url) as api:
        answer = post_json(api, ENDPOINT, chat_body(stream=True))
    assert (answer.status, answer.json["error"]["param"], up.received) == (400, "stream", [])


def test_models_are_listed_even_when_the_server_is_down(tmp_path: Path) -> None:
    with serving(tmp_path, engine=f"http://127.0.0.1:{unused_port()}/v1") as api:
        listed = [model["id"] for model in http_request(api, "GET", "/v1/models").json["data"]]
    assert "local-extractive" in listed
    assert not [name for name in listed if name.startswith("gpt-")], "only the other server knows its models"


@pytest.mark.parametrize("url", ["ftp://host/v1", "http:///v1", "http://host/v1?key=1", "http://me:secret@host/v1"])
def test_an_invalid_url_is_refused_without_showing_secrets(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="engine's") as caught, serving(tmp_path, engine=url):
        pass
    assert "secret" not in str(caught.value)


def test_a_key_with_invalid_characters_is_refused_without_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-\nsecret")
    with pytest.raises(ValueError, match=KEY_VARIABLE) as caught, serving(tmp_path, engine="http://127.0.0.1:1"):
        pass
    assert "secret" not in str(caught.value)
