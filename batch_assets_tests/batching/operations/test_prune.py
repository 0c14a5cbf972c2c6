"""Guards against a full disk, and against a prune that loses a summary or an answer, or makes a run buy one again."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import BinaryIO

import openai
import pytest

from batch_assets.batching.collection import collect
from batch_assets.batching.operations.prune import PrunePlan, RetentionPolicy, delete_remote_files, plan_pruning, prune
from batch_assets.batching.provider.identity import identify
from batch_assets_tests.batching.conftest import (
    API,
    DAY,
    ELSEWHERE,
    NEXT_DAY,
    TASK,
    Call,
    Reply,
    Workspace,
    proxy,
    with_api_name,
)
from batch_assets_tests.local_api_client import LocalApi

LATER = date.fromisoformat(DAY) + timedelta(days=100)
ALL = RetentionPolicy(tables=True, answers=True, remote=True)


@pytest.fixture
def done(workspace: Workspace, api: LocalApi) -> Workspace:
    """A day that is done. No other test has its texts."""
    workspace.ingest({"a": f"one of {workspace.folder}", "b": f"two of {workspace.folder}"})
    workspace.whole_day(api)
    return workspace


def find(workspace: Workspace, policy: RetentionPolicy = ALL, today: date = LATER) -> PrunePlan:
    return plan_pruning(workspace.database, data_folder=workspace.folder, policy=policy, today=today)


def run_prune(workspace: Workspace, policy: RetentionPolicy = ALL, today: date = LATER) -> PrunePlan:
    return prune(workspace.database, data_folder=workspace.folder, policy=policy, today=today)


def files(workspace: Workspace) -> list[Path]:
    return sorted(path for name in ("requests", "results") for path in (workspace.folder / name).rglob("*.*"))


def summaries(workspace: Workspace) -> list[tuple[object, ...]]:
    return workspace.rows("SELECT * FROM summaries ORDER BY ALL")


def test_planning_a_prune_changes_nothing(done: Workspace) -> None:
    before = files(done)
    found = find(done)
    assert found.to_delete == before
    assert found.lines[0].startswith(f"{len(before)} request and result files")
    assert "2 rows of completion" in found.lines
    assert files(done) == before
    assert len(done.rows("SELECT * FROM completion")) == 2


def test_files_of_an_old_day_are_deleted_and_everything_else_stays(done: Workspace) -> None:
    before = summaries(done)
    run_prune(done, RetentionPolicy())
    assert files(done) == []
    assert summaries(done) == before
    assert done.rows("SELECT output_path, error_path FROM openai_batch") == [(None, None)]
    assert done.plan().requests == {"answered": 2}
    assert find(done, RetentionPolicy()).lines == []


@pytest.mark.parametrize("age_days", [0, 89, 90])
def test_a_day_that_is_not_old_enough_keeps_its_files(done: Workspace, age_days: int) -> None:
    before = files(done)
    run_prune(done, RetentionPolicy(compress_after_days=None), date.fromisoformat(DAY) + timedelta(days=age_days))
    assert files(done) == before


def test_result_files_are_compressed_first_byte_for_byte(done: Workspace) -> None:
    [plain] = (done.folder / "results").iterdir()
    content = plain.read_bytes()
    run_prune(done, RetentionPolicy(), date.fromisoformat(DAY) + timedelta(days=8))
    [packed] = (done.folder / "results").iterdir()
    assert packed.name == f"{plain.name}.gz"
    assert gzip.decompress(packed.read_bytes()) == content
    [(path,)] = done.rows("SELECT output_path FROM openai_batch")
    assert done.folder / path == packed
    run_prune(done, RetentionPolicy())
    assert files(done) == []


def test_the_next_prune_deletes_a_plain_file_that_a_killed_prune_left(done: Workspace) -> None:
    [plain] = (done.folder / "results").iterdir()
    content = plain.read_bytes()
    week_later = date.fromisoformat(DAY) + timedelta(days=8)
    run_prune(done, RetentionPolicy(), week_later)
    plain.write_bytes(content)
    assert run_prune(done, RetentionPolicy(), week_later).to_delete == [plain]
    [packed] = (done.folder / "results").iterdir()
    assert gzip.decompress(packed.read_bytes()) == content
    plain.write_bytes(content)
    run_prune(done, RetentionPolicy())
    assert files(done) == []


@pytest.mark.parametrize(
    "left", [b"", b"\x1f\x8b\x08 half", gzip.compress(b"something else", mtime=0)], ids=["nothing", "half", "another"]
)
def test_an_incomplete_compressed_file_is_written_again(done: Workspace, left: bytes) -> None:
    [plain] = (done.folder / "results").iterdir()
    content = plain.read_bytes()
    packed = plain.with_name(f"{plain.name}.gz")
    packed.write_bytes(left)
    run_prune(done, RetentionPolicy(), date.fromisoformat(DAY) + timedelta(days=8))
    assert list(packed.parent.iterdir()) == [packed]
    assert gzip.decompress(packed.read_bytes()) == content


def test_two_prunes_at_once_compress_a_file_completely(done: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    [plain] = (done.folder / "results").iterdir()
    content = plain.read_bytes()
    copy = shutil.copyfileobj
    running = 0

    def copy_while_another_prune_runs(source: BinaryIO, target: BinaryIO, length: int) -> None:
        nonlocal running
        running += 1
        if running == 2:  # the second stops in the middle of the first
            raise KeyboardInterrupt
        target.write(source.read(len(content) // 2))
        with pytest.raises(KeyboardInterrupt):
            run_prune(done, RetentionPolicy(), date.fromisoformat(DAY) + timedelta(days=8))
        copy(source, target, length)

    monkeypatch.setattr(shutil, "copyfileobj", copy_while_another_prune_runs)
    run_prune(done, RetentionPolicy(), date.fromisoformat(DAY) + timedelta(days=8))
    [packed] = (done.folder / "results").iterdir()
    assert gzip.decompress(packed.read_bytes()) == content


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE summaries SET status = 'pending' WHERE article_id = 'a'",
        "UPDATE summaries SET status = 'cancelled' WHERE article_id = 'a'",
        "UPDATE openai_batch SET state = 'ended'",
        "UPDATE openai_batch SET state = 'missing'",
        "UPDATE openai_batch SET state = 'deferred'",
        """
        INSERT INTO openai_batch (submission_id, partition_date, plan, round, shard, state, attempt)
        VALUES ('of another day', '2026-12-31', 1, 1, 0, 'planned', 1);
        INSERT INTO in_flight_request SELECT custom_id, 'of another day' FROM batch_request LIMIT 1
        """,
        "DELETE FROM summaries",
    ],
)
def test_a_day_that_is_not_done_does_not_change(done: Workspace, statement: str) -> None:
    done.execute(statement)
    before = files(done)
    assert run_prune(done).lines == []
    assert files(done) == before
    assert len(done.rows("SELECT * FROM completion")) == 2


def test_a_day_with_articles_newer_than_its_summaries_does_not_change(done: Workspace, api: LocalApi) -> None:
    done.ingest({"a": f"one of {done.folder}", "late": f"came late to {done.folder}"})
    assert run_prune(done).lines == []  # between `raw_articles` and `batch_request_file` of a run
    done.whole_day(api)
    assert done.statuses() == {"answered": 2}


def test_answers_that_are_not_in_the_summaries_yet_stay(
    done: Workspace, api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    done.plan(task=replace(TASK, system_prompt="Be brief."))
    for batch_id in done.submit(api.client).batch_ids:
        api.wait(batch_id)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(collect, "write_summaries", killed)
        with pytest.raises(KeyboardInterrupt):
            done.collect(api.client)
    assert run_prune(done).lines == []
    assert len(done.rows("SELECT * FROM completion")) == 4
    assert done.collect(api.client).requests == {"answered": 2}


def test_summaries_stay_after_their_source_tables_were_pruned(done: Workspace, api: LocalApi) -> None:
    before = summaries(done)
    run_prune(done, RetentionPolicy(tables=True))
    for table in ("raw_articles", "batch_request"):
        assert done.rows(f"SELECT * FROM {table}") == []
    done.collect(api.client)  # as when the user materializes `summaries` again
    assert summaries(done) == before


def test_a_pruned_day_that_is_ingested_again_is_bought_only_if_its_answers_were_deleted(
    done: Workspace, api: LocalApi
) -> None:
    source = {"a": f"one of {done.folder}", "b": f"two of {done.folder}"}
    run_prune(done, RetentionPolicy(tables=True))
    done.ingest(source)
    assert done.plan().requests == {"answered": 2}
    assert done.collect(api.client).requests == {"answered": 2}
    run_prune(done)
    done.ingest(source)
    assert done.plan().requests == {"pending": 2}


def test_answers_that_a_newer_day_shares_stay(done: Workspace, api: LocalApi) -> None:
    done.ingest({"x": f"two of {done.folder}"}, day=NEXT_DAY)
    done.whole_day(api, day=NEXT_DAY)
    run_prune(done, today=date.fromisoformat(DAY) + timedelta(days=91))  # the next day is 90 days old
    assert len(done.rows("SELECT * FROM completion")) == 1
    assert done.plan(day=NEXT_DAY).requests == {"answered": 1}


def test_files_at_openai_are_deleted_on_request_and_once(done: Workspace, api: LocalApi) -> None:
    file_ids = [name for [names] in done.rows("SELECT [file_id, output_file_id] FROM openai_batch") for name in names]
    assert find(done, RetentionPolicy()).remote_files == []
    found = run_prune(done, RetentionPolicy(remote=True))
    assert delete_remote_files(done.database, api.client, found) == []
    assert "2 files at OpenAI" in found.lines
    for file_id in file_ids:
        with pytest.raises(openai.NotFoundError):
            api.client.files.retrieve(file_id)
    assert find(done, RetentionPolicy(remote=True)).remote_files == []


def deletions(deleted: list[str], status: int | None = None) -> Callable[[Call], Reply]:
    """The API, and which files it was asked to delete; it answers with this status, if any."""

    def answer(call: Call) -> Reply:
        if call.method != "DELETE":
            return call.forward()
        deleted.append(call.path)
        return call.forward() if status is None else Reply.of({"error": {"message": "No such File object"}}, status)

    return answer


@pytest.mark.parametrize("name", [ELSEWHERE, "local", "local+other"])
def test_files_at_another_api_are_not_deleted_here_and_stay_to_be_deleted(
    done: Workspace, api: LocalApi, name: str
) -> None:
    found = run_prune(done, RetentionPolicy(remote=True))
    deleted: list[str] = []
    with proxy(api.url, with_api_name(name, deletions(deleted))) as client:
        (sentence,) = delete_remote_files(done.database, client.with_options(api_key=api.client.api_key), found)
    assert deleted == []
    assert f"2 files of {DAY} are at {API}, and the API is {name} now" in sentence
    assert "files at OpenAI" not in " ".join(found.lines)
    again = find(done, RetentionPolicy(remote=True))
    assert delete_remote_files(done.database, api.client, again) == []
    assert again.lines == ["2 files at OpenAI"]


@pytest.mark.parametrize(
    ("key", "organizations", "is_deleted"),
    [
        ("another", (None, None), False),
        ("another", ("org-A", None), False),
        ("another", ("org-A", "org-B"), False),
        ("another", ("org-A", "org-A"), True),
        (None, ("org-A", "org-B"), False),
    ],
)
def test_files_of_another_account_are_not_deleted(
    done: Workspace,
    api: LocalApi,
    key: str | None,
    organizations: tuple[str | None, str | None],
    is_deleted: bool,
) -> None:
    """There, the ids may belong to other files. A new key of the same organization belongs to the same account."""
    theirs, present = organizations
    done.execute("UPDATE openai_batch SET organization = ?", [theirs])
    found = run_prune(done, RetentionPolicy(remote=True))
    deleted: list[str] = []
    with proxy(api.url, deletions(deleted)) as client:
        client = client.with_options(api_key=key or api.client.api_key)
        identity = replace(identify(client, done.database.warehouse_id()), organization=present)
        kept = delete_remote_files(done.database, client, found, identity)
    assert len(deleted) == (2 if is_deleted else 0)
    assert [f"2 files of {DAY} are of another account than that of the present key" in text for text in kept] == (
        [] if is_deleted else [True]
    )
    assert (find(done, RetentionPolicy(remote=True)).remote_files == []) is is_deleted


@pytest.mark.parametrize(
    ("forget", "is_settled"),
    [
        ("UPDATE openai_batch SET file_id = file_id", True),
        ("UPDATE openai_batch SET key_fingerprint = NULL", False),
        ("UPDATE openai_batch SET key_fingerprint = NULL, api = NULL", False),
    ],
    ids=["the same key", "an unknown key", "an unknown API"],
)
def test_a_file_that_is_not_found_counts_as_deleted_only_for_the_key_that_made_it(
    done: Workspace, api: LocalApi, forget: str, is_settled: bool
) -> None:
    done.execute(forget)
    found = run_prune(done, RetentionPolicy(remote=True))
    with proxy(api.url, deletions([], status=404)) as client:
        kept = delete_remote_files(done.database, client.with_options(api_key=api.client.api_key), found)
    assert [f"2 files of {DAY} are not found with the present key" in text for text in kept] == (
        [] if is_settled else [True]
    )
    assert "files at OpenAI" not in " ".join(found.lines)
    assert (find(done, RetentionPolicy(remote=True)).remote_files == []) is is_settled
