"""Guards against a parameter that a model refuses, which fails every line of a batch, and one that raises the cost."""

from __future__ import annotations

import pytest

from batch_assets.batching.provider.model_options import OPENAI_API, gpt_version, known_options

CACHE = {"prompt_cache_options": {"mode": "explicit"}}
LOW = {"reasoning_effort": "low"}


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("gpt-6-luna", CACHE | LOW),
        ("gpt-6-luna-2026-09-22", CACHE | LOW),
        ("gpt-6-sol", CACHE | LOW),
        ("gpt-6-astra", CACHE | LOW),
        ("gpt-6.1-sol", CACHE | LOW),
        ("gpt-6.1-terra", CACHE | LOW),
        ("gpt-6.2-astra", CACHE | LOW),
        ("gpt-5.6", CACHE | LOW),
        ("gpt-5.6-luna", CACHE | LOW),
        ("gpt-5.6-terra-2026-07-09", CACHE | LOW),
        ("ft:gpt-5.6-luna-2026-07-09:acme::abc123", CACHE | LOW),
        ("ft:gpt-6-luna:acme:news:abc123", CACHE | LOW),
        ("gpt-7-nova", CACHE),  # "gpt-5.6 and later"; it is not known whether this kind reasons
        ("gpt-10", CACHE | LOW),
        ("gpt-5.10-luna", CACHE | LOW),  # ten is more than six
        ("gpt-6-cyber", CACHE),
        ("gpt-6-chat-latest", CACHE),
        ("gpt-5.5", LOW),
        ("gpt-5.5-2026-04-23", LOW),
        ("gpt-5", LOW),
        ("gpt-5-2025-08-07", LOW),
        ("gpt-5-mini", LOW),
        ("gpt-5-nano-2025-08-07", LOW),
        ("o1", LOW),
        ("o1-2024-12-17", LOW),
        ("o3", LOW),
        ("o3-mini", LOW),
        ("o4-mini-2025-04-16", LOW),
        ("ft:o4-mini-2025-04-16:acme::abc123", LOW),
        # do not reason by default: "low" would make them more expensive
        ("gpt-5.1", {}),
        ("gpt-5.2", {}),
        ("gpt-5.2-2025-12-11", {}),
        ("gpt-5.4", {}),
        ("gpt-5.4-mini", {}),
        # accept nothing below medium or high, or answer elsewhere
        ("gpt-5-pro", {}),
        ("gpt-5-pro-2025-10-06", {}),
        ("gpt-5.4-pro", {}),
        ("gpt-5.5-pro", {}),
        ("o1-pro", {}),
        ("o3-pro", {}),
        ("o3-deep-research", {}),
        ("o4-mini-deep-research", {}),
        ("gpt-5-codex", {}),
        ("gpt-5-chat-latest", {}),
        ("gpt-5.5-chat-latest", {}),
        ("gpt-5-search-api", {}),
        # accept none at all
        ("o1-mini", {}),
        ("o1-preview", {}),
        ("gpt-4o", {}),
        ("gpt-4o-mini-2024-07-18", {}),
        ("gpt-4.1-nano", {}),
        ("gpt-4-turbo", {}),
        ("gpt-3.5-turbo", {}),
        ("gpt-35-turbo", {}),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc123", {}),
        ("chatgpt-4o-latest", {}),
        ("gpt-image-2", {}),
        ("gpt-oss-120b", {}),
        ("gpt-audio", {}),
        ("text-embedding-3-small", {}),
        ("omni-moderation-latest", {}),
        ("our-gpt-6-luna", {}),
        ("openai/gpt-6-luna", {}),
        ("GPT-6-LUNA", {}),
        ("ft:", {}),
        ("", {}),
    ],
)
def test_a_model_gets_what_it_is_known_to_accept(model: str, options: dict[str, object]) -> None:
    assert known_options(model, OPENAI_API) == options


@pytest.mark.parametrize(
    "api",
    [
        "local",
        "local+vllm",
        "https://my.openai.azure.com/openai/v1",
        "https://api.groq.com/openai/v1",
        "https://gateway.example.org/v1",
        "http://localhost:8000/v1",
        "http://api.openai.com/v1",
        "https://api.openai.com.example.org/v1",
        "",
    ],
)
@pytest.mark.parametrize("model", ["gpt-6-luna", "o3", "gpt-5-mini"])
def test_no_other_api_gets_a_parameter_of_openai(api: str, model: str) -> None:
    assert known_options(model, api) == {}


def test_a_change_of_the_returned_options_changes_no_later_result() -> None:
    known_options("gpt-6-luna", OPENAI_API)["prompt_cache_options"].clear()  # type: ignore[attr-defined]
    assert known_options("gpt-6-luna", OPENAI_API) == CACHE | LOW


@pytest.mark.parametrize(
    ("model", "version"),
    [("gpt-6-luna", (6, 0)), ("gpt-5.6", (5, 6)), ("ft:gpt-4.1-mini-2025-04-14:a::b", (4, 1)), ("gpt-4o", None)],
)
def test_the_version_of_a_model_is_read_from_its_name(model: str, version: tuple[int, int] | None) -> None:
    assert gpt_version(model) == version
