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
