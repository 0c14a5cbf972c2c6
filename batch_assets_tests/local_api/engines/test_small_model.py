"""The small language model itself. `make test-small-model` installs it, and runs these tests."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_assets.local_api.engines import small_model
from batch_assets.output_schema.judge import Judge
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import ENDPOINT, custom_ids, post_json, request_line, results, submit
from batch_assets_tests.local_api_client import LocalApi

pytestmark = pytest.mark.small_model

ARTICLE = (
    "Title: A bridge for the valley\n\nThe council approved the new bridge on Monday. It will cost 40 million euros. "
    "Work on the bridge begins in spring. Residents had asked for the bridge for ten years."
)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    with serving(tmp_path_factory.mktemp("small") / "local_api", engine="smollm2", concurrency=2) as api:
        yield api


def asked(content: str = ARTICLE, **parameters: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "Summarise in a sentence."}, {"role": "user", "content": content}]
    return {"model": "gpt-4.1-mini", "messages": messages, "max_completion_tokens": 24, **parameters}


def answered(api: LocalApi, body: dict[str, Any]) -> dict[str, Any]:
    answer = post_json(api, ENDPOINT, body)
    assert answer.status == 200, answer.content
    completion: dict[str, Any] = answer.json
    return completion


def text_of(completion: dict[str, Any]) -> str:
    text: str = completion["choices"][0]["message"]["content"]
    return text


def test_a_batch_is_answered_with_openais_objects_and_real_usage(api: LocalApi) -> None:
    lines = [request_line(name, body=asked(f"{ARTICLE} {name}")) for name in ("a", "b", "c")]
    batch = api.wait(submit(api, lines).id, seconds=200)
    output, errors = results(api, batch)
    assert (custom_ids(output), errors) == (["a", "b", "c"], [])
    for line in output:
        body = line["response"]["body"]
        assert set(body) == {
            "id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint",
        }  # fmt: skip
        assert (body["model"], body["system_fingerprint"]) == ("gpt-4.1-mini", "fp_local_smollm2")
        assert set(body["choices"][0]["message"]) == {"role", "content", "refusal", "annotations"}
        assert text_of(body)
        assert 0 < body["usage"]["completion_tokens"] <= 24
        assert 50 < body["usage"]["prompt_tokens"] < 200
    assert batch.usage is not None
    assert batch.usage.total_tokens == sum(line["response"]["body"]["usage"]["total_tokens"] for line in output)


def test_the_same_request_with_the_same_seed_has_the_same_answer(api: LocalApi) -> None:
    assert text_of(answered(api, asked())) == text_of(answered(api, asked()))
    warm = [text_of(answered(api, asked(temperature=1.5, seed=seed))) for seed in (1, 2, 1)]
    assert warm[0] == warm[2] != warm[1]


def test_an_answer_ends_at_its_limit_and_at_a_stop_word(api: LocalApi) -> None:
    short = answered(api, asked(max_completion_tokens=5))
    assert (short["choices"][0]["finish_reason"], short["usage"]["completion_tokens"]) == ("length", 5)
    words = text_of(answered(api, asked())).split()
    stopped = answered(api, asked(stop=[words[3]]))
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert words[3] not in text_of(stopped)


def test_an_answer_follows_a_json_schema(api: LocalApi) -> None:
    schema = {
        "type": "object",
        "properties": {"topic": {"type": "string", "enum": ["roads", "food"]}, "million_euros": {"type": "integer"}},
        "required": ["topic", "million_euros"],
        "additionalProperties": False,
    }
    wish: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "facts", "strict": True, "schema": schema}}
    chat = text_of(answered(api, asked(response_format=wish, max_completion_tokens=100)))
    body = {"model": "m", "input": ARTICLE, "text": {"format": {"type": "json_schema", **wish["json_schema"]}}}
    response = post_json(api, "/v1/responses", body).json
    for text in (chat, response["output"][0]["content"][0]["text"]):
        assert Judge(schema).why_invalid(text) is None


def test_an_article_beyond_the_context_is_an_error_of_its_line(api: LocalApi) -> None:
    lines = [request_line("long", body=asked("bridge " * 9000)), request_line("good", body=asked())]
    batch = api.wait(submit(api, lines).id, seconds=200)
    output, errors = results(api, batch)
    assert (custom_ids(output), custom_ids(errors)) == (["good"], ["long"])
    response = errors[0]["response"]
    assert (response["status_code"], response["body"]["error"]["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 8192 tokens" in response["body"]["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [(asked(nonsense=1), None), (asked(model="gpt-5-mini", temperature=0.5), "temperature"), (asked(n=0), "n")],
)
def test_requests_that_openai_refuses_get_its_errors(api: LocalApi, body: dict[str, Any], param: str | None) -> None:
    answer = post_json(api, ENDPOINT, body)
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert answer.json["error"]["param"] == param


def test_a_model_that_died_is_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models: list[small_model.SmallModel] = []

    def remembered(**options: Any) -> small_model.SmallModel:
        models.append(small_model.SmallModel(**options))
        return models[-1]

    monkeypatch.setattr("batch_assets.local_api.engines.engine_choice.SmallModel", remembered)
    with serving(tmp_path, engine="smollm2", concurrency=1) as api:
        batch = submit(api, [request_line(f"{number}", body=asked()) for number in range(3)])
        while api.stats()["requests_executed"] < 1:
            time.sleep(0.05)
        first = models[0]._process
        assert first is not None
        first.kill()
        batch = api.wait(batch.id, seconds=200)
        output, errors = results(api, batch)
        last = models[0]._process
        assert last is not None
        assert last.pid != first.pid
    assert (len(output), errors) == (3, [])
    assert last.poll() is not None, "the model's process ends with the server"


def test_the_models_process_ends_with_the_one_that_started_it() -> None:
    program = [sys.executable, "-m", "batch_assets.local_api.engines.small_model_process", str(small_model._weights())]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"key\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"http://127.0.0.1:")
        process.stdin.close()  # like the kernel after a kill of the other process
        assert process.wait(20) == 0
