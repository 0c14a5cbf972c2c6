"""`batch-assets dev`: Dagster's webserver and daemon as a user has them, from the click to the summaries."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from batch_assets_tests.end_to_end.processes import COMMAND, environment, running_dev
from batch_assets_tests.faults.proxy import Fault
from batch_assets_tests.faults.scenarios import a_world
from batch_assets_tests.project import DAY, generated_articles, write_articles

pytestmark = pytest.mark.end_to_end


def test_a_click_brings_summaries_and_a_backfill_brings_every_day(tmp_path: Path) -> None:
    days = [(date.fromisoformat(DAY) + timedelta(days=n)).isoformat() for n in range(5)]
    source = write_articles(tmp_path / "articles.jsonl", generated_articles(50, days=5))
    with running_dev(tmp_path / "data", BATCH_ASSETS_POLL_SECONDS="4", BATCH_ASSETS_SOURCE=source) as dev:
        dev.materialize(days[0])
        dev.wait_for("summaries", days[:1], seconds=90)
        dev.backfill(days)
        dev.wait_for("openai_batch", days, seconds=120)
        # somebody looks into the tables meanwhile: that may delay a run, and must not fail it
        shell = read_only_shell(tmp_path / "data" / "batch_assets.duckdb", seconds=3)
        dev.wait_for("summaries", days, seconds=120)
        shell.wait(30)
        assert {run["status"] for run in dev.runs()} <= {"SUCCESS", "STARTED", "QUEUED", "STARTING"}
        assert dev.stats()["batches_created"] == 5
        assert dev.stats()["requests_executed"] == 50
    assert dev.process.returncode == 0
    with duckdb.connect(str(tmp_path / "data" / "batch_assets.duckdb"), read_only=True) as connection:
        rows = connection.execute("SELECT status, count(*) FROM summaries GROUP BY status").fetchall()
    assert rows == [("answered", 50)]
    assert processes_that_mention(tmp_path) == ""


def test_a_killed_run_comes_back_and_a_terminated_one_strands_nothing(tmp_path: Path) -> None:
    """Both in the middle of creating a batch: it is made, and the answer has not come."""
    killed, terminated = DAY, "2026-01-06"
    with a_world(tmp_path, articles=20, days=2) as world:
        data = tmp_path / "data"
        variables = {"BATCH_ASSETS_POLL_SECONDS": "4", "BATCH_ASSETS_SOURCE": world.source}
        with running_dev(data, OPENAI_BASE_URL=world.proxy.url, **variables) as dev:
            for number, day in enumerate((killed, terminated), start=1):
                world.proxy.faults = [Fault("POST", "/v1/batches", delay_seconds=40)]
                run_id = dev.materialize(day)
                wait_until(lambda: len(world.proxy.batch_ids) == number, seconds=90)  # noqa: B023
                if day == killed:
                    os.kill(dev.process_of(run_id), signal.SIGKILL)
                else:
                    dev.terminate(run_id)
            dev.wait_for("summaries", [killed, terminated], seconds=240)
            states = {run["runId"]: run["status"] for run in dev.runs()}
            assert states[run_id] == "CANCELED"
            assert sorted(states.values()).count("FAILURE") == 1  # the killed one
        assert world.api.stats()["batches_created"] == 2
        assert world.api.stats()["requests_executed"] == 20
        assert world.rows("SELECT status, count(*) FROM summaries GROUP BY status") == [("answered", 20)]


def wait_until(holds: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def read_only_shell(database: Path, *, seconds: int) -> "subprocess.Popen[bytes]":
    """A stranger that opens the database file again and again until it succeeds, and keeps it for a while."""
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


def processes_that_mention(folder: Path) -> str:
    """The environment of any process of ours that was left behind names its data folder."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        left = [
            process.name for process in Path("/proc").glob("[0-9]*") if str(folder).encode() in _environment_of(process)
        ]
        if not left:
            return ""
        time.sleep(0.2)
    return ", ".join(left)


def _environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""
