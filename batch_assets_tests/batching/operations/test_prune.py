"""Guards against a full disk, and against a prune that loses a summary or an answer, or makes a run buy one again."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from batch_assets.batching.collection import collect
from batch_assets.batching.operations.prune import PrunePlan, RetentionPolicy, plan_pruning, prune
from batch_assets_tests.batching.conftest import (
    DAY,
    NEXT_DAY,
    TASK,
    Workspace,
)
from batch_assets_tests.batching.synchronous.support import tried
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
        patch.setattr(collect, "write_results", killed)
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


def test_the_stored_answers_of_synchronous_calls_are_result_files(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("ab"))
    tried(workspace, api.client, limit=1)
    workspace.whole_day(api)
    [answer] = (workspace.folder / "results" / "calls").glob("*.jsonl")
    run_prune(workspace, RetentionPolicy(), date.fromisoformat(DAY) + timedelta(days=10))
    assert gzip.decompress(answer.with_name(f"{answer.name}.gz").read_bytes())
    assert workspace.column("SELECT path LIKE '%.gz' FROM synchronous_call") == [True]
    run_prune(workspace)
    assert files(workspace) == []
    assert workspace.rows("FROM completion") == []
    assert workspace.statuses() == {"answered": 2}
