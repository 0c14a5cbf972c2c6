"""Guards against a text that disappears from `summaries` before another one replaces it."""

from dataclasses import replace
from typing import Any

import pytest

from batch_assets.batching.ledger.requests import Refusal
from batch_assets.batching.planning.task import Task
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets_tests.batching.conftest import (
    DAY,
    TASK,
    Call,
    Reply,
    Workspace,
    changed_lines,
    proxy,
    still_running,
    with_api_name,
)
from batch_assets_tests.local_api_client import LocalApi

OTHER_PROMPT = replace(TASK, system_prompt="Say it in one word.")
OVER_BUDGET = Refusal("over_budget", "It would cost too much.")
TEXTS = "SELECT article_id, summary, model, api, batch_id, answered_at FROM summaries ORDER BY article_id"


@pytest.fixture
def answered(workspace: Workspace, api: LocalApi) -> Workspace:
    workspace.ingest(workspace.texts("ab"))
    workspace.plan()
    assert workspace.send(api.client, api).requests == {"answered": 2}
    return workspace


def refuse(call: Call) -> Reply:
    return Reply.of({"error": {"message": "No credit.", "code": "insufficient_quota"}}, 429)


@pytest.mark.parametrize("refusal", [None, OVER_BUDGET])
def test_a_text_stays_while_another_prompt_waits(answered: Workspace, api: LocalApi, refusal: Refusal | None) -> None:
    before = answered.rows(TEXTS)
    answered.plan(task=OTHER_PROMPT)
    collected = answered.collect(api.client, task=OTHER_PROMPT, refusal=refusal)
    assert answered.rows(TEXTS) == before
    assert collected.requests == {"blocked" if refusal else "in_flight": 2}
    assert answered.statuses() == collected.requests
    shown = answered.rows("SELECT DISTINCT error_code, error_message FROM summaries")
    assert shown == [tuple(refusal) if refusal else (None, None)]
    assert answered.send(api.client, api, task=OTHER_PROMPT).requests == {"answered": 2}
    assert answered.rows(TEXTS) != before


def test_a_text_stays_while_its_batch_runs(answered: Workspace, api: LocalApi) -> None:
    before = answered.rows(TEXTS)
    answered.plan(task=OTHER_PROMPT)
    answered.submit(api.client)
    with proxy(api.url, still_running) as client:
        for _ in range(2):
            assert answered.collect(client, task=OTHER_PROMPT).requests == {"in_flight": 2}
            assert answered.rows(TEXTS) == before


def test_a_text_stays_if_its_replacement_fails(answered: Workspace, api: LocalApi) -> None:
    def fail(line: dict[str, Any]) -> None:
        line["response"] = {"status_code": 400, "request_id": "r", "body": {"error": {"message": "Bad words."}}}

    before = answered.rows(TEXTS)
    answered.plan(task=OTHER_PROMPT)
    with proxy(api.url, changed_lines(fail)) as client:
        assert answered.send(client, api, task=OTHER_PROMPT).requests == {"failed": 2}
    assert answered.rows(TEXTS) == before
    assert answered.rows("SELECT DISTINCT status, error_message FROM summaries") == [("failed", "http_400: Bad words.")]


def test_a_text_of_an_edited_article_stays_and_that_of_a_new_one_is_null(answered: Workspace, api: LocalApi) -> None:
    before = {row[0]: row[1] for row in answered.rows(TEXTS)}
    answered.ingest({"a": f"edited {answered.folder.name}", "b": answered.texts("ab")["b"], "c": "new"})
    answered.collect(api.client)  # no run has planned the articles
    assert {row[0]: row[1] for row in answered.rows(TEXTS)} == {**before, "c": None}
    assert answered.statuses() == {"answered": 2, "pending": 1}
    answered.plan()
    answered.collect(api.client)
    assert {row[0]: row[1] for row in answered.rows(TEXTS)} == {**before, "c": None}
    assert answered.statuses() == {"answered": 1, "in_flight": 2}


def test_a_text_of_an_article_that_the_source_no_longer_has_goes(answered: Workspace, api: LocalApi) -> None:
    answered.ingest({"a": answered.texts("ab")["a"]})
    answered.plan(task=OTHER_PROMPT)
    answered.collect(api.client, task=OTHER_PROMPT)
    assert [row[0] for row in answered.rows(TEXTS)] == ["a"]


def test_a_text_of_the_built_in_engine_does_not_stay_for_that_of_a_model(workspace: Workspace, api: LocalApi) -> None:
    """It never counts as the answer of a model."""
    workspace.ingest(workspace.texts("a"))
    workspace.plan()
    with proxy(api.url, with_api_name("local")) as client:
        assert workspace.send(client, api).requests == {"answered": 1}
        workspace.plan(task=OTHER_PROMPT)
        workspace.collect(client, task=OTHER_PROMPT)
        assert workspace.column("SELECT api FROM summaries WHERE summary IS NOT NULL") == ["local"]
    workspace.collect(api.client, task=OTHER_PROMPT)
    assert workspace.rows("SELECT summary, api FROM summaries") == [(None, None)]


def test_only_the_files_that_no_run_has_sent_are_blocked(workspace: Workspace, api: LocalApi) -> None:
    texts = workspace.texts("ab")
    workspace.ingest({"a": texts["a"]})
    workspace.plan()
    workspace.submit(api.client)
    workspace.ingest(texts)
    workspace.plan()
    with proxy(api.url, still_running) as client:
        collected = workspace.collect(client, refusal=OVER_BUDGET)
    assert (collected.requests, collected.blocked) == ({"blocked": 1, "in_flight": 1}, {"submission": 1})
    assert collected.requests_in_files == 2
    assert workspace.rows("SELECT article_id, status, error_code FROM summaries ORDER BY article_id") == [
        ("a", "in_flight", None),
        ("b", "blocked", "over_budget"),
    ]


def test_a_plan_does_not_put_a_blocked_request_into_a_second_file(workspace: Workspace, api: LocalApi) -> None:
    """An equal article of another day waits in the same file."""
    workspace.ingest({"a": f"one text of {workspace.folder.name}"})
    workspace.plan()
    with (
        proxy(api.url, lambda call: refuse(call) if call.creates_batch else call.forward()) as client,
        pytest.raises(SubmissionError, match="No credit"),
    ):
        workspace.submit(client)
    workspace.ingest({"b": f"one text of {workspace.folder.name}"}, day="2026-11-21")
    plan = workspace.plan(day="2026-11-21")
    assert (plan.requests, plan.shards) == ({"blocked": 1}, [])
    assert workspace.plan(day="2026-11-21", refresh=True).shards == []


def test_the_task_of_a_day_without_texts_is_no_error(workspace: Workspace, api: LocalApi) -> None:
    workspace.plan(task=Task("gpt-4.1-nano"))
    assert workspace.collect(api.client, day=DAY, refusal=OVER_BUDGET).requests == {}
