"""Guards against a second batch after a backup was restored: runs find the batches by their metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from batch_assets.batching.provider.batches import retrieve_batch
from batch_assets.batching.provider.identity import identify
from batch_assets.batching.submission.adoption import enter_batch
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets.batching.submission.reconcile import search_for_unknown_batches
from batch_assets_tests.batching.conftest import (
    CUT,
    DAY,
    NEXT_DAY,
    Call,
    FailsFirst,
    Reply,
    Workspace,
    hiding_batches,
    proxy,
)
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of


def make_the_batches(workspace: Workspace, api: LocalApi, stage: str) -> Path:
    """Take the day to its batches, which end; returns a backup of the database as it was at this stage."""
    backups: dict[str, Path] = {"before the articles": workspace.back_up("1")}

    def back_up_during_the_creation(call: Call) -> Reply:
        if call.creates_batch and "after the claim" not in backups:
            backups["after the claim"] = workspace.back_up("4")
        return call.forward()

    workspace.ingest(workspace.texts("abc"))
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
def test_a_restored_backup_buys_nothing_again(
    workspace: Workspace,
    api: LocalApi,
    stage: str,
    files: int,
    is_planned_again: bool,
) -> None:
    if files > 1:
        workspace = workspace.with_file_limits(max_requests=1)
    backup = make_the_batches(workspace, api, stage)
    before = workspace.column("SELECT batch_id FROM openai_batch ORDER BY batch_id")
    with workspace.restore(backup) as restored:
        if is_planned_again:
            restored.ingest(workspace.texts("abc"))
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
    with workspace.restore(backup) as restored:
        restored.plan()
        restored.submit(api.client)
        restored.collect(api.client)
        assert spent == restored.rows(
            "SELECT batch_id, kind, requests, input_tokens, output_tokens, cost_usd FROM spending"
        )
        assert restored.statuses() == {"answered": 3}
    assert api.stats()["requests_executed"] == 3


@pytest.mark.parametrize("stage", ["before planning", "after planning"])
def test_after_a_restored_backup_only_new_articles_are_bought(workspace: Workspace, api: LocalApi, stage: str) -> None:
    backup = make_the_batches(workspace, api, stage)
    with workspace.restore(backup) as restored:
        restored.ingest(workspace.texts("abcde"))
        restored.plan()
        restored.send(api.client, api)
        restored.whole_day(api)
        assert restored.statuses() == {"answered": 5}
    assert api.stats()["requests_executed"] == 5


@pytest.mark.parametrize("stage", ["after planning", "after the claim"])
def test_a_second_attempt_that_the_backup_does_not_know_is_found(
    workspace: Workspace, api: LocalApi, stage: str
) -> None:
    """The first attempt failed for lack of capacity: the batch that ran has another claim token."""
    workspace.ingest(workspace.texts("abc"))
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
    with workspace.restore(backups[0]) as restored, proxy(api.url, fails) as client:
        restored.submit(client, run_id="later")
        restored.collect(client)
        restored.end_pauses()
        restored.send(client, api)
        assert restored.statuses() == {"answered": 3}
    assert api.stats()["requests_executed"] == 3


def refused(call: Call) -> Reply | None:
    return Reply.of({"error": {"message": "The batch is not valid."}}, 400)


def lost(call: Call) -> Reply | None:
    return CUT


@pytest.mark.parametrize("first", [refused, lost])
def test_the_batch_of_a_claim_after_the_backup_is_found(
    workspace: Workspace, api: LocalApi, first: Callable[[Call], Reply | None]
) -> None:
    workspace.ingest(workspace.texts("abc"))
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
    with workspace.restore(backups[0]) as restored:
        submitted = restored.submit(api.client, run_id="later")
        assert (submitted.created, submitted.batch_ids) == (0, [made])
        assert restored.collect(api.client).requests == {"answered": 3}
    assert api.stats() == {**api.stats(), "batches_created": 1, "requests_executed": 3}


def test_a_restored_backup_does_not_enter_the_batches_of_another_warehouse(
    workspace: Workspace, second: Workspace, api: LocalApi
) -> None:
    for one in (workspace, second):
        one.ingest(workspace.texts("abc"))
    backup = second.back_up()
    workspace.whole_day(api)
    with second.restore(backup) as restored:
        restored.plan(day=DAY)
        submitted = restored.submit(api.client)
        assert (submitted.created, submitted.recovered) == (1, 0)


def test_a_refused_list_does_not_stop_a_first_submission(workspace: Workspace, api: LocalApi) -> None:
    """Some servers have no list. Without a lost answer, a run does not need it."""
    workspace.ingest(workspace.texts("abc"))
    workspace.plan()

    def no_list(call: Call) -> Reply:
        return Reply.of({"error": {"message": "Method not allowed"}}, 405) if call.lists_batches else call.forward()

    with proxy(api.url, no_list) as client:
        assert workspace.submit(client).created == 1


# --- errors of the search


@pytest.mark.parametrize("status", [429, 500, 503, None])
def test_without_the_list_nothing_is_bought(workspace: Workspace, api: LocalApi, status: int | None) -> None:
    backup = make_the_batches(workspace, api, "after planning")

    def fails(call: Call) -> Reply | None:
        if not (call.lists_batches and "limit=1&" not in f"{call.path}&"):
            return call.forward()
        return CUT if status is None else Reply.of({"error": {"message": "Later."}}, status)

    with workspace.restore(backup) as restored:
        with proxy(api.url, fails) as client, pytest.raises(SubmissionError, match="did not list the batches"):
            restored.submit(client, run_id="later")
        assert restored.submit(api.client, run_id="later").created == 0
    assert api.stats()["batches_created"] == 1


@pytest.mark.parametrize("search_first", [True, False])
def test_a_submission_that_was_requeued_after_the_backup_is_not_sent_a_third_time(
    workspace: Workspace, api: LocalApi, search_first: bool
) -> None:
    """The backup knows the first batch as running. It has failed since then, and a second one has run."""
    workspace.ingest(workspace.texts("abc"))
    workspace.plan()
    fails = FailsFirst("token_limit_exceeded", "Enqueued token limit reached.")
    with proxy(api.url, fails) as client:
        api.wait(workspace.submit(client).batch_ids[0])
        backup = workspace.back_up()
        workspace.collect(client)
        workspace.end_pauses()
        (ran,) = workspace.submit(client).batch_ids
        api.wait(ran)
        with workspace.restore(backup) as restored:
            if search_first:
                search(restored, client)
            for run_id in ("second", "third", "fourth"):
                restored.submit(client, run_id=run_id)
                restored.end_pauses()
            restored.collect(client)
            assert restored.statuses() == {"answered": 3}
    assert api.stats()["batches_created"] == 2


def search(workspace: Workspace, client: openai.OpenAI, is_alive: bool = False) -> int:
    return search_for_unknown_batches(workspace.submitter(client), lambda run_id: is_alive)


def test_the_search_enters_the_batch_of_a_killed_run_and_not_that_of_a_live_run(
    workspace: Workspace, api: LocalApi
) -> None:
    backup = make_the_batches(workspace, api, "after the claim")
    with workspace.restore(backup) as restored:
        assert search(restored, api.client, is_alive=True) == 0
        assert restored.column("SELECT state FROM openai_batch") == ["claimed"]
        assert search(restored, api.client) == 1
        assert restored.column("SELECT state FROM openai_batch") == ["submitted"]
        assert restored.collect(api.client).requests == {"answered": 3}


def test_a_second_batch_of_one_claim_is_counted(workspace: Workspace, api: LocalApi) -> None:
    """An answer was lost, and the list lagged for longer than the run searched: OpenAI bills both batches."""
    workspace.ingest(workspace.texts())
    workspace.plan()
    creations: list[str] = []

    def lags(call: Call) -> Reply | None:
        if call.lists_batches:
            return Reply.of({"object": "list", "data": [], "has_more": False})
        reply = call.forward()
        creations.extend([call.path] * call.creates_batch)
        return CUT if call.creates_batch and len(creations) == 1 else reply

    with proxy(api.url, lags) as client:
        workspace.submit(client)
    assert api.stats()["batches_created"] == 2
    workspace.ingest(workspace.texts("abc"))
    workspace.plan()
    for batch in api.client.batches.list(limit=2).data:
        api.wait(batch.id)
    workspace.send(api.client, api)
    workspace.collect(api.client)
    assert workspace.column("SELECT sum(requests) FROM spending") == [5]
    assert workspace.statuses() == {"answered": 3}
    assert workspace.column("SELECT count(*) FROM completion") == [3]


def test_the_batch_of_a_run_that_was_overtaken_during_its_post_is_in_the_tables(
    workspace: Workspace, api: LocalApi
) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    overtaken: list[str] = []

    def slow(call: Call) -> Reply:
        reply = call.forward()
        if call.creates_batch and not overtaken:
            overtaken.append(reply.json["id"])
            api.wait(overtaken[0])
            with proxy(api.url, hiding_batches(overtaken[0])) as client:  # the list lags
                workspace.submit(client, run_id="second")
        return reply

    with proxy(api.url, slow) as client, pytest.raises(SubmissionError):
        workspace.submit(client, run_id="first")
    assert api.stats()["batches_created"] == 2
    for batch in api.client.batches.list(limit=2).data:
        api.wait(batch.id)
    workspace.collect(api.client)
    assert workspace.column("SELECT sum(requests) FROM spending") == [4]
    assert workspace.statuses() == {"answered": 2}


def test_a_batch_that_two_runs_adopt_at_once_is_entered_once(workspace: Workspace, api: LocalApi) -> None:
    backup = make_the_batches(workspace, api, "before planning")
    with workspace.restore(backup) as restored:
        restored.plan()
        identity = identify(api.client, restored.database.warehouse_id())
        (made,) = workspace.column("SELECT batch_id FROM openai_batch")
        batch = retrieve_batch(api.client, made)  # both had listed it before either entered it
        for _ in range(2):
            assert enter_batch(restored.database, api.client, identity, batch, restored.folder) == [of(DAY)]
        assert restored.column("SELECT batch_id FROM openai_batch WHERE batch_id IS NOT NULL") == [made]


@pytest.mark.parametrize("has_results", [True, False])
def test_an_unknown_batch_without_its_request_file_does_not_stop_other_days(
    workspace: Workspace, api: LocalApi, has_results: bool
) -> None:
    backup = make_the_batches(workspace, api, "before planning")
    (made,) = workspace.column("SELECT batch_id FROM openai_batch")
    batch = api.client.batches.retrieve(made)
    for file_id in (batch.input_file_id, None if has_results else batch.output_file_id):
        if file_id is not None:
            api.client.files.delete(file_id)
    with workspace.restore(backup) as restored:
        restored.plan()
        restored.ingest({"x": f"x of {workspace.folder.name}"}, day=NEXT_DAY)
        restored.plan(day=NEXT_DAY)
        restored.send(api.client, api, day=NEXT_DAY)
        assert restored.statuses(NEXT_DAY) == {"answered": 1}
        if has_results:
            assert restored.submit(api.client, run_id="later").created == 0
            assert restored.collect(api.client).requests == {"answered": 3}


@pytest.mark.parametrize("status", [404, 405, 501])
def test_an_api_without_a_list_takes_one_day_after_the_other(workspace: Workspace, api: LocalApi, status: int) -> None:
    def no_list(call: Call) -> Reply:
        return Reply.of({"error": {"message": "There is no list."}}, status) if call.lists_batches else call.forward()

    with proxy(api.url, no_list) as client:
        for day in (DAY, NEXT_DAY):
            workspace.ingest({"a": f"{day} of {workspace.folder.name}"}, day=day)
            workspace.plan(day=day)
            assert workspace.submit(client, day=day).created == 1


def test_a_batch_that_the_api_does_not_return_does_not_stop_other_days(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": f"a of {workspace.folder.name}"}, day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY)
    (broken,) = workspace.submit(api.client, day=NEXT_DAY).batch_ids
    workspace.ingest(workspace.texts("abc"))
    workspace.plan()

    def fails(call: Call) -> Reply:
        if broken in call.path:
            return Reply.of({"error": {"message": "Internal error."}}, 500)
        reply = call.forward()
        if not call.lists_batches:
            return reply
        return Reply.of({**reply.json, "data": [batch for batch in reply.json["data"] if batch["id"] != broken]})

    with proxy(api.url, fails) as client:
        assert workspace.submit(client).created == 1
    assert workspace.column("SELECT state FROM openai_batch WHERE batch_id = ?", [broken]) == ["submitted"]
