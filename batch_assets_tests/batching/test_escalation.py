"""A request whose answer was cut, invalid or refused is asked again by the next step of its task, and no other is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from batch_assets.batching.collection.collect import collect_day
from batch_assets.batching.ledger.step_spending import spending_by_step
from batch_assets.batching.planning.escalation import escalate
from batch_assets.batching.planning.steps import steps_of
from batch_assets.batching.planning.task import Task, TaskError
from batch_assets.batching.submission.submit import submit_day
from batch_assets.task_set import result_table
from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, PRICES, TASK, Workspace, changed_lines, proxy
from batch_assets_tests.batching.test_tasks import SCHEMA
from batch_assets_tests.local_api_client import LocalApi

LARGE = {"model": "gpt-4.1-mini"}
SUMMARIES = replace(TASK, escalation=(LARGE,))
STRUCTURED = replace(TASK, name="topics", output_schema=SCHEMA, escalation=(LARGE,))
Change = Callable[[dict[str, Any]], None]


def choice(line: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = line["response"]["body"]["choices"][0]
    return found


def be_cut(line: dict[str, Any]) -> None:
    choice(line).update(finish_reason="length")


def begin_no_answer(line: dict[str, Any]) -> None:
    choice(line).update(finish_reason="length", message={"content": None})


def be_refused(line: dict[str, Any]) -> None:
    choice(line).update(message={"content": None, "refusal": "No."})


def be_invalid(line: dict[str, Any]) -> None:
    choice(line).update(message={"content": '{"topics": 1}'})


def fail(line: dict[str, Any]) -> None:
    line["response"] = {"status_code": 500, "body": {"error": {"message": "Oops.", "code": "server_error"}}}


def by_model(**changes: Change) -> Callable[[dict[str, Any]], None]:
    """Change the lines whose model begins so; `_` stands for what no name of a Python argument has."""

    def change(line: dict[str, Any]) -> None:
        model = line["response"]["body"]["model"].replace(".", "_").replace("-", "_")
        for name, of_model in changes.items():
            if model.startswith(name):
                of_model(line)

    return change


def one_round(workspace: Workspace, api: LocalApi, task: Task, change: Change = fail, day: str = DAY) -> dict[str, int]:
    """Plan, submit and collect once; returns the states of the requests. change: of each line of the answers."""
    workspace.plan(task=task, day=day)
    for batch_id in submit_day(workspace.submitter(api.client), task.on(day)).batch_ids:
        api.wait(batch_id)
    with proxy(api.url, changed_lines(change)) as client:
        collected = collect_day(
            workspace.database,
            client,
            day=day,
            results=result_table(task),
            data_folder=workspace.folder,
            max_rounds=3,
            max_output_tokens=task.max_output_tokens,
            own_prices=PRICES,
            timing=workspace.timing,
            escalate=lambda connection, name: escalate(connection, task, "raw_articles", day, name),
        )
    return collected.requests


def sent(workspace: Workspace) -> list[str]:
    """The models of all requests that were written, in their order."""
    return [request["body"]["model"] for request in workspace.requests()]


NANO_IS = pytest.mark.parametrize(
    ("task", "change"),
    [
        pytest.param(SUMMARIES, be_cut, id="cut"),
        pytest.param(SUMMARIES, begin_no_answer, id="cut before an answer"),
        pytest.param(SUMMARIES, be_refused, id="refused"),
        pytest.param(STRUCTURED, be_invalid, id="invalid"),
        pytest.param(STRUCTURED, be_refused, id="structured, refused"),
    ],
)


@NANO_IS
def test_what_a_step_cannot_answer_goes_to_the_next_one(
    workspace: Workspace, api: LocalApi, task: Task, change: Change
) -> None:
    workspace.ingest({"a": "one", "b": "two"})
    assert one_round(workspace, api, task, by_model(gpt_4_1_nano=change)) == {"pending": 2}
    assert one_round(workspace, api, task, by_model(gpt_4_1_nano=change)) == {"answered": 2}
    assert sent(workspace) == ["gpt-4.1-nano"] * 2 + ["gpt-4.1-mini"] * 2
    rows = workspace.rows(f"SELECT status, model FROM {task.name}")
    assert [(status, model[:12]) for status, model in rows] == [("answered", "gpt-4.1-mini")] * 2
    assert workspace.plan(task=task).shards == []


@NANO_IS
def test_a_request_goes_on_once_for_each_step(workspace: Workspace, api: LocalApi, task: Task, change: Change) -> None:
    workspace.ingest({"a": "one"})
    for _ in range(5):
        states = one_round(workspace, api, task, change)
    assert states in ({"failed": 1}, {"answered": 1})  # a text that was cut is an answer
    # an invalid answer of the last step is bought once more, as without steps
    assert sent(workspace) == ["gpt-4.1-nano", "gpt-4.1-mini"] + ["gpt-4.1-mini"] * (change is be_invalid)


def test_the_others_keep_their_names_and_are_not_bought_again(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one", "b": "two"})
    without = replace(SUMMARIES, escalation=())
    workspace.plan(task=without)
    before = workspace.rows("SELECT article_id, custom_id, step FROM batch_request ORDER BY 1")

    def refuse_one(line: dict[str, Any]) -> None:
        if line["custom_id"] == before[0][1]:
            be_refused(line)

    one_round(workspace, api, SUMMARIES, refuse_one)
    after = workspace.rows("SELECT article_id, custom_id, step FROM batch_request ORDER BY 1")
    assert after[1] == before[1]
    assert (after[0][0], after[0][2]) == ("a", 1)
    assert after[0][1] != before[0][1]
    one_round(workspace, api, SUMMARIES, refuse_one)
    assert sent(workspace) == ["gpt-4.1-nano", "gpt-4.1-nano", "gpt-4.1-mini"]


def test_other_failures_stay_in_their_step(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    for _ in range(4):
        one_round(workspace, api, SUMMARIES, fail)
    assert sent(workspace) == ["gpt-4.1-nano"] * 3


def test_only_what_a_step_takes_goes_on(workspace: Workspace, api: LocalApi) -> None:
    task = replace(SUMMARIES, escalation=({**LARGE, "after": ["refused"]},))
    workspace.ingest({"a": "one"})
    assert one_round(workspace, api, task, be_cut) == {"answered": 1}
    workspace.ingest({"b": "two"}, day=NEXT_DAY)
    assert one_round(workspace, api, task, be_refused, NEXT_DAY) == {"pending": 1}


def test_a_step_may_ask_the_same_with_more_tokens(workspace: Workspace, api: LocalApi) -> None:
    task = replace(TASK, escalation=({"max_output_tokens": 4000, "after": ["cut"]},))
    workspace.ingest({"a": "one"})
    assert one_round(workspace, api, task, be_cut) == {"pending": 1}
    assert one_round(workspace, api, task, lambda line: None) == {"answered": 1}
    assert [request["body"]["max_completion_tokens"] for request in workspace.requests()] == [100, 4000]
    assert workspace.plan(task=task).shards == []


def test_an_article_whose_step_was_cut_keeps_its_text_until_there_is_a_better_one(
    workspace: Workspace, api: LocalApi
) -> None:
    workspace.ingest({"a": "one"})
    one_round(workspace, api, SUMMARIES, be_cut)
    [(status, text)] = workspace.rows("SELECT status, summary FROM summaries")
    assert status == "pending"
    assert text
    one_round(workspace, api, SUMMARIES, be_refused)
    assert workspace.rows("SELECT status, summary, error_code FROM summaries") == [("failed", text, "content_refused")]


def test_the_spending_of_each_step_is_apart(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one", "b": "two"})
    for _ in range(2):
        one_round(workspace, api, SUMMARIES, by_model(gpt_4_1_nano=be_refused))
    with workspace.database.reading() as connection:
        steps = spending_by_step(connection, SUMMARIES.on(DAY))
    assert [(step.step, step.model, step.requests, step.answered) for step in steps] == [
        (0, "gpt-4.1-nano", 2, 0),
        (1, "gpt-4.1-mini", 2, 2),
    ]
    total = workspace.column("SELECT sum(coalesce(cost_usd, simulated_cost_usd)) FROM spending")
    assert [sum(step.cost_usd or 0 for step in steps)] == pytest.approx(total)


def test_a_step_shares_its_answers_with_other_days(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    for _ in range(2):
        one_round(workspace, api, SUMMARIES, by_model(gpt_4_1_nano=be_refused))
    workspace.ingest({"z": "one"}, day=NEXT_DAY)
    assert workspace.plan(task=SUMMARIES, day=NEXT_DAY).requests == {"answered": 1}


def test_a_refresh_begins_with_the_first_step(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "one"})
    for _ in range(2):
        one_round(workspace, api, SUMMARIES, by_model(gpt_4_1_nano=be_refused))
    plan = workspace.plan(task=SUMMARIES, refresh=True)
    assert sum(shard.requests for shard in plan.shards) == 1
    assert sent(workspace)[-1] == "gpt-4.1-nano"
    for batch_id in submit_day(workspace.submitter(api.client), SUMMARIES.on(DAY)).batch_ids:
        api.wait(batch_id)
    workspace.collect(api.client, task=SUMMARIES)
    assert workspace.column("SELECT model FROM summaries")[0].startswith("gpt-4.1-nano")


def test_each_step_has_files_of_its_own(workspace: Workspace, api: LocalApi) -> None:
    """A batch must have one model."""
    workspace.ingest({"a": "one", "b": "two"})
    ids = workspace.column("SELECT article_id FROM raw_articles")
    assert len(ids) == 2

    def refuse_one(line: dict[str, Any]) -> None:
        (be_refused if "one" in choice(line)["message"]["content"] else fail)(line)

    one_round(workspace, api, SUMMARIES, refuse_one)
    plan = workspace.plan(task=SUMMARIES)
    assert [(shard.step, shard.requests) for shard in plan.shards] == [(0, 1), (1, 1)]
    files = workspace.rows("SELECT step, model, requests FROM batch_request_file WHERE plan = 2 ORDER BY step")
    assert files == [(0, "gpt-4.1-nano", 1), (1, "gpt-4.1-mini", 1)]
    models = {
        frozenset(request["body"]["model"] for request in requests)
        for requests in ([one] for one in workspace.requests()[-2:])
    }
    assert len(models) == 2
    in_flight = workspace.rows(
        "SELECT custom_id, step FROM in_flight_request JOIN batch_request_file USING (submission_id) "
        "JOIN batch_request USING (custom_id, step)"
    )
    assert len(in_flight) == 2


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ({"modell": "m"}, "has `modell`"),
        ({"after": ["slow"], **LARGE}, "a list of cut, invalid, refused"),
        ({"after": [], **LARGE}, "a list of cut, invalid, refused"),
        ({"after": ["invalid"], **LARGE}, "only an answer with an output schema"),
        ({"max_output_tokens": 5}, "must be at least that of the task"),
        ({}, "asks the same"),
        ({"user_template": "nothing"}, "no {body}"),
        ({"max_output_tokens": "many"}, "Step 1 of `escalation`"),
    ],
)
def test_a_mistake_in_a_step_is_named(step: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TaskError) as raised:
        steps_of(replace(TASK, escalation=(step,)))
    assert sentence in str(raised.value)


def test_two_steps_may_not_ask_the_same() -> None:
    with pytest.raises(TaskError, match="Step 2 of `escalation` asks the same"):
        steps_of(replace(TASK, escalation=(LARGE, {**LARGE, "max_output_tokens": 100})))
