"""`batch-assets dev`: Dagster's webserver and daemon as a user has them, from the click to `summaries`."""

import os
import signal
import subprocess
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from batch_assets_tests.end_to_end.processes import (
    COMMAND,
    WAIT_SECONDS,
    environment,
    processes_of,
    running_dev,
    wait_until,
)
from batch_assets_tests.faults.proxy import Fault
from batch_assets_tests.faults.scenarios import running_world
from batch_assets_tests.project import DAY, generated_articles, write_articles

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

DAYS = 5 if os.environ.get("BATCH_ASSETS_TEST_THOROUGH") else 3  # each has two runs, of 5 s of CPU time


def test_a_click_materializes_summaries_and_a_backfill_every_day(tmp_path: Path) -> None:
    days = [(date.fromisoformat(DAY) + timedelta(days=n)).isoformat() for n in range(DAYS)]
    source = write_articles(tmp_path / "articles.jsonl", generated_articles(10 * DAYS, days=DAYS))
    with running_dev(tmp_path / "data", BATCH_ASSETS_POLL_SECONDS="4", BATCH_ASSETS_SOURCE=source) as dev:
        dev.materialize(days[0])
        dev.wait_for("summaries", days[:1])
        dev.backfill(days)
        dev.wait_for("openai_batch", days)
        # the user reads the tables meanwhile: that may delay a run, and must not fail it
        shell = read_only_shell(tmp_path / "data" / "batch_assets.duckdb", seconds=3)
        dev.wait_for("summaries", days)
        shell.wait(WAIT_SECONDS)
        assert {run["status"] for run in dev.runs()} <= {"SUCCESS", "STARTED", "QUEUED", "STARTING"}
        assert dev.stats()["batches_created"] == DAYS
        assert dev.stats()["requests_executed"] == 10 * DAYS
    assert dev.process.returncode == 0
    with duckdb.connect(str(tmp_path / "data" / "batch_assets.duckdb"), read_only=True) as connection:
        rows = connection.execute("SELECT status, count(*) FROM summaries GROUP BY status").fetchall()
    assert rows == [("answered", 10 * DAYS)]
    assert processes_of(tmp_path) == ""


def test_dagster_retries_a_killed_run_and_the_sensor_collects_the_batch_of_a_terminated_run(tmp_path: Path) -> None:
    """Both end while they create a batch: OpenAI has created it, and has not answered yet."""
    killed, terminated = DAY, "2026-01-06"
    with running_world(tmp_path, articles=20, days=2) as world:
        data = tmp_path / "data"
        variables = {"BATCH_ASSETS_POLL_SECONDS": "4", "BATCH_ASSETS_SOURCE": world.source}
        with running_dev(data, OPENAI_BASE_URL=world.proxy.url, **variables) as dev:
            for number, day in enumerate((killed, terminated), start=1):
                world.proxy.faults = [Fault("POST", "/v1/batches", delay_seconds=40)]
                run_id = dev.materialize(day)
                wait_until(lambda: len(world.proxy.batch_ids) == number)  # noqa: B023
                if day == killed:
                    os.kill(dev.process_of(run_id), signal.SIGKILL)
                else:
                    dev.terminate(run_id)
            dev.wait_for("summaries", [killed, terminated])
            states = {run["runId"]: run["status"] for run in dev.runs()}
            assert states[run_id] == "CANCELED"
            assert sorted(states.values()).count("FAILURE") == 1  # the killed one
        assert world.api.stats()["batches_created"] == 2
        assert world.api.stats()["requests_executed"] == 20
        assert world.rows("SELECT status, count(*) FROM summaries GROUP BY status") == [("answered", 20)]


def read_only_shell(database: Path, *, seconds: int) -> "subprocess.Popen[bytes]":
    """A process that is not ours: it opens the database file as soon as it can, and keeps it open for some seconds."""
    script = f"""
import duckdb, time
while True:
    try:
        connection = duckdb.connect({str(database)!r}, read_only=True)
        break
    except duckdb.IOException:
        time.sleep(0.01)
connection.execute("SELECT count(*) FROM summaries").fetchall()
time.sleep({seconds})
"""
    return subprocess.Popen([COMMAND[0], "-c", script], env=environment(database.parent))
