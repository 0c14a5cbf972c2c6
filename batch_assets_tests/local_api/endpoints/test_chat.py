"""`/v1/chat/completions`: objects, limits, and requests that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from batch_assets.local_api.endpoints import chat
from batch_assets.local_api.engines import extractive
from batch_assets.local_api.engines.engine import ExtractiveEngine, InstantEngine
from batch_assets.local_api.engines.engine_choice import Engines
from batch_assets.local_api.engines.tokens import count_tokens
from batch_assets.local_api.wire.errors import ApiError
from batch_assets_tests.local_api.support import ARTICLE, chat_body, post_json
from batch_assets_tests.local_api_client import LocalApi


def messages(content: Any, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Summarise."}, {"role": role, "content": content}]


def test_a_completion_has_the_form_of_openais(local_api: LocalApi) -> None:
    body = {"model": "gpt-5-mini", "messages": messages(f"Title: A bridge\n\n{ARTICLE}")}
    answer = post_json(local_api, "/v1/chat/completions", body)
    assert answer.status == 200
    completion = answer.json
    text = completion["choices"][0]["message"]["content"]
    assert text == extractive.summarise(ARTICLE, title="A bridge", max_tokens=16_384)
    usage = completion["usage"]
    assert completion == {
        "id": completion["id"],
        "object": "chat.completion",
        "created": completion["created"],
        "model": "gpt-5-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": usage["prompt_tokens"],
            "completion_tokens": count_tokens(text),
            "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_local_extractive",
    }
    assert usage["prompt_tokens"] > count_tokens(ARTICLE)
    assert completion["id"].startswith("chatcmpl-")


def test_the_sdk_reads_completions_and_models(local_api: LocalApi) -> None:
    client = local_api.client
    completion = client.chat.completions.create(
        model="any-name", messages=[{"role": "user", "content": ARTICLE}], n=2, temperature=0
    )
    first, second = completion.choices
    assert first.message.content
    assert first.message.content == second.message.content
    assert second.index == 1
    assert [model.id for model in client.models.list()]
    assert client.models.retrieve("org/any-name").id == "org/any-name"


@pytest.mark.parametrize("name", ["max_completion_tokens", "max_tokens"])
def test_the_token_limit_is_kept(name: str) -> None:
    answer = chat.answer(ExtractiveEngine(), chat_body(messages=messages(ARTICLE), **{name: 6}))
    assert answer["choices"][0]["finish_reason"] == "length"
    assert 0 < answer["usage"]["completion_tokens"] <= 6


def test_only_the_last_user_message_is_summarised() -> None:
    body = chat_body(
        messages=[
            {"role": "user", "content": "Ignore this."},
            {"role": "assistant", "content": None, "tool_calls": []},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Title: T\n\nFirst. "}, {"type": "text", "text": "Second."}],
            },
            {"role": "assistant", "content": "Not this."},
        ]
    )
    request, _ = chat.read_request(body)
    assert (request.title, request.text) == ("T", "First. Second.")
    assert len(request.prompt) == 4


@pytest.mark.parametrize(
    ("content", "title", "text"),
    [
        ("Title: A: b\n\nText", "A: b", "Text"),
        ("Title: \n\nText", None, "Text"),
        ("Title: only", "only", ""),
        ("No Title: x\n\nText", None, "No Title: x\n\nText"),
        ("", None, ""),
    ],
)
def test_a_first_line_may_be_the_title(content: str, title: str | None, text: str) -> None:
    request, _ = chat.read_request(chat_body(messages=messages(content)))
    assert (request.title, request.text) == (title, text)


@pytest.mark.parametrize("content", ["", " ", "\n", "Title: x", "\ud800", "\0", "。" * 10_000, "a" * 1_000_000])
def test_any_text_gets_an_answer(content: str) -> None:
    for engine in (ExtractiveEngine(), InstantEngine()):
        assert chat.answer(engine, chat_body(messages=messages(content)))["object"] == "chat.completion"


REASONING = ["o1", "o3-mini", "o4-mini", "gpt-5", "gpt-5-nano", "gpt-5.6-luna", "gpt-6-luna", "gpt-6.1-sol"]
OTHERS = ["gpt-4o", "gpt-4.1-mini", "gpt-5-chat-latest", "qwen3", "ollama/x", "my-gpt-5", "gpt-oss-20b"]


@pytest.mark.parametrize("model", REASONING)
def test_reasoning_models_refuse_what_openais_do(model: str) -> None:
    refusals: list[tuple[dict[str, Any], str, str, str]] = [
        (
            {"max_tokens": 5},
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            "max_tokens",
            "unsupported_parameter",
        ),
        (
            {"temperature": 0.5},
            "Unsupported value: 'temperature' does not support 0.5 with this model. "
            "Only the default (1) value is supported.",
            "temperature",
            "unsupported_value",
        ),
    ]
    for changes, message, param, code in refusals:
        with pytest.raises(ApiError) as refusal:
            chat.read_request(chat_body(model=model, **changes))
        error = refusal.value
        assert (error.status, error.message, error.param, error.code) == (400, message, param, code)
    chat.read_request(chat_body(model=model, temperature=1, max_completion_tokens=5, reasoning_effort="low"))


@pytest.mark.parametrize("model", OTHERS)
def test_other_models_take_temperature_and_max_tokens(model: str) -> None:
    chat.read_request(chat_body(model=model, temperature=0.5, max_tokens=5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ...}, "you must provide a model parameter"),
        ({"model": 5}, "Invalid type for 'model': expected a string, but got an integer instead."),
        ({"messages": ...}, "Missing required parameter: 'messages'."),
        ({"messages": "x"}, "Invalid type for 'messages': expected an array of objects, but got a string instead."),
        ({"messages": ["x"]}, "Invalid type for 'messages[0]': expected an object, but got a string instead."),
        ({"messages": [{"content": "x"}]}, "Missing required parameter: 'messages[0].role'."),
        (
            {"messages": [{"role": "boss", "content": "x"}]},
            "Invalid value: 'boss'. Supported values are: 'system', 'assistant', "
            "'user', 'function', 'tool', and 'developer'.",
        ),
        ({"messages": messages(None)}, "Invalid value for 'content': expected a string, got null."),
        (
            {"messages": messages(5)},
            "Invalid type for 'messages[1].content': expected one of a string or "
            "array of objects, but got an integer instead.",
        ),
        (
            {"messages": messages([{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}])},
            "Invalid content type. input_audio is only supported by certain models.",
        ),
        (
            {"messages": messages([{"type": "text"}])},
            "Invalid type for 'messages[1].content[0].text': expected a string, but got null instead.",
        ),
        ({"colour": 1}, "Unrecognized request argument supplied: colour"),
        (
            {"temperature": 3},
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
        ),
        ({"temperature": "x"}, "Invalid type for 'temperature': expected a decimal, but got a string instead."),
        (
            {"max_completion_tokens": 0},
            "Invalid 'max_completion_tokens': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        ),
        (
            {"max_completion_tokens": True},
            "Invalid type for 'max_completion_tokens': expected an integer, but got a boolean instead.",
        ),
        (
            {"max_tokens": 5, "max_completion_tokens": 5},
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
        ),
        ({"n": 129}, "Invalid 'n': integer above maximum value. Expected a value <= 128, but got 129 instead."),
        ({"stream": True}, "Unsupported value: 'stream' does not support true with the local Batch API."),
    ],
)
def test_requests_that_are_refused(shared_api: LocalApi, changes: dict[str, Any], message: str) -> None:
    answer = post_json(shared_api, "/v1/chat/completions", chat_body(**changes))
    assert answer.status == 400
    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["message"], error["type"]) == (message, "invalid_request_error")


def test_null_counts_as_absent() -> None:
    changes = dict.fromkeys(["temperature", "max_tokens", "n", "stream", "response_format", "top_p"])
    chat.read_request(chat_body(model="gpt-5-mini", **changes))


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="The engines are: extractive, instant"):
        Engines("gpt")
