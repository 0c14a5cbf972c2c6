"""Guards against a refresh that loses answers: old ones stay until the new ones are loaded, and both are counted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest

from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.spending import Budget
from batch_assets.batching.operations.cancel import cancel_day
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets_tests.batching.conftest import (
    DAY,
    NEXT_DAY,
    PRICES,
    Call,
    Reply,
    Workspace,
    changed_lines,
    proxy,
)
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of


def renewed(line: dict[str, Any]) -> None:
    message = line["response"]["body"]["choices"][0]["message"]
    message["content"] = f"new {message['content']}"


@pytest.fixture
def done(workspace: Workspace, api: LocalApi) -> Workspace:
    """A day that is answered."""
    workspace.ingest(workspace.texts())
    workspace.whole_day(api)
    return workspace


def summaries(workspace: Workspace, day: str = DAY) -> list[tuple[str, str, str]]:
    return workspace.rows(
        "SELECT article_id, status, summary FROM summaries WHERE partition_date = ? ORDER BY article_id", [day]
    )


def requests_of(plan: Any) -> int:
    return sum(shard.requests for shard in plan.shards)


def test_a_refresh_asks_for_everything_and_replaces_each_answer_when_the_new_one_is_loaded(
    done: Workspace, api: LocalApi
) -> None:
    old = summaries(done)
    assert requests_of(done.plan(refresh=True)) == 2
    with proxy(api.url, changed_lines(renewed)) as client:
        for batch_id in done.submit(client).batch_ids:
            done_before = done.submit(client)
            assert (done_before.created, summaries(done)) == (0, old)
            api.wait(batch_id)
        done.collect(client)
    assert summaries(done) == [(name, status, f"new {text}") for name, status, text in old]
    assert done.column("SELECT count(*) FROM completion") == [2]
    assert done.column("SELECT sum(requests) FROM spending") == [4]
    assert done.column("SELECT count(DISTINCT batch_id) FROM spending") == [2]
    assert api.stats()["requests_executed"] == 4
    assert done.plan().shards == []


def blocked_by_a_budget(done: Workspace, api: LocalApi) -> None:
    for budget in (Budget(max_cost_usd_per_day=0.0), Budget(max_cost_usd_per_month=0.0)):
        with pytest.raises(SubmissionError, match="would exceed"):
            done.submit(api.client, limits=Limits(budget=budget, own_prices=PRICES))


def refused_by_the_api(done: Workspace, api: LocalApi) -> None:
    def refuse(call: Call) -> Reply:
        return Reply.of({"error": {"message": "No."}}, 400) if call.creates_batch else call.forward()

    with proxy(api.url, refuse) as client, pytest.raises(SubmissionError):
        done.submit(client)


def planned_again(done: Workspace, api: LocalApi) -> None:
    assert done.plan().requests == {"answered": 2}


def cancelled_before_it_was_sent(done: Workspace, api: LocalApi) -> None:
    cancel_day(done.database, api.client, day=of(DAY), data_folder=done.folder)


def never_sent(done: Workspace, api: LocalApi) -> None:
    pass


def ends_as(status: str) -> Callable[[Workspace, LocalApi], None]:
    def end(done: Workspace, api: LocalApi) -> None:
        batch_ids = done.submit(api.client).batch_ids

        def answer(call: Call) -> Reply:
            reply = call.forward()
            if not any(batch_id in call.path for batch_id in batch_ids):
                return reply
            errors = {"object": "list", "data": [{"code": "invalid_file_format", "message": "No.", "line": None}]}
            return Reply.of(
                {**reply.json, "status": status, "output_file_id": None, "usage": None, "request_counts": None}
                | ({"errors": errors} if status == "failed" else {})
            )

        for batch_id in batch_ids:
            api.wait(batch_id)
        with proxy(api.url, answer) as client:
            done.collect(client)

    return end


def all_lines_refused(done: Workspace, api: LocalApi) -> None:
    def refuse(line: dict[str, Any]) -> None:
        line["response"]["body"]["choices"][0]["message"].update(content=None, refusal="I won't.")

    with proxy(api.url, changed_lines(refuse)) as client:
        done.send(client, api)


STOPS = {
    "blocked by a budget": blocked_by_a_budget,
    "refused": refused_by_the_api,
    "planned again": planned_again,
    "cancelled before": cancelled_before_it_was_sent,
    "never sent": never_sent,
    "failed": ends_as("failed"),
    "expired": ends_as("expired"),
    "cancelled": ends_as("cancelled"),
    "refused by the model": all_lines_refused,
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_refresh_without_new_answers_keeps_the_old_ones_and_buys_nothing_more(
    done: Workspace, api: LocalApi, stop: str
) -> None:
    old = summaries(done)
    executed = api.stats()["requests_executed"]
    assert requests_of(done.plan(refresh=True)) == 2
    STOPS[stop](done, api)
    with suppress(openai.OpenAIError):
        done.collect(api.client)
    assert summaries(done) == old
    bought = api.stats()["requests_executed"]
    assert done.plan(resume_cancelled=False).requests == {"answered": 2}
    assert done.submit(api.client).created == 0
    done.collect(api.client)
    assert summaries(done) == old
    assert api.stats()["requests_executed"] == bought >= executed


def test_a_refresh_that_is_half_answered_replaces_that_half(done: Workspace, api: LocalApi) -> None:
    kept: list[str] = []

    def half(line: dict[str, Any]) -> bool:
        renewed(line)
        kept.append(line["custom_id"])
        return len(kept) % 2 == 1

    done.plan(refresh=True)
    with proxy(api.url, changed_lines(half)) as client:
        done.send(client, api)
    assert sorted(text.startswith("new ") for _, _, text in summaries(done)) == [False, True]
    assert done.plan().shards == []


def test_during_a_refresh_another_day_with_an_equal_article_keeps_its_answer(done: Workspace, api: LocalApi) -> None:
    done.ingest(done.texts("b"), day=NEXT_DAY)
    done.whole_day(api, day=NEXT_DAY)
    old = summaries(done, NEXT_DAY)
    done.plan(refresh=True)
    (batch_id,) = done.submit(api.client).batch_ids
    assert done.plan(day=NEXT_DAY).requests == {"in_flight": 1}
    api.wait(batch_id)
    with proxy(api.url, changed_lines(renewed)) as client:
        done.collect(client)
        done.collect(client, day=NEXT_DAY)
    assert summaries(done, NEXT_DAY) == [("b", "answered", f"new {old[0][2]}")]


def test_a_refresh_sends_failed_requests_again(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    all_lines_refused(workspace, api)
    assert workspace.statuses() == {"failed": 2}
    assert workspace.plan().shards == []
    assert requests_of(workspace.plan(refresh=True)) == 2
    assert workspace.send(api.client, api).requests == {"answered": 2}
    assert workspace.statuses() == {"answered": 2}
    assert workspace.column("SELECT kind FROM spending ORDER BY kind") == ["answered", "failed"]


def test_two_refreshes_replace_one_after_the_other(done: Workspace, api: LocalApi, tmp_path: Path) -> None:
    for _ in range(2):
        done.plan(refresh=True)
        assert done.plan(refresh=True).shards != []  # the first plan was not sent, and is withdrawn
        with proxy(api.url, changed_lines(renewed)) as client:
            done.send(client, api)
    assert done.column("SELECT sum(requests) FROM spending") == [6]
    assert done.column("SELECT count(*) FROM completion") == [2]
    with serving(tmp_path / "slow", engine="instant", batch_seconds=30) as slow:
        done.plan(refresh=True)
        done.submit(slow.client)
        assert done.plan(refresh=True).shards == []
        done.collect(slow.client)
        assert done.statuses() == {"answered": 2}
