"""Guards against a lost round or day when an API does not know a parameter that only saves money."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from batch_assets.batching.ledger.outcomes import MAX_BATCH_RETRIES
from batch_assets_tests.batching.conftest import (
    API,
    DAY,
    ELSEWHERE,
    NEXT_DAY,
    TASK,
    Call,
    Reply,
    Workspace,
    changed_lines,
    proxy,
    with_api_name,
)
from batch_assets_tests.local_api_client import LocalApi

OPTION = "prompt_cache_options"
OPTIONS = {OPTION: {"mode": "explicit"}}
REFUSAL = f"Unknown parameter: '{OPTION}'."


def refuse_lines(call: Call) -> Reply:
    """Each line is executed, and answered with a 400."""

    def refuse(line: dict[str, Any]) -> None:
        line["response"].update(status_code=400, body={"error": {"code": "unknown_parameter", "message": REFUSAL}})

    return changed_lines(refuse)(call)


def failing_with(*errors: dict[str, Any]) -> Callable[[Call], Reply]:
    """The whole batch fails its validation."""

    def answer(call: Call) -> Reply:
        reply = call.forward()
        if "/batches/" not in call.path:
            return reply
        failed = {"status": "failed", "output_file_id": None, "usage": None, "request_counts": None}
        return Reply.of({**reply.json, **failed, "errors": {"object": "list", "data": list(errors)}})

    return answer


def error(line: int | None) -> dict[str, Any]:
    return {"code": "unknown_parameter", "message": REFUSAL, "line": line, "param": OPTION}


REFUSALS = {
    "each line": refuse_lines,
    "the batch": failing_with(error(None)),
    "a line of the batch": failing_with(error(1)),
    "all lines of the batch": failing_with(error(1), error(2)),
}


def ingest(workspace: Workspace, day: str = DAY) -> None:
    workspace.ingest({name: f"{name} of {workspace.folder.name} on {day}" for name in "ab"}, day=day)


def sent_options(workspace: Workspace) -> set[str | None]:
    """The option in the planned request files."""
    paths = workspace.column(
        "SELECT path FROM batch_request_file JOIN openai_batch USING (submission_id) WHERE state = 'planned'"
    )
    lines = [json.loads(line) for path in paths for line in (workspace.folder / path).read_bytes().splitlines()]
    return {json.dumps(line["body"].get(OPTION)) for line in lines}


@pytest.mark.parametrize(
    ("first", "then"),
    [({}, OPTIONS), (OPTIONS, {}), (OPTIONS, {OPTION: {"mode": "implicit"}}), ({}, {"reasoning_effort": "low"})],
)
def test_an_option_that_only_saves_money_is_no_part_of_the_custom_id(
    workspace: Workspace, api: LocalApi, first: dict[str, Any], then: dict[str, Any]
) -> None:
    """Otherwise a run would buy the day again as soon as the API is known to accept an option."""
    ingest(workspace)
    workspace.plan(optional_parameters=first)
    names = {line["custom_id"]: line["body"] for line in workspace.requests()}
    workspace.plan(optional_parameters=then)
    again = {line["custom_id"]: line["body"] for line in workspace.requests()}
    assert again.keys() == names.keys()
    for name in names:
        assert {**again[name], **first} == {**names[name], **then, **first}
        assert {option: again[name].get(option) for option in then} == then
    workspace.send(api.client, api)
    assert workspace.plan(optional_parameters=first).requests == {"answered": 2}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refused_option_is_dropped_and_costs_no_round(workspace: Workspace, api: LocalApi, kind: str) -> None:
    ingest(workspace)
    workspace.plan(optional_parameters=OPTIONS, max_rounds=1)
    assert sent_options(workspace) == {'{"mode": "explicit"}'}
    with proxy(api.url, REFUSALS[kind]) as client:
        api.wait(workspace.submit(client).batch_ids[0])
        assert workspace.collect(client, max_rounds=1).requests == {"pending": 2}
    assert workspace.rows("SELECT api, model, option, message FROM refused_option") == [
        (API, TASK.model, OPTION, REFUSAL)
    ]
    plan = workspace.plan(optional_parameters=OPTIONS, max_rounds=1)
    assert (plan.requests, plan.plan, plan.round) == ({"pending": 2}, 2, 1)
    assert sent_options(workspace) == {"null"}
    assert workspace.send(api.client, api).requests == {"answered": 2}


@pytest.mark.parametrize(("api_name", "model"), [(ELSEWHERE, TASK.model), (API, "gpt-4.1-mini")])
def test_another_api_or_model_keeps_the_option(workspace: Workspace, api: LocalApi, api_name: str, model: str) -> None:
    ingest(workspace)
    workspace.plan(optional_parameters=OPTIONS)
    with proxy(api.url, refuse_lines) as client:
        workspace.send(client, api)
    task = replace(TASK, model=model)
    workspace.plan(optional_parameters=OPTIONS, api=api_name, task=task)
    assert sent_options(workspace) == {'{"mode": "explicit"}'}
    ingest(workspace, NEXT_DAY)
    workspace.plan(optional_parameters=OPTIONS, day=NEXT_DAY, api=api_name, task=task)
    with proxy(api.url, with_api_name(api_name)) as client:
        for day in (DAY, NEXT_DAY):
            assert workspace.send(client, api, day=day, task=task).requests == {"answered": 2}
    assert workspace.column("SELECT count(*) FROM refused_option") == [1]


@pytest.mark.parametrize("kind", REFUSALS)
def test_the_same_message_for_requests_without_the_option_is_an_ordinary_failure(
    workspace: Workspace, api: LocalApi, kind: str
) -> None:
    """Otherwise runs would send the day for ever. A batch that failed as a whole costs no round, but has a limit."""
    ingest(workspace)
    with proxy(api.url, REFUSALS[kind]) as client:
        for _ in range(1 + MAX_BATCH_RETRIES):
            if "pending" not in workspace.plan(optional_parameters=OPTIONS, max_rounds=1).requests:
                break
            api.wait(workspace.submit(client).batch_ids[0])
            workspace.collect(client, max_rounds=1)
        assert workspace.plan(optional_parameters=OPTIONS, max_rounds=1).requests == {"failed": 2}


@pytest.mark.parametrize("kind", ["each line", "the batch", "a line of the batch"])
def test_batches_created_before_the_refusal_cost_no_round_either(
    workspace: Workspace, api: LocalApi, kind: str
) -> None:
    days = (DAY, NEXT_DAY)
    for day in days:
        ingest(workspace, day)
        workspace.plan(day=day, optional_parameters=OPTIONS, max_rounds=1)
    with proxy(api.url, REFUSALS[kind]) as client:
        for day in days:
            api.wait(workspace.submit(client, day=day).batch_ids[0])
        for day in days:
            assert workspace.collect(client, day=day, max_rounds=1).requests == {"pending": 2}
    for day in days:
        assert workspace.whole_day(api, day=day).requests == {"answered": 2}


def test_a_line_that_is_bad_for_another_reason_fails_beside_it(workspace: Workspace, api: LocalApi) -> None:
    ingest(workspace)
    workspace.plan(optional_parameters=OPTIONS)
    other = {"code": "invalid_url", "message": "Wrong URL.", "line": 2, "param": None}
    with proxy(api.url, failing_with(error(1), other)) as client:
        api.wait(workspace.submit(client).batch_ids[0])
        assert workspace.collect(client).requests == {"failed": 1, "pending": 1}
    assert workspace.rows("SELECT code, superseded FROM failed_request ORDER BY code") == [
        ("invalid_url", False),
        ("refused_option", True),
    ]
