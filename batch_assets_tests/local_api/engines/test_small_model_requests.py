"""What is sent to the small model, without the model: formats in the form that llama.cpp reads."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from batch_assets.local_api.engines import small_model
from batch_assets.local_api.engines.remote_engine import RemoteEngine
from batch_assets.local_api.wire.errors import ApiError
from batch_assets_tests.local_api.support import ENDPOINT, chat_body
from batch_assets_tests.local_api.upstream import Upstream, good_reply, upstream

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
WANTED = {"name": "facts", "schema": SCHEMA, "strict": True}
CHAT_FORMAT = {"type": "json_schema", "json_schema": WANTED}


def forwarded(monkeypatch: pytest.MonkeyPatch, up: Upstream, endpoint: str, body: dict[str, Any]) -> Any:
    """The body that llama.cpp gets."""
    model = small_model.SmallModel()
    monkeypatch.setattr(small_model, "missing_packages", lambda: None)
    monkeypatch.setattr(model, "_running", lambda: RemoteEngine(up.url))
    model.forward(endpoint, body, stop=threading.Event(), attempts=1)
    return up.received[-1].body


def test_formats_are_sent_as_llama_cpp_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with upstream(good_reply) as up:
        chat = chat_body(response_format=CHAT_FORMAT)
        assert forwarded(monkeypatch, up, ENDPOINT, chat) == chat
        response = {"model": "m", "input": "As JSON: One.", "text": {"format": {"type": "json_schema", **WANTED}}}
        assert forwarded(monkeypatch, up, "/v1/responses", response) == {**response, "response_format": CHAT_FORMAT}
        response["text"] = {"format": {"type": "json_object"}}
        assert forwarded(monkeypatch, up, "/v1/responses", response) == {
            **response,
            "response_format": {"type": "json_object"},
        }
        for text in ({}, {"verbosity": "low"}, {"format": {"type": "text"}}):
            response["text"] = text
            assert forwarded(monkeypatch, up, "/v1/responses", response) == response


def test_a_schema_that_openai_refuses_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    loose = json.loads(json.dumps(WANTED).replace("false", "true", 1))
    with upstream(good_reply) as up:
        for endpoint, body in (
            (ENDPOINT, chat_body(response_format={"type": "json_schema", "json_schema": loose})),
            ("/v1/responses", {"model": "m", "input": "One.", "text": {"format": {"type": "json_schema", **loose}}}),
        ):
            with pytest.raises(ApiError, match="Invalid schema for response_format 'facts'"):
                forwarded(monkeypatch, up, endpoint, body)
        assert up.received == []


@pytest.mark.parametrize(
    "changes",
    [
        {"stop": ["\n"], "logit_bias": {"28": -100}},
        {"logprobs": True, "top_logprobs": 2},
        {"tools": [], "tool_choice": "none", "seed": 5, "temperature": 0.5},
    ],
)
def test_what_llama_cpp_honours_is_sent(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    body = chat_body(**changes)
    with upstream(good_reply) as up:
        assert forwarded(monkeypatch, up, ENDPOINT, body) == body


TOOL = {"type": "function", "function": {"name": "f"}}
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


@pytest.mark.parametrize(
    ("endpoint", "body", "message"),
    [
        (ENDPOINT, chat_body(tools=[TOOL]), "'tools' is not supported"),
        (ENDPOINT, chat_body(tool_choice="required"), "'tool_choice' does not support 'required'"),
        (ENDPOINT, chat_body(web_search_options={}), "'web_search_options' is not supported"),
        (ENDPOINT, chat_body(messages=[{"role": "user", "content": [PICTURE]}]), "image_url is only supported by"),
        ("/v1/responses", {"model": "m", "input": "One.", "tools": [TOOL]}, "'tools' is not supported"),
        ("/v1/responses", {"model": "m", "input": "One.", "background": True}, "'background' does not support true"),
        ("/v1/completions", {"model": "m", "prompt": "One."}, "The engine 'smollm2' has no /v1/completions"),
        ("/v1/embeddings", {"model": "m", "input": "One."}, "The engine 'smollm2' has no /v1/embeddings"),
    ],
)
def test_what_llama_cpp_would_ignore_is_refused(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, body: dict[str, Any], message: str
) -> None:
    with upstream(good_reply) as up:
        with pytest.raises(ApiError, match=message) as refusal:
            forwarded(monkeypatch, up, endpoint, body)
        assert refusal.value.status == 400
        assert not up.received
