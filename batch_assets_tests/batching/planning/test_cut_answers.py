"""Guards against a day that is bought again after a higher limit: a run sends only the requests whose answers were cut.

The server of these tests answers with a text's first words, a word for a token, and cuts at the limit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from batch_assets.batching.planning.task import Task
from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, TASK, Workspace, changed_lines, proxy, still_running
from batch_assets_tests.local_api_client import LocalApi

SHORT, LONG = 3, 10  # words


def limited(tokens: int) -> Task:
    return replace(TASK, max_output_tokens=tokens)


def words(workspace: Workspace, name: str, count: int) -> str:
    return " ".join([name, workspace.folder.name, *(str(number) for number in range(count - 2))])


def ingest(workspace: Workspace, *, short: int, long: int, day: str = DAY) -> None:
    lengths = {**{f"short{n}": SHORT for n in range(short)}, **{f"long{n}": LONG for n in range(long)}}
    workspace.ingest({name: words(workspace, name, count) for name, count in lengths.items()}, day=day)


def asked_again(workspace: Workspace, tokens: int, day: str = DAY) -> int:
    return sum(shard.requests for shard in workspace.plan(day=day, task=limited(tokens)).shards)


def test_raising_the_limit_asks_only_the_cut_ones_again_and_only_once(workspace: Workspace, api: LocalApi) -> None:
    ingest(workspace, short=8, long=4)
    workspace.whole_day(api, task=limited(5))
    assert workspace.column("SELECT count(*) FROM summaries WHERE finish_reason = 'length'") == [4]
    assert asked_again(workspace, 12) == 4
    assert workspace.send(api.client, api, task=limited(12)).requests == {"answered": 12}
    assert workspace.column("SELECT DISTINCT finish_reason FROM summaries") == ["stop"]
    for tokens in (12, 13, 1000, 5):
        assert asked_again(workspace, tokens) == 0
    assert api.stats()["requests_executed"] == 16
    assert workspace.column("SELECT sum(requests) FROM spending") == [16]


@pytest.mark.parametrize(("steps", "executed"), [([5, 7], 4), ([5, 7, 9, 12], 8), ([12, 5], 2), ([5, 4, 5, 5, 12], 4)])
def test_each_higher_limit_asks_what_the_last_one_cut(
    workspace: Workspace, api: LocalApi, steps: list[int], executed: int
) -> None:
    ingest(workspace, short=0, long=2)
    for tokens in steps:
        workspace.whole_day(api, task=limited(tokens))
        assert asked_again(workspace, tokens) == 0
    assert api.stats()["requests_executed"] == executed
    most = min(max(steps), LONG)
    assert {len(summary.split()) for summary in workspace.column("SELECT summary FROM summaries")} == {most}
    assert workspace.column("SELECT DISTINCT max_output_tokens FROM completion") == [max(steps)]


@pytest.mark.parametrize("tokens", [1, 4, 5])
def test_lowering_the_limit_asks_nothing(workspace: Workspace, api: LocalApi, tokens: int) -> None:
    ingest(workspace, short=1, long=1)
    workspace.whole_day(api, task=limited(5))
    before = workspace.rows("SELECT * FROM completion ORDER BY ALL")
    assert asked_again(workspace, tokens) == 0
    workspace.collect(api.client, task=limited(tokens))
    assert workspace.rows("SELECT * FROM completion ORDER BY ALL") == before
    assert workspace.statuses() == {"answered": 2}


@pytest.mark.parametrize("tokens", [1, 100, 1_000_000])
def test_an_answer_that_ended_by_itself_is_valid_under_any_limit(
    workspace: Workspace, api: LocalApi, tokens: int
) -> None:
    ingest(workspace, short=3, long=0)
    workspace.whole_day(api, task=limited(SHORT))
    ids = workspace.column("SELECT custom_id FROM batch_request ORDER BY ALL")
    assert asked_again(workspace, tokens) == 0
    assert workspace.column("SELECT custom_id FROM batch_request ORDER BY ALL") == ids
    ingest(workspace, short=3, long=0, day=NEXT_DAY)
    assert asked_again(workspace, tokens, NEXT_DAY) == 0


def test_equal_articles_that_were_cut_share_a_request(workspace: Workspace, api: LocalApi) -> None:
    same = words(workspace, "same", LONG)
    workspace.ingest({"a": same, "b": same, "c": words(workspace, "c", SHORT)})
    workspace.ingest({"d": same}, day=NEXT_DAY)
    for day in (DAY, NEXT_DAY):
        workspace.whole_day(api, day=day, task=limited(5))
    assert api.stats()["requests_executed"] == 2
    assert asked_again(workspace, 12, NEXT_DAY) == 1
    assert asked_again(workspace, 12) == 0  # in flight for the other day
    workspace.send(api.client, api, task=limited(12))
    workspace.collect(api.client, day=NEXT_DAY, task=limited(12))
    assert workspace.column("SELECT DISTINCT finish_reason FROM summaries") == ["stop"]
    assert api.stats()["requests_executed"] == 3


def test_the_cut_answer_stays_until_the_longer_one_is_loaded(workspace: Workspace, api: LocalApi) -> None:
    ingest(workspace, short=0, long=1)
    workspace.whole_day(api, task=limited(5))
    ((cut,),) = workspace.rows("SELECT summary FROM summaries")
    asked_again(workspace, 12)
    workspace.collect(api.client, task=limited(12))
    assert workspace.rows("SELECT status, summary FROM summaries") == [("answered", cut)]
    with proxy(api.url, still_running) as client:
        (batch_id,) = workspace.submit(client).batch_ids
        assert workspace.collect(client, task=limited(12)).requests == {"in_flight": 1}
    assert workspace.rows("SELECT status, summary FROM summaries") == [("answered", cut)]
    api.wait(batch_id)
    workspace.collect(api.client, task=limited(12))
    assert workspace.rows("SELECT status, summary FROM summaries") == [("answered", words(workspace, "long0", LONG))]


def began_no_answer(line: dict[str, Any]) -> None:
    """The model used all output tokens for reasoning."""
    body = line["response"]["body"]
    body["choices"][0].update(finish_reason="length")
    body["choices"][0]["message"]["content"] = None
    body["usage"]["completion_tokens_details"] = {"reasoning_tokens": body["usage"]["completion_tokens"]}


@pytest.mark.parametrize(("tokens", "state"), [(5, "failed"), (4, "failed"), (6, "pending"), (100, "pending")])
def test_a_request_whose_answer_never_began_is_sent_again_under_a_higher_limit_only(
    workspace: Workspace, api: LocalApi, tokens: int, state: str
) -> None:
    ingest(workspace, short=2, long=0)
    workspace.plan(task=limited(5))
    with proxy(api.url, changed_lines(began_no_answer)) as client:
        assert workspace.send(client, api, task=limited(5)).requests == {"failed": 2}
    assert workspace.rows("SELECT DISTINCT code, max_output_tokens FROM failed_request") == [("max_output_tokens", 5)]
    plan = workspace.plan(task=limited(tokens))
    assert (plan.requests, plan.round) == ({state: 2}, 1)
    if state == "pending":
        assert workspace.send(api.client, api, task=limited(tokens)).requests == {"answered": 2}
        assert asked_again(workspace, 200) == 0
    assert workspace.column("SELECT sum(reasoning_tokens) > 0 FROM spending") == [True]


def test_a_failure_of_another_kind_is_not_asked_again_by_a_higher_limit(workspace: Workspace, api: LocalApi) -> None:
    def refuse(line: dict[str, Any]) -> None:
        line["response"]["body"]["choices"][0]["message"].update(content=None, refusal="I won't.")

    ingest(workspace, short=1, long=0)
    workspace.plan(task=limited(5))
    with proxy(api.url, changed_lines(refuse)) as client:
        workspace.send(client, api, task=limited(5))
    assert workspace.plan(task=limited(500)).requests == {"failed": 1}
