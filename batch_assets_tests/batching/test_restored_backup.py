"""Guards against a second bill after a backup of the database was put back: its batches are found by their metadata."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from batch_assets.batching.creation import SubmissionError
from batch_assets.batching.shards import ShardWriter
from batch_assets_tests.batching.conftest import CUT, DAY, Call, FailsFirst, Reply, Workspace, proxy
from batch_assets_tests.local_api_client import LocalApi


def texts(workspace: Workspace, names: str = "abc") -> dict[str, str]:
    return {name: f"{name} of {workspace.folder.name}" for name in names}


def make_the_batches(workspace: Workspace, api: LocalApi, stage: str) -> Path:
    """Take the day to its batches, which end; returns a backup of the database as it was at this stage."""
    backups: dict[str, Path] = {"before the articles": workspace.back_up("1")}

    def back_up_during_the_creation(call: Call) -> Reply:
        if call.creates_batch and "after the claim" not in backups:
            backups["after the claim"] = workspace.back_up("4")
        return call.forward()

    workspace.ingest(texts(workspace))
    backups["before planning"] = workspace.back_up("2")
    workspace.plan()
    backups["after planning"] = workspace.back_up("3")
    with proxy(api.url, back_up_during_the_creation) as client:
        batch_ids = workspace.submit(client).batch_ids
    backups["after submission"] = workspace.back_up("5")
    for batch_id in batch_ids:
        api.wait(batch_id)
    return backups[stage]


@pytest.mark.parametrize(
    ("stage", "files", "is_planned_again"),
    [
        ("before the articles", 1, True),
        ("before planning", 3, True),
        ("after planning", 1, True),
        ("after planning", 3, False),
        ("after the claim", 1, True),
        ("after the claim", 3, False),
        ("after submission", 1, False),
        ("after submission", 3, True),
    ],
)
def test_a_backup_that_is_put_back_buys_nothing_again(
    workspace: Workspace,
    api: LocalApi,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    files: int,
    is_planned_again: bool,
) -> None:
    if files > 1:
        monkeypatch.setattr("batch_assets.batching.requests.ShardWriter", partial(ShardWriter, max_requests=1))
    backup = make_the_batches(workspace, api, stage)
    before = workspace.column("SELECT batch_id FROM openai_batch ORDER BY batch_id")
    with workspace.put_back(backup) as restored:
        if is_planned_again:
            restored.ingest(texts(workspace))
            restored.plan()
        assert restored.submit(api.client, run_id="later").created == 0
        assert restored.collect(api.client).requests == {"answered": 3}
        assert restored.statuses() == {"answered": 3}
        known = "SELECT batch_id FROM openai_batch WHERE state = 'collected' ORDER BY batch_id"
        assert restored.column(known) == before
        assert sorted(restored.column("SELECT batch_id FROM spending")) == before
        assert restored.plan().shards == []
        assert restored.submit(api.client, run_id="later").created == 0
    assert api.stats() == {**api.stats(), "batches_created": files, "requests_executed": 3}


@pytest.mark.parametrize("stage", ["before planning", "after planning", "after submission"])
def test_what_was_collected_and_spent_since_the_backup_is_collected_and_counted_again(
    workspace: Workspace, api: LocalApi, stage: str
) -> None:
    backup = make_the_batches(workspace, api, stage)
    workspace.collect(api.client)
    spent = workspace.rows("SELECT batch_id, kind, requests, input_tokens, output_tokens, cost_usd FROM spending")
    with workspace.put_back(backup) as restored:
        restored.plan()
        restored.submit(api.client)
        restored.collect(api.client)
        assert spent == restored.rows(
            "SELECT batch_id, kind, requests, input_tokens, output_tokens, cost_usd FROM spending"
        )
        assert restored.statuses() == {"answered": 3}
    assert api.stats()["requests_executed"] == 3


@pytest.mark.parametrize("stage", ["before planning", "after planning"])
def test_only_what_came_since_is_bought_after_a_backup_was_put_back(
    workspace: Workspace, api: LocalApi, stage: str
) -> None:
    backup = make_the_batches(workspace, api, stage)
    with workspace.put_back(backup) as restored:
        restored.ingest(texts(workspace, "abcde"))
        restored.plan()
        restored.send(api.client, api)
        restored.whole_day(api)
        assert restored.statuses() == {"answered": 5}
    assert api.stats()["requests_executed"] == 5


@pytest.mark.parametrize("stage", ["after planning", "after the claim"])
def test_a_second_attempt_that_the_backup_does_not_know_is_found(
    workspace: Workspace, api: LocalApi, stage: str
) -> None:
    """The first attempt failed for want of room, or was refused: the batch that ran bears another claim."""
    workspace.ingest(texts(workspace))
    workspace.plan()
    backups: list[Path] = [workspace.back_up("planned")] if stage == "after planning" else []
    fails = FailsFirst("token_limit_exceeded", "Enqueued token limit reached.")

    def answer(call: Call) -> Reply:
        if call.creates_batch and not backups:
            backups.append(workspace.back_up("claimed"))
        return fails(call)

    with proxy(api.url, answer) as client:
        api.wait(workspace.submit(client).batch_ids[0])
        workspace.collect(client)
        workspace.end_pauses()
        (ran,) = workspace.submit(client).batch_ids
    api.wait(ran)
    with workspace.put_back(backups[0]) as restored, proxy(api.url, fails) as client:
        restored.submit(client, run_id="later")
        restored.collect(client)
        restored.end_pauses()
        restored.send(client, api)
        assert restored.statuses() == {"answered": 3}
    assert api.stats()["requests_executed"] == 3


def refused(call: Call) -> Reply | None:
    return Reply.of({"error": {"message": "Billing hard limit has been reached."}}, 400)


def lost(call: Call) -> Reply | None:
    return CUT


@pytest.mark.parametrize("first", [refused, lost])
def test_a_claim_that_was_made_anew_since_the_backup_is_found(
    workspace: Workspace, api: LocalApi, first: Callable[[Call], Reply | None]
) -> None:
    workspace.ingest(texts(workspace))
    workspace.plan()
    backups: list[Path] = []

    def answer(call: Call) -> Reply | None:
        if not call.creates_batch:
            return call.forward()
        if not backups:
            backups.append(workspace.back_up("claimed"))
        return first(call)

    with proxy(api.url, answer) as client, pytest.raises(SubmissionError):
        workspace.submit(client)
    (made,) = workspace.submit(api.client).batch_ids
    api.wait(made)
    with workspace.put_back(backups[0]) as restored:
        submitted = restored.submit(api.client, run_id="later")
        assert (submitted.created, submitted.batch_ids) == (0, [made])
        assert restored.collect(api.client).requests == {"answered": 3}
    assert api.stats() == {**api.stats(), "batches_created": 1, "requests_executed": 3}


def test_another_warehouses_batches_are_not_taken_in_by_a_backup(
    workspace: Workspace, second: Workspace, api: LocalApi
) -> None:
    for one in (workspace, second):
        one.ingest(texts(workspace))
    backup = second.back_up()
    workspace.whole_day(api)
    with second.put_back(backup) as restored:
        restored.plan(day=DAY)
        submitted = restored.submit(api.client)
        assert (submitted.created, submitted.recovered) == (1, 0)


def test_a_list_that_is_refused_holds_up_no_first_submission(workspace: Workspace, api: LocalApi) -> None:
    """Some servers have no list: where no answer is lost, it is not needed."""
    workspace.ingest(texts(workspace))
    workspace.plan()

    def no_list(call: Call) -> Reply:
        return Reply.of({"error": {"message": "Method not allowed"}}, 405) if call.lists_batches else call.forward()

    with proxy(api.url, no_list) as client:
        assert workspace.submit(client).created == 1
