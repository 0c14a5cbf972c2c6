"""The present code opens a database of version 1: no row is lost, and no request is paid for again."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pytest

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.migrations import MIGRATIONS
from batch_assets.batching.ledger.submissions import unsubmitted
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.batches import RemoteBatch
from batch_assets.batching.submission.find import is_of
from batch_assets_tests.batching.conftest import Workspace
from batch_assets_tests.batching.ledger.first_version import (
    ADOPTED,
    CLAIMED,
    COLLECTED,
    COLLECTED_BATCH,
    IN_FLIGHT,
    LIMIT,
    MODEL,
    PLANNED,
    REFUSED_BATCH,
    REQUEUED,
    SYSTEM_PROMPT,
    make_first_version,
    request,
)
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of

TASK = Task(MODEL, system_prompt=SYSTEM_PROMPT, max_output_tokens=LIMIT)
KEPT = (
    "raw_articles",
    "batch_request",
    "batch_request_file",
    "completion",
    "failed_request",
    "quarantined_line",
    "summaries",
)
KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from batch_assets.batching.ledger import migrations
from batch_assets.batching.ledger.database import Database
migrations.create_warehouse_id = lambda connection: os.kill(os.getpid(), signal.SIGKILL)
with Database(sys.argv[1]).writing():
    print("not killed")
"""


@dataclass(frozen=True)
class Upgrade:
    """A workspace with a database of version 1 that is not upgraded yet, and its batches at the API by day."""

    workspace: Workspace
    batches: dict[str, str]
    path: Path

    def names(self, day: str, *articles: str) -> list[str]:
        return sorted(request(day, article)["custom_id"] for article in articles)


@pytest.fixture
def upgrade(tmp_path: Path, api: LocalApi) -> Upgrade:
    path = tmp_path / "old.duckdb"
    batches = make_first_version(path, tmp_path, api.client)
    for batch_id in batches.values():
        api.wait(batch_id)
    return Upgrade(Workspace(tmp_path, Database(str(path), lock_timeout_seconds=20)), batches, path)


def test_an_upgrade_keeps_all_rows_and_gives_each_submission_its_state(upgrade: Upgrade) -> None:
    with duckdb.connect(str(upgrade.path)) as connection:
        before = {table: len(connection.execute(f"FROM {table}").fetchall()) for table in KEPT}
        in_flight = connection.execute("FROM pending_request ORDER BY ALL").fetchall()
        answers = connection.execute("SELECT custom_id, text, cost_usd FROM completion ORDER BY ALL").fetchall()
    workspace = upgrade.workspace
    states = workspace.rows("SELECT partition_date::VARCHAR, state FROM openai_batch ORDER BY ALL")
    assert states == [
        (COLLECTED, "collected"),
        (IN_FLIGHT, "submitted"),
        (CLAIMED, "claimed"),
        (PLANNED, "planned"),
        (REQUEUED, "deferred"),
        (ADOPTED, "submitted"),
    ]
    assert {table: len(workspace.rows(f"FROM {table}")) for table in KEPT} == before
    assert workspace.rows("SELECT custom_id, submission_id FROM in_flight_request ORDER BY ALL") == in_flight
    assert workspace.rows("SELECT custom_id, text, cost_usd FROM completion ORDER BY ALL") == answers
    assert workspace.statuses(COLLECTED) == {"answered": 2, "failed": 1, "pending": 1}
    [(attempt, earlier, message)] = workspace.rows(
        "SELECT attempt, earlier_batch_ids, message FROM openai_batch WHERE state = 'deferred'"
    )
    assert (attempt, earlier, message) == (2, [REFUSED_BATCH], "token_limit_exceeded: No capacity.")
    assert workspace.column("SELECT count(*) FROM submission_event WHERE move = 'migrate'") == [6]
    assert workspace.rows("SELECT DISTINCT max_output_tokens FROM completion") == [(LIMIT,)]
    with duckdb.connect(str(upgrade.path)) as connection:
        tables = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    assert not {name for name in tables if name.endswith("_before")}
    assert "pending_request" not in tables


def test_a_second_opening_changes_nothing(upgrade: Upgrade) -> None:
    identity = upgrade.workspace.database.warehouse_id()
    with upgrade.workspace.database.writing():
        pass
    assert upgrade.workspace.database.warehouse_id() == identity
    assert upgrade.workspace.column("SELECT count(*) FROM schema_version") == [len(MIGRATIONS)]


def test_a_database_without_synchronous_calls_gets_their_table(workspace: Workspace, new_database: Path) -> None:
    path = workspace.folder / "before.duckdb"
    shutil.copy(new_database, path)
    with duckdb.connect(str(path)) as connection:
        connection.execute("DROP TABLE synchronous_call")
        connection.execute("DELETE FROM schema_version WHERE name = 'record_synchronous_calls'")
    with Database(str(path)).writing() as connection:
        assert connection.execute("FROM synchronous_call").fetchall() == []


def test_an_upgrade_records_the_spending_of_collected_batches(upgrade: Upgrade) -> None:
    rows = upgrade.workspace.rows(
        """
        SELECT batch_id, partition_date::VARCHAR, kind, requests, input_tokens, output_tokens, cost_usd
        FROM spending ORDER BY kind
        """
    )
    assert rows == [
        (COLLECTED_BATCH, COLLECTED, "answered", 2, 100, 120, pytest.approx(0.002)),
        (COLLECTED_BATCH, COLLECTED, "unattributed", 0, 20, 10, pytest.approx(20 * 0.05e-6 + 10 * 0.2e-6)),
    ]


@pytest.mark.parametrize("day", [COLLECTED, IN_FLIGHT, CLAIMED, ADOPTED])
@pytest.mark.parametrize(("limit", "cut"), [(LIMIT, []), (LIMIT // 2, []), (2 * LIMIT, ["cut"])])
def test_a_plan_of_an_old_day_has_no_request_that_was_sent(
    upgrade: Upgrade, day: str, limit: int, cut: list[str]
) -> None:
    """Under any limit, the plan has only the unanswered request, and the one whose answer a lower limit cut."""
    task = replace(TASK, max_output_tokens=limit)
    pending = upgrade.names(day, "owed", *cut) if day == COLLECTED else []
    for _ in range(2):
        plan = upgrade.workspace.plan(day=day, task=task)
        assert sum(shard.requests for shard in plan.shards) == len(pending)
    names = [line["custom_id"] for shard in plan.shards for line in lines_of(shard.path)]
    assert sorted(names) == pending


@pytest.mark.parametrize(("day", "articles"), [(PLANNED, ["a", "b"]), (REQUEUED, ["a"])])
def test_unsent_requests_keep_their_old_custom_ids_in_a_new_plan(
    upgrade: Upgrade, day: str, articles: list[str], api: LocalApi
) -> None:
    for _ in range(2):
        plan = upgrade.workspace.plan(day=day, task=TASK)
        assert sum(shard.requests for shard in plan.shards) == len(articles)
    names = [line["custom_id"] for shard in plan.shards for line in lines_of(shard.path)]
    assert sorted(names) == upgrade.names(day, *articles)
    submitted = upgrade.workspace.submit(api.client, day=day)
    assert submitted.created == 1
    assert upgrade.workspace.submit(api.client, day=day).created == 0


@pytest.mark.parametrize(("day", "articles"), [(PLANNED, 2), (REQUEUED, 1)])
def test_an_unsent_submission_is_submitted_without_a_new_plan(
    upgrade: Upgrade, day: str, articles: int, api: LocalApi
) -> None:
    before = api.stats()["requests_executed"]
    for batch_id in upgrade.workspace.submit(api.client, day=day).batch_ids:
        api.wait(batch_id)
    upgrade.workspace.collect(api.client, day=day)
    assert upgrade.workspace.statuses(day) == {"answered": articles}
    assert api.stats()["requests_executed"] == before + articles


@pytest.mark.parametrize(("day", "articles"), [(IN_FLIGHT, 2), (CLAIMED, 2), (ADOPTED, 1)])
def test_an_old_batch_is_found_and_collected_and_not_sent_again(
    upgrade: Upgrade, day: str, articles: int, api: LocalApi
) -> None:
    before = api.stats()
    submitted = upgrade.workspace.submit(api.client, day=day)
    assert (submitted.created, submitted.batch_ids) == (0, [upgrade.batches[day]])
    upgrade.workspace.collect(api.client, day=day)
    assert upgrade.workspace.statuses(day) == {"answered": articles}
    assert api.stats() == before
    answered_by = "SELECT DISTINCT api FROM summaries WHERE partition_date = CAST(? AS DATE)"
    assert upgrade.workspace.rows(answered_by, [day]) == [("local+instant",)]
    billed = "SELECT kind, requests, api FROM spending WHERE batch_id = ?"
    assert upgrade.workspace.rows(billed, [upgrade.batches[day]]) == [("answered", articles, "local+instant")]
    plan = upgrade.workspace.plan(day=day, task=TASK)
    assert not plan.shards


def test_a_killed_migration_leaves_the_old_database(upgrade: Upgrade) -> None:
    with duckdb.connect(str(upgrade.path)) as connection:
        before = connection.execute("SELECT table_name, estimated_size FROM duckdb_tables() ORDER BY ALL").fetchall()
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_THE_MIDDLE, str(upgrade.path)], check=False, timeout=120)
    assert killed.returncode == -9
    with duckdb.connect(str(upgrade.path)) as connection:
        after = connection.execute("SELECT table_name, estimated_size FROM duckdb_tables() ORDER BY ALL").fetchall()
    assert after == before
    assert len(upgrade.workspace.rows("FROM openai_batch")) == 6
    assert upgrade.workspace.statuses(COLLECTED) == {"answered": 2, "failed": 1, "pending": 1}


def lines_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize(("attempt", "is_ours"), [("2", True), ("1", False), (None, False)])
def test_key_and_attempt_identify_a_batch_of_version_1(upgrade: Upgrade, attempt: str | None, is_ours: bool) -> None:
    """The submission is requeued, so this is its second attempt. All attempts have the same file."""
    [submission] = unsubmitted(upgrade.workspace.database, of(REQUEUED), upgrade.workspace.folder)
    metadata = {"submission_key": submission.id, **({} if attempt is None else {"attempt": attempt})}
    batch = RemoteBatch("batch_x", "in_progress", input_file_id=submission.file_id, metadata=metadata)
    assert is_of(batch, submission, "another warehouse") is is_ours
