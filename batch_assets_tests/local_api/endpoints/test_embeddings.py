"""`/v1/embeddings`, directly and in batches."""

from __future__ import annotations

import base64
import math
import struct
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.local_api.engines import embedder
from batch_assets.local_api.settings import Limits
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import post_json, request_line, results, submit
from batch_assets_tests.local_api_client import LocalApi

PATH: Final = "/v1/embeddings"
BAD_INPUTS: list[Any] = [..., None, "", [], [""], ["a", 1], [[]], [[1], "a"], 5, {}, [True], [-1], [1.5], [None]]
INVALID = "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."


def embeddings_body(**changes: Any) -> dict[str, Any]:
    body = {"model": "text-embedding-3-small", "input": "One bridge.", **changes}
    return {name: value for name, value in body.items() if value is not ...}


def vectors(api: LocalApi, **changes: Any) -> list[list[float]]:
    answer = post_json(api, PATH, embeddings_body(**changes))
    assert answer.status == 200, answer.content
    return [item["embedding"] for item in answer.json["data"]]


def similarity(first: list[float], second: list[float]) -> float:
    return sum(one * other for one, other in zip(first, second, strict=True))


def test_embeddings_have_the_form_of_openais(shared_api: LocalApi) -> None:
    answer = post_json(shared_api, PATH, embeddings_body(input=["One bridge.", "Two."], user="u"))
    assert answer.status == 200
    first, second = answer.json["data"]
    tokens = answer.json["usage"]["prompt_tokens"]
    assert answer.json == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": first["embedding"]},
            {"object": "embedding", "index": 1, "embedding": second["embedding"]},
        ],
        "model": "text-embedding-3-small",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    assert len(first["embedding"]) == 1536
    assert first["embedding"] != second["embedding"]
    assert first["embedding"] == vectors(shared_api)[0]


def test_the_sdk_asks_for_base64_and_reads_the_same_numbers(shared_api: LocalApi) -> None:
    (floats,) = vectors(shared_api)
    read = shared_api.client.embeddings.create(model="text-embedding-3-small", input="One bridge.")
    assert read.data[0].embedding == pytest.approx(floats, abs=1e-7)
    (encoded,) = vectors(shared_api, encoding_format="base64")
    assert isinstance(encoded, str)
    assert list(struct.unpack("<1536f", base64.b64decode(encoded))) == read.data[0].embedding


@pytest.mark.parametrize(
    ("model", "dimensions", "expected"),
    [
        ("text-embedding-3-small", None, 1536),
        ("text-embedding-3-large", None, 3072),
        ("text-embedding-3-large", 256, 256),
        ("text-embedding-ada-002", None, 1536),
        ("bge-m3", None, 1536),
        ("text-embedding-3-small", 1, 1),
    ],
)
def test_dimensions(shared_api: LocalApi, model: str, dimensions: int | None, expected: int) -> None:
    (vector,) = vectors(shared_api, model=model, dimensions=dimensions)
    assert len(vector) == expected
    assert similarity(vector, vector) == pytest.approx(1, abs=1e-5)


@given(st.text(max_size=200), st.integers(1, 64))
def test_vectors_have_length_1_and_a_shorter_one_is_the_beginning_of_a_longer_one(text: str, dimensions: int) -> None:
    whole = embedder.embed_text(text, 64, 64)
    short = embedder.embed_text(text, dimensions, 64)
    assert similarity(whole, whole) == pytest.approx(1, abs=1e-5)
    assert similarity(short, short) == pytest.approx(1, abs=1e-5)
    length = math.sqrt(similarity(whole[:dimensions], whole[:dimensions]))
    if length > 1e-3:  # otherwise rounding errors are too large
        assert [component / length for component in whole[:dimensions]] == pytest.approx(short, abs=1e-4)


def test_texts_with_the_same_words_have_near_vectors(shared_api: LocalApi) -> None:
    one, near, far, case = vectors(
        shared_api,
        input=[
            "The council approved a new bridge over the river.",
            "A new bridge over the river was approved.",
            "Prices of wheat fell again in Chicago.",
            "THE COUNCIL APPROVED A NEW BRIDGE OVER THE RIVER.",
        ],
    )
    assert similarity(one, near) > 0.5 > 0.3 > similarity(one, far)
    assert similarity(one, case) == pytest.approx(1, abs=1e-5)


def test_inputs_may_be_tokens(shared_api: LocalApi) -> None:
    assert len(vectors(shared_api, input=[1, 2, 3])) == 1
    one, other = vectors(shared_api, input=[[1, 2, 3], [3, 2, 1]])
    assert one != other
    answer = post_json(shared_api, PATH, embeddings_body(input=[[1, 2, 3], [3]]))
    assert answer.json["usage"] == {"prompt_tokens": 4, "total_tokens": 4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ...}, "you must provide a model parameter"),
        *(({"input": value}, INVALID) for value in BAD_INPUTS),
        ({"input": ["a"] * 2049}, "Invalid 'input': array length must be 2048 or less."),
        ({"encoding_format": "hex"}, "'hex' is not one of ['float', 'base64'] - 'encoding_format'"),
        ({"dimensions": 1537}, "Invalid value for 'dimensions' = 1537. Must be less than or equal to 1536."),
        (
            {"dimensions": 0},
            "Invalid 'dimensions': integer below minimum value. Expected a value >= 1, but got 0 instead.",
        ),
        (
            {"model": "text-embedding-ada-002", "dimensions": 5},
            "This model does not support specifying dimensions.",
        ),
        ({"colour": 1}, "Unrecognized request argument supplied: colour"),
        (
            {"input": [1] * 8193},
            "This model's maximum context length is 8192 tokens, however you requested 8193 tokens (8193 in your "
            "prompt; 0 for the completion). Please reduce your prompt; or completion length.",
        ),
        ({"input": [[1] * 8000] * 38}, "Requested 304000 tokens, max 300000 tokens per request"),
    ],
)
def test_requests_that_are_refused(shared_api: LocalApi, changes: dict[str, Any], message: str) -> None:
    answer = post_json(shared_api, PATH, embeddings_body(**changes))
    assert answer.status == 400
    assert answer.json["error"]["message"] == message


@pytest.mark.parametrize("model", ["gpt-4.1-mini", "o3", "o4-mini", "no such model"])
def test_models_without_embeddings_are_not_found(shared_api: LocalApi, model: str) -> None:
    answer = post_json(shared_api, PATH, embeddings_body(model=model))
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")


def test_a_batch_of_embeddings_has_the_sum_of_their_usage(shared_api: LocalApi) -> None:
    bodies = [
        embeddings_body(input="One."),
        embeddings_body(input=["Two.", "Three."]),
        embeddings_body(input=[5, 6]),
        embeddings_body(input=""),
    ]
    requests = [request_line(f"{number}", url=PATH, body=body) for number, body in enumerate(bodies)]
    batch = shared_api.wait(submit(shared_api, requests, PATH).id)
    output, (failure,) = results(shared_api, batch)
    assert (batch.status, batch.model) == ("completed", "text-embedding-3-small")
    assert failure["response"]["body"]["error"]["message"] == INVALID
    tokens = sum(line["response"]["body"]["usage"]["total_tokens"] for line in output)
    assert batch.usage is not None
    assert batch.usage.to_dict() == {
        "input_tokens": tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens,
    }


def test_the_inputs_of_all_lines_together_are_limited(tmp_path: Path) -> None:
    def statuses(api: LocalApi, *inputs: Any) -> tuple[str, list[str | None]]:
        requests = [request_line(f"{n}", url=PATH, body=embeddings_body(input=value)) for n, value in enumerate(inputs)]
        batch = api.wait(submit(api, requests, PATH).id)
        return batch.status, [error.code for error in (batch.errors.data or [])] if batch.errors else []

    with serving(tmp_path, limits=Limits(batch_embedding_inputs=5)) as api:
        assert statuses(api, ["a"] * 3, "b", [1, 2, 3]) == ("completed", [])
        assert statuses(api, ["a"] * 3, "b", [[1], [2]], "c") == ("failed", ["too_many_tasks"])
