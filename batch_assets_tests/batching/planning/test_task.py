"""Guards against request bodies that a model refuses: one wrong parameter fails all 50,000 lines of a batch."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.batching.planning.task import Task, TaskError

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
    assert Task("m", user_template=template).render(article)["messages"][1]["content"] == message


def test_a_missing_field_is_empty() -> None:
    assert Task("m").render({"title": None, "body": "B"})["messages"][1]["content"] == "Title: \n\nB"


def test_an_article_is_never_a_template() -> None:
    article = {"title": "{body}", "body": "{title} {url} {0} %s"}
    assert Task("m").render(article)["messages"][1]["content"] == "Title: {body}\n\n{title} {url} {0} %s"


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


@given(system=TEXT, before=TEXT, after=TEXT, body=TEXT, model=TEXT.filter(lambda name: bool(name.strip())))
def test_head_message_and_tail_are_the_rendered_body(
    system: str, before: str, after: str, body: str, model: str
) -> None:
    task = Task(model, system_prompt=system, user_template=before + "{body}" + after, **EVERYTHING)
    rendered = task.render({"body": body})
    message = rendered["messages"][1]["content"]
    assert json.loads(task.body_head + json.dumps(message) + task.body_tail()) == rendered
    assert "max_tokens" not in rendered
