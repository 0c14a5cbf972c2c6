"""`/v1/completions` and `/v1/moderations`, directly and in batches."""

from __future__ import annotations

from typing import Any, Final

import openai
import pytest

from batch_assets.local_api.endpoints import completions
from batch_assets.local_api.engines.engine import ExtractiveEngine, InstantEngine
from batch_assets.local_api.wire.errors import ApiError
from batch_assets_tests.local_api.support import ARTICLE, request_line, results, submit
from batch_assets_tests.local_api_client import LocalApi

MODEL = "gpt-3.5-turbo-instruct"


def complete(**changes: Any) -> dict[str, Any]:
    body = {"model": MODEL, "prompt": "One two three.", **changes}
    return completions.answer(InstantEngine(), {name: value for name, value in body.items() if value is not ...})


def test_each_prompt_has_n_choices() -> None:
    answer = complete(prompt=["One two.", "Three."], n=2)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "One two."),
        (1, "One two."),
        (2, "Three."),
        (3, "Three."),
    ]
    assert answer["usage"]["completion_tokens"] == 6


def test_the_prompt_is_repeated_on_demand() -> None:
    assert complete(echo=True)["choices"][0]["text"] == "One two three.One two three."


def test_an_answer_has_16_tokens_at_most_unless_the_request_says_more() -> None:
    """OpenAI's default of `max_tokens`, at this endpoint only."""
    body = {"model": MODEL, "prompt": ARTICLE}
    short = completions.answer(ExtractiveEngine(), body)
    assert short["choices"][0]["finish_reason"] == "length"
    assert 0 < short["usage"]["completion_tokens"] <= 16
    assert completions.answer(ExtractiveEngine(), {**body, "max_tokens": 500})["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ...}, "Missing required parameter: 'prompt'."),
        ({"prompt": 5}, "Invalid type for 'prompt': expected one of a string or array of strings, but got an integer"),
        ({"prompt": []}, "Invalid 'prompt': empty array. Expected an array with minimum length 1"),
        ({"prompt": ["a", 5]}, r"Invalid type for 'prompt\[1\]': expected a string, but got an integer instead."),
        ({"prompt": [1, 2]}, "Unsupported parameter: 'prompt' of token ids is not supported with the built-in engine"),
        ({"prompt": [[1], [2]]}, "Unsupported parameter: 'prompt' of token ids is not supported"),
        ({"logprobs": 0}, "Unsupported parameter: 'logprobs' is not supported with the built-in engine"),
        ({"messages": []}, "Unrecognized request argument supplied: messages"),
        ({"model": ...}, "you must provide a model parameter"),
        ({"stream": True}, "'stream' does not support true"),
    ],
)
def test_requests_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError, match=message) as refusal:
        complete(**changes)
    assert refusal.value.status == 400


def test_a_batch_of_completions_is_answered(shared_api: LocalApi) -> None:
    url: Final = "/v1/completions"
    lines = [request_line(f"{n}", url=url, body={"model": MODEL, "prompt": f"Text {n}."}) for n in range(3)]
    batch = shared_api.wait(submit(shared_api, lines, url).id)
    output, errors = results(shared_api, batch)
    texts = {line["custom_id"]: line["response"]["body"]["choices"][0]["text"] for line in output}
    assert (texts, errors) == ({"0": "Text 0.", "1": "Text 1.", "2": "Text 2."}, [])


def test_a_line_needs_a_prompt(shared_api: LocalApi) -> None:
    url: Final = "/v1/completions"
    lines = [
        request_line("a", url=url, body={"model": MODEL}),
        request_line("b", url=url, body={"model": MODEL, "prompt": "x", "stream": True}),
    ]
    batch = shared_api.wait(submit(shared_api, lines, url).id)
    assert batch.errors is not None
    assert [(error.param, error.message) for error in batch.errors.data or []] == [
        ("body.prompt", "Prompt parameter is required."),
        ("body.stream", "Completions: Streaming is not supported in the Batch API."),
    ]


def test_the_built_in_engine_does_not_pretend_to_moderate(shared_api: LocalApi) -> None:
    with pytest.raises(openai.BadRequestError, match="which cannot judge a text"):
        shared_api.client.moderations.create(input="x", model="omni-moderation-latest")
    url: Final = "/v1/moderations"
    line = request_line("a", url=url, body={"model": "omni-moderation-latest", "input": "x"})
    output, (failure,) = results(shared_api, shared_api.wait(submit(shared_api, [line], url).id))
    assert not output
    assert failure["response"]["status_code"] == 400
    assert failure["response"]["body"]["error"]["code"] == "unsupported_endpoint"
