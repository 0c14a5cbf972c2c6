"""Guards against results that are lost, loaded twice, or not loaded because another batch of the day is late."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from batch_assets.batching.collection import collect
from batch_assets.batching.collection.collect import Collected
from batch_assets.batching.collection.ended_batches import EndedBatch
from batch_assets.batching.collection.fetch import CollectionError, Fetched
from batch_assets.batching.collection.load import Loaded, load_results
from batch_assets.batching.ledger import batch_transitions, submissions
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.batches import RemoteBatch, read_batch
from batch_assets_tests.batching.conftest import (
    CUT,
    DAY,
    NEXT_DAY,
    Call,
    FailsFirst,
    Reply,
    Workspace,
    database_in,
    hiding_batches,
    proxy,
    with_api_name,
)
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of


@pytest.fixture(scope="module")
def submitted_once(tmp_path_factory: pytest.TempPathFactory, shared_server: LocalApi) -> Workspace:
    folder = tmp_path_factory.mktemp("submitted")
    workspace = Workspace(folder, database_in(folder))
    workspace.ingest({"a": "one", "b": "two", "c": "two"})
    workspace.plan()
    for batch_id in workspace.submit(shared_server.client).batch_ids:
        shared_server.wait(batch_id)
    return workspace


@pytest.fixture
def submitted(submitted_once: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """A day of three articles, two of them equal, whose batch has ended."""
    with submitted_once.copy(tmp_path) as workspace:
        yield workspace


def statuses(workspace: Workspace, day: str = DAY) -> dict[str, str]:
    return dict(
        workspace.rows("SELECT article_id, status FROM summaries WHERE partition_date = ? ORDER BY article_id", [day])
    )


def stored(workspace: Workspace) -> list[Path]:
    return sorted((workspace.folder / "results").iterdir())


def test_every_article_has_its_summary(submitted: Workspace, api: LocalApi) -> None:
    collected = submitted.collect(api.client)
    (batch_id,) = submitted.column("SELECT batch_id FROM openai_batch")
    assert collected == Collected(batches={batch_id: Loaded(2, 0, 0)}, requests={"answered": 2})
    assert submitted.rows("SELECT article_id, summary, status, error_code FROM summaries ORDER BY article_id") == [
        ("a", "one", "answered", None),
        ("b", "two", "answered", None),
        ("c", "two", "answered", None),
    ]


def test_result_files_are_stored_byte_for_byte(submitted: Workspace, api: LocalApi) -> None:
    submitted.collect(api.client)
    (batch_id,) = submitted.column("SELECT batch_id FROM openai_batch")
    batch = api.client.batches.retrieve(batch_id)
    assert batch.output_file_id is not None
    (key,) = submitted.column("SELECT submission_id FROM openai_batch")
    assert [path.name for path in stored(submitted)] == [f"{key}-1_output.jsonl"]
    assert stored(submitted)[0].read_bytes() == api.client.files.content(batch.output_file_id).content
    assert submitted.rows("SELECT output_path, error_path FROM openai_batch") == [
        (f"results/{key}-1_output.jsonl", None)
    ]


def test_the_ledger_knows_the_batch(submitted: Workspace, api: LocalApi) -> None:
    submitted.collect(api.client)
    assert submitted.rows(
        """SELECT status, requests_total, requests_completed, requests_failed, errors, input_tokens > 0,
            collected_at IS NOT NULL, ended_at >= submitted_at FROM openai_batch"""
    ) == [("completed", 2, 2, 0, None, True, True, True)]
    assert submitted.rows("SELECT * FROM in_flight_request") == []


def test_collecting_again_changes_nothing(submitted: Workspace, api: LocalApi) -> None:
    submitted.collect(api.client)
    before = [submitted.rows(f"SELECT * FROM {table}") for table in ("completion", "openai_batch", "summaries")]
    assert submitted.collect(api.client) == Collected(requests={"answered": 2})
    assert before == [submitted.rows(f"SELECT * FROM {table}") for table in ("completion", "openai_batch", "summaries")]


def test_a_batch_that_another_run_loads_during_the_download_is_not_loaded_again(
    submitted: Workspace, api: LocalApi
) -> None:
    others: list[Collected] = []

    def collect_before_the_download(call: Call) -> Reply:
        if "/content" in call.path:
            others.append(submitted.collect(api.client))
        return call.forward()

    with proxy(api.url, collect_before_the_download) as client:
        assert submitted.collect(client) == Collected(requests={"answered": 2})
    assert [loaded.answered for other in others for loaded in other.batches.values()] == [2]
    assert len(submitted.rows("SELECT * FROM completion")) == 2
    assert len(statuses(submitted)) == 3


def test_a_load_that_breaks_leaves_the_files_and_nothing_else(
    submitted: Workspace, api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_at_the_end(*given: Any) -> dict[str, Loaded]:
        load_results(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(collect, "load_results", break_at_the_end)
        with pytest.raises(KeyboardInterrupt):
            submitted.collect(api.client)
    assert submitted.rows("SELECT * FROM completion") == []
    assert len(stored(submitted)) == 1

    def forbid_downloads(call: Call) -> Reply:
        return Reply.of({"error": {"message": "Gone"}}, 404) if "/content" in call.path else call.forward()

    with proxy(api.url, forbid_downloads) as client:  # what was stored is not fetched again
        assert submitted.collect(client).requests == {"answered": 2}


def store_and_do_not_load(workspace: Workspace, client: openai.OpenAI) -> str:
    """The run stores the result files of the day's batch, and cannot load them, for example since the disk is full."""

    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "load_results", full_disk)
        with pytest.raises(CollectionError, match="The files stay"):
            workspace.collect(client)
    ((batch_id, state),) = workspace.rows("SELECT batch_id, state FROM openai_batch")
    assert state == "ended"
    return str(batch_id)


def refuse_key(call: Call) -> Reply:
    return Reply.of({"error": {"message": "Incorrect API key provided"}}, 401)


def busy(call: Call) -> Reply:
    return Reply.of({"error": {"message": "Bad gateway"}}, 502)


def cut_off(call: Call) -> None:
    return CUT


def forgotten(call: Call) -> Reply:
    """The API, or the account of another key, knows no batch and no file."""
    return call.forward() if call.lists_batches else Reply.of({"error": {"message": "Not found"}}, 404)


AFTERWARDS: list[Callable[[Call], Reply | None]] = [
    forgotten, with_api_name("https://elsewhere.example/v1"), refuse_key, busy, cut_off
]  # fmt: skip


@pytest.mark.parametrize("answer", AFTERWARDS, ids=["forgotten", "another API", "another key", "busy", "cut off"])
def test_stored_result_files_are_loaded_whatever_the_api_answers(
    submitted: Workspace, api: LocalApi, answer: Callable[[Call], Reply | None]
) -> None:
    batch_id = store_and_do_not_load(submitted, api.client)
    with proxy(api.url, answer) as client:
        if answer in (busy, cut_off):  # it is not known which answers count, so `summaries` is not written
            with pytest.raises(CollectionError, match="The API does not answer"):
                submitted.collect(client)
        else:
            collected = submitted.collect(client)
            assert collected == Collected(batches={batch_id: Loaded(2, 0, 0)}, requests={"answered": 2})
    assert submitted.column("SELECT state FROM openai_batch") == ["collected"]
    assert submitted.column("SELECT sum(requests) FROM spending") == [2]
    assert submitted.collect(api.client).requests == {"answered": 2}


def refused_by_validation(batch: dict[str, Any]) -> None:
    errors = [
        {"code": "invalid_url", "message": "Wrong URL.", "param": "url", "line": 1},
        {"code": "mismatched_model", "message": "Two models.", "param": None, "line": None},
    ]
    batch.update(status="failed", output_file_id=None, usage=None, errors={"object": "list", "data": errors})
    batch.update(request_counts={"total": 0, "completed": 0, "failed": 0})


def expired_without_answers(batch: dict[str, Any]) -> None:
    batch.update(status="expired", output_file_id=None, usage=None, expired_at=batch["completed_at"])
    batch.update(request_counts={"total": 2, "completed": 0, "failed": 2})


@pytest.mark.parametrize("change", [refused_by_validation, expired_without_answers])
def test_a_batch_without_files_is_entered_later_as_it_would_have_been_at_once(
    submitted: Workspace, api: LocalApi, change: Callable[[dict[str, Any]], None]
) -> None:
    def answer(call: Call) -> Reply:
        reply = call.forward()
        if "/batches/" not in call.path:
            return reply
        batch = reply.json
        change(batch)
        return Reply.of(batch)

    failures = "SELECT custom_id, code, message, retryable, failed_at FROM failed_request ORDER BY ALL"
    with proxy(api.url, answer) as client:
        with submitted.restore(submitted.back_up()) as at_once:
            at_once.collect(client)
            expected = at_once.rows(failures)
        store_and_do_not_load(submitted, client)
    with proxy(api.url, cut_off) as client, pytest.raises(CollectionError, match="does not answer"):
        submitted.collect(client)
    assert submitted.rows(failures) == expected
    assert len(expected) == 2


def test_a_stored_file_that_was_deleted_before_it_was_loaded_is_downloaded_again(
    submitted: Workspace, api: LocalApi
) -> None:
    batch_id = store_and_do_not_load(submitted, api.client)
    (path,) = stored(submitted)
    path.unlink()
    with proxy(api.url, forgotten) as client:
        for _ in range(3):
            with pytest.raises(CollectionError, match=f"{batch_id} of {DAY} has ended, .*{path.name} is gone"):
                submitted.collect(client)
    assert submitted.column("SELECT state FROM openai_batch") == ["ended"]
    assert submitted.collect(api.client).requests == {"answered": 2}


def test_a_stored_file_that_cannot_be_loaded_does_not_stop_other_batches(workspace: Workspace, api: LocalApi) -> None:
    first, second = two_batches(workspace, api)
    (key,) = workspace.column("SELECT submission_id FROM openai_batch WHERE batch_id = ?", [first])
    path = workspace.folder / "results" / f"{key}-1_output.jsonl"
    path.mkdir(parents=True)  # what DuckDB can't read
    with proxy(api.url, hiding_batches(second)) as client, pytest.raises(CollectionError, match="could not be loaded"):
        workspace.collect(client)
    assert workspace.column("SELECT state FROM openai_batch WHERE batch_id = ?", [first]) == ["ended"]
    with pytest.raises(CollectionError, match=f"{first} .*{path.name}.* could not be loaded"):
        workspace.collect(api.client)
    assert workspace.column("SELECT batch_id FROM completion") == [second]


def running_again(batch: RemoteBatch) -> RemoteBatch:
    return RemoteBatch(batch.id, "in_progress")


def ended_without_files(batch: RemoteBatch) -> RemoteBatch:
    return replace(batch, status="expired", output_file_id=None, input_tokens=None, output_tokens=None, ended_at=None)


@pytest.mark.parametrize("late", [running_again, ended_without_files])
@pytest.mark.parametrize("state", ["ended", "collected"])
def test_what_another_run_saw_of_a_batch_before_it_ended_is_not_written_over_its_end(
    submitted: Workspace, api: LocalApi, state: str, late: Callable[[RemoteBatch], RemoteBatch]
) -> None:
    (seen,) = submissions.uncollected(submitted.database, of(DAY), submitted.folder)
    if state == "ended":
        store_and_do_not_load(submitted, api.client)
    else:
        submitted.collect(api.client)
    before = submitted.rows("SELECT * FROM openai_batch")
    batch = read_batch(api.client.batches.retrieve(seen.batch_id or ""))
    batch_transitions.record_progress(submitted.database, seen, late(batch))
    assert submitted.rows("SELECT * FROM openai_batch") == before
    submitted.collect(api.client)
    assert submitted.column("SELECT state FROM openai_batch") == ["collected"]
    assert submitted.column("SELECT input_tokens FROM openai_batch") == [batch.input_tokens]


@pytest.mark.parametrize("is_loaded_meanwhile", [False, True])
def test_a_file_that_is_stored_again_is_noted_only_while_its_batch_is_not_loaded(
    submitted: Workspace, api: LocalApi, is_loaded_meanwhile: bool
) -> None:
    store_and_do_not_load(submitted, api.client)
    (seen,) = submissions.uncollected(submitted.database, of(DAY), submitted.folder)
    batch = read_batch(api.client.batches.retrieve(seen.batch_id or ""))
    if is_loaded_meanwhile:
        submitted.collect(api.client)
    before = submitted.rows("SELECT state, output_path FROM openai_batch")
    batch_transitions.end(submitted.database, seen, batch, {"output": "results/again.jsonl"})
    after = submitted.rows("SELECT state, output_path FROM openai_batch")
    assert after == (before if is_loaded_meanwhile else [("ended", "results/again.jsonl")])


def test_a_broken_download_leaves_no_file_and_is_repeated(submitted: Workspace, api: LocalApi) -> None:
    def cut_downloads(call: Call) -> Reply | None:
        return CUT if "/content" in call.path else call.forward()

    with proxy(api.url, cut_downloads) as client, pytest.raises(CollectionError, match="OpenAI keeps the results"):
        submitted.collect(client)
    assert stored(submitted) == []
    assert submitted.collect(api.client).requests == {"answered": 2}


def two_batches(workspace: Workspace, api: LocalApi) -> list[str]:
    """A day of two articles, a and b, each in a batch of its own that has ended."""
    workspace = workspace.with_file_limits(max_requests=1)
    workspace.ingest({"a": f"one of {workspace.folder.name}", "b": f"two of {workspace.folder.name}"})
    workspace.plan()
    batch_ids = workspace.submit(api.client).batch_ids
    for batch_id in batch_ids:
        api.wait(batch_id)
    return batch_ids


def test_groups_that_were_loaded_before_a_kill_stay_loaded(
    workspace: Workspace, api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_ids = two_batches(workspace, api)

    def break_at_the_second(connection: Any, batches: list[EndedBatch], *prices: Any) -> dict[str, Loaded]:
        if batches[0].batch_id == batch_ids[1]:
            raise KeyboardInterrupt
        return load_results(connection, batches, *prices)

    with monkeypatch.context() as broken:
        broken.setattr(collect, "load_results", break_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            workspace.collect(api.client, bytes_at_once=1)
    assert workspace.rows("SELECT batch_id FROM completion") == [(batch_ids[0],)]
    report = workspace.collect(api.client)
    assert list(report.batches) == [batch_ids[1]]
    assert report.requests == {"answered": 2}


def test_the_answers_of_one_batch_stay_if_the_api_does_not_return_the_next(workspace: Workspace, api: LocalApi) -> None:
    first, second = two_batches(workspace, api)

    def hide_second(call: Call) -> Reply:
        return Reply.of({"error": {"message": "Down"}}, 500) if second in call.path else call.forward()

    with proxy(api.url, hide_second) as client, pytest.raises(CollectionError, match=f"{second}: Down"):
        workspace.collect(client)
    assert workspace.column("SELECT batch_id FROM completion") == [first]
    assert workspace.statuses() == {"answered": 1, "in_flight": 1}
    assert list(workspace.collect(api.client).batches) == [second]
    assert statuses(workspace) == {"a": "answered", "b": "answered"}


def test_a_batch_that_the_api_does_not_return_does_not_stop_the_others(workspace: Workspace, api: LocalApi) -> None:
    workspace = workspace.with_file_limits(max_requests=1)
    workspace.ingest(workspace.texts("abcdef"))
    workspace.plan()
    first, *others = workspace.submit(api.client).batch_ids
    for batch_id in (first, *others):
        api.wait(batch_id)

    def hide_first(call: Call) -> Reply:
        return Reply.of({"error": {"message": "Down"}}, 500) if first in call.path else call.forward()

    with proxy(api.url, hide_first) as client, pytest.raises(CollectionError, match=f"{first}: Down"):
        workspace.collect(client)
    assert sorted(workspace.column("SELECT batch_id FROM completion")) == sorted(others)
    assert workspace.statuses() == {"answered": 5, "in_flight": 1}
    assert list(workspace.collect(api.client).batches) == [first]
    assert workspace.statuses() == {"answered": 6}


def test_a_file_that_cannot_be_loaded_does_not_stop_the_others(workspace: Workspace, api: LocalApi) -> None:
    first, second = two_batches(workspace, api)
    (key,) = workspace.column("SELECT submission_id FROM openai_batch WHERE batch_id = ?", [first])
    path = workspace.folder / "results" / f"{key}-1_output.jsonl"
    path.mkdir(parents=True)  # what DuckDB can't read
    with pytest.raises(CollectionError, match=f"{first} .*{path.name}.* could not be loaded"):
        workspace.collect(api.client)
    assert workspace.column("SELECT batch_id FROM completion") == [second]
    assert workspace.statuses() == {"answered": 1, "in_flight": 1}
    path.rmdir()
    assert workspace.collect(api.client).requests == {"answered": 2}


def test_an_answer_that_is_no_batch_does_not_stop_the_others(workspace: Workspace, api: LocalApi) -> None:
    first, second = two_batches(workspace, api)

    def confuse(call: Call) -> Reply:
        if call.path.endswith(first) or ("/content" not in call.path and "/files/" in call.path):
            return Reply(200, b"<html>busy</html>", "text/html")
        return call.forward()

    with proxy(api.url, confuse) as client, pytest.raises(CollectionError, match=f"{first} cannot be read"):
        workspace.collect(client)
    assert workspace.column("SELECT batch_id FROM completion") == [second]


def test_a_running_batch_is_left_running_and_a_cancelled_one_is_pending(workspace: Workspace, tmp_path: Path) -> None:
    with serving(tmp_path / "slow", engine="instant", latency_seconds=60) as slow:
        workspace.ingest({"a": "one", "b": "two"})
        workspace.plan()
        (batch_id,) = workspace.submit(slow.client).batch_ids
        assert workspace.collect(slow.client) == Collected(
            fetched=Fetched(still_running=[batch_id]), requests={"in_flight": 2}
        )
        assert statuses(workspace) == {"a": "in_flight", "b": "in_flight"}
        assert workspace.rows("SELECT collected_at, ended_at FROM openai_batch") == [(None, None)]

        slow.client.batches.cancel(batch_id)
        slow.wait(batch_id)
        collected = workspace.collect(slow.client)
    assert collected.batches[batch_id] == Loaded(answered=0, failed=2, quarantined=0)
    assert collected.requests == {"pending": 2}
    assert workspace.rows("SELECT status, error_code FROM summaries") == [("pending", "batch_cancelled")] * 2
    assert workspace.plan().round == 2


def test_what_expired_is_pending_until_the_rounds_are_used_up(workspace: Workspace, tmp_path: Path) -> None:
    with serving(tmp_path / "slow", engine="instant", latency_seconds=60, completion_window_seconds=0.1) as slow:
        workspace.ingest({"a": "one"})
        for expected in ("pending", "pending", "failed"):
            collected = workspace.whole_day(slow)
            assert collected.requests == {expected: 1}
            assert statuses(workspace) == {"a": expected}
        assert workspace.plan().shards == []
    ((code, message),) = workspace.rows("SELECT error_code, error_message FROM summaries")
    assert code == "batch_expired"
    assert "completion window" in message
    assert workspace.column("SELECT round FROM openai_batch ORDER BY round") == [1, 2, 3]


def rewrite(workspace: Workspace, path: Path, content: bytes) -> None:
    """Replace the request file and its sha256 in the ledger: a run does not send a file with another sha256."""
    path.write_bytes(content)
    workspace.execute("UPDATE batch_request_file SET sha256 = ?", [sha256(content).hexdigest()])


def test_a_line_that_validation_refuses_fails_alone(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("abc"))
    workspace.plan()
    (path,) = workspace.request_files()
    lines = path.read_bytes().splitlines(keepends=True)
    rewrite(workspace, path, lines[0] + lines[1].replace(b'"POST"', b'"GET"') + lines[2])
    (batch_id,) = workspace.submit(api.client).batch_ids
    assert api.wait(batch_id).status == "failed"
    assert workspace.collect(api.client).batches[batch_id] == Loaded(answered=0, failed=3, quarantined=0)
    refused = json.loads(lines[1])["custom_id"]
    assert dict(workspace.rows("SELECT custom_id, retryable FROM failed_request")) == {
        json.loads(line)["custom_id"]: json.loads(line)["custom_id"] != refused for line in lines
    }
    ((message,),) = workspace.rows("SELECT message FROM failed_request WHERE custom_id = ?", [refused])
    assert "GET" in message
    assert sorted(statuses(workspace).values()) == ["failed", "pending", "pending"]
    assert json.loads(workspace.column("SELECT errors FROM openai_batch")[0])[0]["line"] == 2
    assert workspace.whole_day(api).requests == {"answered": 2, "failed": 1}


def test_a_batch_that_fails_as_a_whole_says_why(submitted: Workspace, api: LocalApi) -> None:
    error = {"code": "invalid_file_format", "message": "The file is not JSONL.", "param": None, "line": None}

    def fail(call: Call) -> Reply:
        batch = call.forward().json
        batch.update(status="failed", output_file_id=None, errors={"object": "list", "data": [error]})
        batch["request_counts"] = {"total": 2, "completed": 0, "failed": 0}
        return Reply.of(batch)

    with proxy(api.url, fail) as client:
        assert submitted.collect(client).requests == {"pending": 2}
    assert submitted.rows("SELECT DISTINCT code, message, retryable FROM failed_request") == [
        ("invalid_file_format", "The file is not JSONL.", True)
    ]


def no_files(batch: dict[str, Any]) -> None:
    batch.update(output_file_id="", error_file_id="", status="expired", request_counts=None)


def nothing_but_ids(batch: dict[str, Any]) -> None:
    batch.update(request_counts=None, usage=None, completed_at=None, errors={"object": "list", "data": None})
    batch["status"] = batch["status"].upper()


@pytest.mark.parametrize(
    ("change", "requests"),
    [(no_files, {"pending": 2}), (nothing_but_ids, {"answered": 2})],
    ids=["file ids of no length", "no counts"],
)
def test_batch_objects_of_other_servers_are_understood(
    submitted: Workspace, api: LocalApi, change: Callable[[dict[str, Any]], None], requests: dict[str, int]
) -> None:
    def answer(call: Call) -> Reply:
        reply = call.forward()
        if "/batches/" not in call.path:
            return reply
        batch = reply.json
        change(batch)
        return Reply.of(batch)

    with proxy(api.url, answer) as client:
        assert submitted.collect(client).requests == requests


def test_a_day_collects_the_batch_of_another_that_it_waits_for(submitted: Workspace, api: LocalApi) -> None:
    submitted.ingest({"x": "two"}, day=NEXT_DAY)
    submitted.plan(day=NEXT_DAY)
    assert submitted.collect(api.client, day=NEXT_DAY).requests == {"answered": 1}
    assert statuses(submitted, NEXT_DAY) == {"x": "answered"}
    assert statuses(submitted) == {}
    assert submitted.collect(api.client).requests == {"answered": 2}


def test_summaries_of_other_days_do_not_change(submitted: Workspace, api: LocalApi) -> None:
    submitted.collect(api.client)
    submitted.ingest({"x": "two"}, day=NEXT_DAY)
    submitted.plan(day=NEXT_DAY)
    submitted.collect(api.client, day=NEXT_DAY)
    assert len(statuses(submitted)) == 3


def test_an_article_that_is_newer_than_the_plan_is_pending(submitted: Workspace, api: LocalApi) -> None:
    submitted.ingest({"a": "one", "new": "not planned yet"})
    submitted.collect(api.client)
    assert statuses(submitted) == {"a": "answered", "new": "pending"}


def test_a_missing_batch_is_not_lost_on_the_first_day(submitted: Workspace, api: LocalApi) -> None:
    """The key may be wrong, or the fault may pass: a run that bought the requests at once would pay twice."""
    submitted = submitted.with_timing(lost_after=timedelta(hours=25))

    def forget(call: Call) -> Reply:
        return Reply.of({"error": {"message": "No batch found"}}, 404)

    with proxy(api.url, forget) as client:
        assert submitted.collect(client).requests == {"in_flight": 2}
    assert submitted.collect(api.client).requests == {"answered": 2}


def test_a_completed_batch_without_its_output_file_is_waited_for(submitted: Workspace, api: LocalApi) -> None:
    submitted = submitted.with_timing(lost_after=timedelta(hours=25))

    def without_file(call: Call) -> Reply:
        reply = call.forward()
        return Reply.of({**reply.json, "output_file_id": None}, 200) if "/batches/" in call.path else reply

    with proxy(api.url, without_file) as client:
        assert submitted.collect(client).requests == {"in_flight": 2}
    assert submitted.collect(api.client).requests == {"answered": 2}


def test_what_a_former_prompt_asked_for_is_paid_for_and_so_collected(submitted: Workspace, api: LocalApi) -> None:
    [(old,)] = submitted.rows("SELECT batch_id FROM openai_batch")
    api.wait(old)
    submitted.plan(task=Task("gpt-4.1-nano"))
    submitted.submit(api.client)
    submitted.collect(api.client)
    assert submitted.rows("SELECT collected_at IS NOT NULL FROM openai_batch WHERE batch_id = ?", [old]) == [(True,)]
    assert submitted.rows("SELECT count(*) FROM completion WHERE batch_id = ?", [old]) == [(2,)]


def test_a_missing_batch_is_reported_and_not_bought_again_while_its_account_shows_no_other(
    submitted: Workspace, api: LocalApi
) -> None:
    """The key may be wrong for days: a run that bought the requests again would pay twice."""

    def forget(call: Call) -> Reply:
        return Reply.of({"error": {"message": "No batch found"}}, 404) if "/batches/" in call.path else call.forward()

    (batch_id,) = submitted.column("SELECT batch_id FROM openai_batch")
    with proxy(api.url, forget) as client:
        for _ in range(2):
            collected = submitted.collect(client)
            assert (collected.fetched.missing, collected.requests) == ([batch_id], {"in_flight": 2})
    ((state, message),) = submitted.rows("SELECT state, message FROM openai_batch")
    assert state == "missing"
    assert f"does not find {batch_id} of {DAY} with the present key. Which organization and project" in message
    assert submitted.plan().shards == []
    assert submitted.collect(api.client).requests == {"answered": 2}


@pytest.mark.parametrize(
    ("status", "ended"),
    [(name, True) for name in ("completed", "failed", "expired", "cancelled", "COMPLETED")]
    + [(name, False) for name in ("validating", "in_progress", "finalizing", "cancelling", "paused", "", None)],
)
def test_only_a_status_that_is_known_to_be_the_last_is_the_end(status: str | None, ended: bool) -> None:
    assert read_batch(Batch.construct(id="batch_x", status=status)).has_ended is ended


def test_when_a_batch_ended_is_when_its_answers_came(submitted: Workspace, api: LocalApi) -> None:
    submitted.collect(api.client)
    (batch_id,) = submitted.column("SELECT batch_id FROM openai_batch")
    completed_at = api.client.batches.retrieve(batch_id).completed_at
    assert completed_at is not None
    moment = datetime.fromtimestamp(completed_at, UTC).replace(tzinfo=None)  # as in the tables
    assert submitted.rows("SELECT DISTINCT completed_at FROM completion") == [(moment,)]
    assert submitted.rows("SELECT ended_at FROM openai_batch") == [(moment,)]


def with_answers(batch: dict[str, Any]) -> None:
    """OpenAI stopped it after some requests."""


def with_answers_whose_file_comes_later(batch: dict[str, Any]) -> None:
    batch.update(output_file_id=None)


def with_usage_alone(batch: dict[str, Any]) -> None:
    batch.update(output_file_id=None, request_counts={"total": 2, "completed": 0, "failed": 0})


@pytest.mark.parametrize("through", ["collect", "submit"])
@pytest.mark.parametrize(
    ("what_is_there", "requests"),
    [
        (with_answers, {"answered": 2}),
        (with_answers_whose_file_comes_later, {"answered": 2}),
        (with_usage_alone, {"pending": 2}),
    ],
)
def test_a_batch_that_failed_for_lack_of_capacity_is_collected_if_a_part_of_it_ran(
    submitted: Workspace,
    api: LocalApi,
    what_is_there: Callable[[dict[str, Any]], None],
    requests: dict[str, int],
    through: str,
) -> None:
    submitted = submitted.with_timing(lost_after=timedelta(hours=25))
    error = {
        "code": "token_limit_exceeded",
        "message": "ValidationCancelledError: enqueued token limit.",
        "param": None,
        "line": None,
    }

    def fail(call: Call) -> Reply:
        reply = call.forward()
        if "/v1/batches" not in call.path:
            return reply
        shown = reply.json
        for batch in shown.get("data", [shown]):
            batch.update(status="failed", failed_at=batch["completed_at"], completed_at=None)
            batch.update(errors={"object": "list", "data": [error]})
            batch.update(usage={"input_tokens": 5_000, "output_tokens": 900})
            (with_answers if file_is_there else what_is_there)(batch)
        return Reply.of(shown)

    file_is_there = False
    with proxy(api.url, fail) as client:
        if through == "submit":
            assert (submitted.submit(client).requeued, submitted.submit(client).created) == (0, 0)
        if what_is_there is with_answers_whose_file_comes_later:
            collected = submitted.collect(client)
            assert (collected.fetched.requeued, collected.requests) == ([], {"in_flight": 2})
            file_is_there = True
        assert submitted.collect(client).requests == requests
    assert submitted.column("SELECT sum(input_tokens) FROM spending") == [5_000]
    assert submitted.column("SELECT sum(output_tokens) FROM spending") == [900]


NO_CAPACITY = [
    pytest.param("token_limit_exceeded", "Enqueued token limit reached for gpt-4.1-nano.", id="tokens"),
    pytest.param("unknown", "Enqueued request limit reached for gpt-4.1-nano.", id="requests"),
    pytest.param("invalid_request", "Cannot find file file-x, or organization org-x has no access to it.", id="file"),
]


@pytest.mark.parametrize(("code", "message"), NO_CAPACITY)
def test_a_batch_without_capacity_is_sent_again_with_the_same_file(
    workspace: Workspace, api: LocalApi, code: str, message: str
) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    with proxy(api.url, FailsFirst(code, message)) as client:
        (first,) = workspace.submit(client).batch_ids
        api.wait(first)
        collected = workspace.collect(client)
        assert (collected.fetched.requeued, collected.requests) == ([first], {"in_flight": 2})
        waiting = workspace.submit(client)
        assert (waiting.created, waiting.deferred, waiting.batch_ids) == (0, 1, [])
        assert waiting.next_attempt_at is not None
        workspace.end_pauses()
        (second,) = workspace.submit(client).batch_ids
    before, after = (api.wait(batch_id).metadata or {} for batch_id in (first, second))
    assert before["claim_token"] != after["claim_token"]
    assert {**before, "claim_token": None} == {**after, "claim_token": None}
    assert workspace.collect(api.client).requests == {"answered": 2}
    assert api.stats() == {**api.stats(), "files_created": 1, "batches_created": 2, "requests_executed": 2}
    assert workspace.rows("SELECT attempt, earlier_batch_ids, round FROM openai_batch") == [(2, [first], 1)]


def test_three_bad_lines_of_a_thousand_cost_the_others_a_round_and_nothing_else(
    workspace: Workspace, api: LocalApi
) -> None:
    workspace.ingest({f"{number:04d}": f"{number} of {workspace.folder.name}" for number in range(1_000)})
    workspace.plan()
    (path,) = workspace.request_files()
    lines = path.read_bytes().splitlines(keepends=True)
    for number in (0, 499, 999):
        lines[number] = lines[number].replace(b'"POST"', b'"GET"')
    rewrite(workspace, path, b"".join(lines))
    api.wait(workspace.submit(api.client).batch_ids[0])
    assert workspace.collect(api.client).requests == {"failed": 3, "pending": 997}
    workspace.whole_day(api)
    assert workspace.statuses() == {"failed": 3, "answered": 997}
    reasons = workspace.column("SELECT error_message FROM summaries WHERE status = 'failed'")
    assert all("GET" in reason for reason in reasons)
    assert api.stats()["requests_executed"] == 997


def interrupted(reply: Reply) -> Reply:
    return replace(reply, sent_bytes=len(reply.content) // 2)


def cut_short(reply: Reply) -> Reply:
    """The answer is complete HTTP, and a part of the file is missing."""
    return replace(reply, content=reply.content[: len(reply.content) // 2])


def not_there_yet(reply: Reply) -> Reply:
    return Reply.of({"error": {"message": "No such File object"}}, 404)


def something_longer(reply: Reply) -> Reply:
    """A page of a proxy, sent as a success."""
    return Reply(200, b"<html>" + b"busy " * len(reply.content), "text/html")


@pytest.mark.parametrize("change", [interrupted, cut_short, something_longer, not_there_yet])
def test_an_incomplete_download_is_repeated(
    submitted: Workspace, api: LocalApi, change: Callable[[Reply], Reply]
) -> None:
    downloads: list[Reply] = []

    def spoil_two(call: Call) -> Reply:
        reply = call.forward()
        if not call.downloads:
            return reply
        downloads.append(reply)
        return change(reply) if len(downloads) <= 2 else reply

    with proxy(api.url, spoil_two) as client:
        assert submitted.collect(client).requests == {"answered": 2}
    assert [path.read_bytes() for path in stored(submitted)] == [downloads[-1].content]
    assert submitted.rows("SELECT * FROM quarantined_line") == []


def test_a_download_that_is_never_complete_raises_an_error_and_is_not_kept(submitted: Workspace, api: LocalApi) -> None:
    def spoil(call: Call) -> Reply:
        return cut_short(call.forward()) if call.downloads else call.forward()

    with (
        proxy(api.url, spoil) as client,
        pytest.raises(CollectionError, match=r"sent [\d,]+ bytes of .*, which has [\d,]+"),
    ):
        submitted.collect(client)
    assert stored(submitted) == []
    assert submitted.collect(api.client).requests == {"answered": 2}


@pytest.mark.parametrize(("days", "requests"), [(0, None), (2, {"blocked": 2})])
def test_a_missing_result_file_is_expected_for_a_day(
    submitted: Workspace, api: LocalApi, days: int, requests: dict[str, int] | None
) -> None:
    def lose(call: Call) -> Reply:
        if call.downloads:
            return Reply.of({"error": {"message": "No such File object"}}, 404)
        batch = call.forward().json
        batch["completed_at"] = batch.get("completed_at") and batch["completed_at"] - days * 86_400
        return Reply.of(batch)

    with proxy(api.url, lose) as client:
        if requests is None:
            with pytest.raises(CollectionError, match="No such File object"):
                submitted.collect(client)
        else:
            assert submitted.collect(client).requests == requests


def test_after_an_hour_of_cancelling_the_requests_are_pending(submitted: Workspace, api: LocalApi) -> None:
    def cancel_for_ever(call: Call) -> Reply:
        batch = call.forward().json
        batch.update(status="cancelling", completed_at=None, output_file_id=None, cancelling_at=time.time() - 3_700)
        batch["request_counts"] = {"total": 2, "completed": 0, "failed": 0}
        return Reply.of(batch)

    with proxy(api.url, cancel_for_ever) as client:
        assert submitted.collect(client).requests == {"pending": 2}


def test_the_requests_of_a_lost_batch_are_asked_again(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": f"one of {workspace.folder.name}"})
    workspace.ingest({"b": f"two of {workspace.folder.name}"}, day=NEXT_DAY)
    workspace.whole_day(api, day=NEXT_DAY)  # the account still shows this batch
    workspace.plan()
    (lost,) = workspace.submit(api.client).batch_ids
    api.wait(lost)

    def forget(call: Call) -> Reply:
        if lost in call.path:
            return Reply.of({"error": {"message": "No batch"}}, 404)
        reply = call.forward()
        if not call.lists_batches:
            return reply
        page = reply.json
        return Reply.of({**page, "data": [batch for batch in page["data"] if batch["id"] != lost]})

    with proxy(api.url, forget) as client:
        assert workspace.collect(client).requests == {"in_flight": 1}
        assert workspace.collect(client).requests == {"pending": 1}
        assert workspace.column("SELECT state FROM openai_batch WHERE batch_id = ?", [lost]) == ["lost"]
        workspace.plan()
        (again,) = workspace.submit(client).batch_ids
        api.wait(again)
        assert workspace.collect(client).requests == {"answered": 1}
    assert api.stats()["batches_created"] == 3
