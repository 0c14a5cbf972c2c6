"""Guards against request bodies that a model refuses: one wrong parameter fails all 50,000 lines of a batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batch_assets.batching.planning.task import Task, TaskError
from batch_assets.batching.planning.task_checks import DETAILS
from batch_assets_tests.rendered import message_of, rendered
from batch_assets_tests.vector_task import vector_task

REASONING = ["o1", "o3-mini", "o4-mini", "gpt-5", "gpt-5-mini", "gpt-6-luna", "gpt-10", "ft:gpt-5-mini:acme::a1b2"]
OLDER = [
    "gpt-4.1-nano",
    "gpt-4o-mini-2024-07-18",
    "gpt-3.5-turbo",
    "gpt-5-chat-latest",  # does not reason, for all its name
    "ft:gpt-4o-mini-2024-07-18:acme::a1b2",
    "mistral-small",
]
EVERYTHING: dict[str, Any] = {"temperature": 0.2, "top_p": 0.9, "reasoning_effort": "low"}


@pytest.mark.parametrize("model", REASONING)
def test_reasoning_models_get_effort_and_no_sampling(model: str) -> None:
    task = Task(model, max_output_tokens=7, **EVERYTHING)
    assert task.parameters() == {"max_completion_tokens": 7, "reasoning_effort": "low"}
    assert task.withheld_parameters == ["temperature", "top_p"]


@pytest.mark.parametrize("model", OLDER)
def test_other_models_get_sampling_and_no_effort(model: str) -> None:
    task = Task(model, max_output_tokens=7, **EVERYTHING)
    assert task.parameters() == {"max_completion_tokens": 7, "temperature": 0.2, "top_p": 0.9}
    assert task.withheld_parameters == ["reasoning_effort"]


@pytest.mark.parametrize("model", REASONING + OLDER)
def test_only_what_was_configured_is_sent_or_withheld(model: str) -> None:
    task = Task(model)
    assert task.parameters() == {"max_completion_tokens": task.max_output_tokens}
    assert task.withheld_parameters == []


def test_zero_is_a_temperature() -> None:
    assert Task("gpt-4.1-nano", temperature=0.0).parameters()["temperature"] == 0.0


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Title: {title}\n\n{body}", "Title: T\n\nB"),
        ("{body}", "B"),
        ("{body}{body}", "BB"),
        ("{title}{url}{published_at}{body}", "TUPB"),
        ("{unknown} {{title}} {Body} {body.x} {} {body}", "{unknown} {T} {Body} {body.x} {} B"),
        ("%s $1 \\1 {body}", "%s $1 \\1 B"),
    ],
)
def test_template_fields_are_filled_and_everything_else_stays(template: str, message: str) -> None:
    article = {"title": "T", "body": "B", "url": "U", "published_at": "P"}
    assert message_of(Task("m", user_template=template), article) == message


def test_a_missing_field_is_empty() -> None:
    assert message_of(Task("m"), {"title": None, "body": "B"}) == "Title: \n\nB"


def test_an_article_is_never_a_template() -> None:
    article = {"title": "{body}", "body": "{title} {url} {0} %s"}
    assert message_of(Task("m"), article) == "Title: {body}\n\n{title} {url} {0} %s"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model": ""}, "BATCH_ASSETS_MODEL"),
        ({"model": " \n"}, "BATCH_ASSETS_MODEL"),
        ({"user_template": "Title: {title}"}, r"no \{body\}"),
        ({"user_template": ""}, r"no \{body\}"),
        ({"max_output_tokens": 0}, "max_output_tokens is 0"),
        ({"max_output_tokens": -5}, "max_output_tokens is -5"),
    ],
)
def test_a_task_that_cannot_be_asked_says_what_to_change(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TaskError, match=complaint):
        Task(**{"model": "gpt-4.1-nano", **settings})


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
@given(
    system=TEXT,
    before=TEXT,
    after=TEXT,
    body=TEXT,
    model=TEXT.filter(lambda name: bool(name.strip())),
    image=st.none() | TEXT,
    detail=st.none() | st.sampled_from(DETAILS),
)
@example("{model}", "", "", "{system_prompt}", "{system_prompt}", "{detail}", "low")
def test_head_message_and_tail_are_the_rendered_body(
    endpoint: str, system: str, before: str, after: str, body: str, model: str, image: str | None, detail: str | None
) -> None:
    of_image = {} if image is None else {"image": "picture", "columns": ("picture",), "image_detail": detail}
    task = Task(
        model,
        system_prompt=system,
        user_template=before + "{body}" + after,
        **{**EVERYTHING, **of_image},
        endpoint=endpoint,
    )
    expected = rendered(task, {"body": body}, image=image)
    head = task.body_head + json.dumps(message_of(task, {"body": body}))
    middle = "" if image is None else task.before_image + json.dumps(image)
    assert json.loads(head + middle + task.body_tail()) == expected
    assert "max_tokens" not in expected


@given(before=TEXT, body=TEXT, dimensions=st.none() | st.integers(1, 4000))
def test_a_request_for_a_vector_has_the_text_as_its_input(before: str, body: str, dimensions: int | None) -> None:
    task = vector_task(user_template=before + "{body}", dimensions=dimensions)
    expected: dict[str, Any] = {"model": "text-embedding-3-small", "input": before + body}
    if dimensions is not None:
        expected["dimensions"] = dimensions
    assert json.loads(task.body_head + json.dumps(before + body) + task.body_tail()) == expected


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: vector_task(system_prompt="Embed."), "`system_prompt`, which /v1/embeddings does not take"),
        (lambda: vector_task(max_output_tokens=5), "`max_output_tokens`, which /v1/embeddings does not take"),
        (lambda: vector_task(output_schema={"type": "object"}), "`output_schema`, which"),
        (lambda: vector_task(image="picture", columns=("picture",)), "`image`, which"),
        (lambda: vector_task(temperature=0.5), "`temperature`, which"),
        (lambda: vector_task(dimensions=0), "dimensions is 0"),
        (lambda: Task("m", dimensions=5), "`dimensions`, which /v1/chat/completions does not take"),
        (lambda: Task("m", image="picture"), "add it to `columns`"),
        (lambda: Task("m", image_detail="low"), "no `image`"),
        (lambda: Task("m", image="p", columns=("p",), image_detail="tiny"), "must be one of low, high"),
        (lambda: Task("m", endpoint="/v1/videos"), "endpoint is '/v1/videos'"),
    ],
)
def test_what_an_endpoint_does_not_take_is_a_mistake(make: Callable[[], Task], sentence: str) -> None:
    with pytest.raises(TaskError) as raised:
        make()
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("model", "dimensions", "length"),
    [
        ("text-embedding-3-small", None, 1536),
        ("text-embedding-3-large", 256, 256),
        ("text-embedding-3-large", None, 3072),
        ("bge-m3", None, None),
    ],
)
def test_the_length_of_a_vector_is_known_where_the_model_is(
    model: str, dimensions: int | None, length: int | None
) -> None:
    assert replace(vector_task(dimensions=dimensions), model=model).vector_length == length


def test_a_reasoning_model_gets_its_effort_where_the_endpoint_takes_it() -> None:
    task = Task("gpt-6-luna", reasoning_effort="low", endpoint="/v1/responses")
    assert task.parameters({"prompt_cache_options": {"mode": "explicit"}}) == {
        "max_output_tokens": 1024,
        "store": False,
        "prompt_cache_options": {"mode": "explicit"},
        "reasoning": {"effort": "low"},
    }
    assert Task("gpt-6-luna", endpoint="/v1/responses").parameters({"reasoning.effort": "low"}) == {
        "max_output_tokens": 1024,
        "store": False,
        "reasoning": {"effort": "low"},
    }
