"""A whole day from a Parquet file to `summaries`, against the local Batch API with an engine that answers at once.

The server is a process of its own, as in use. What it takes is not what OpenAI would take; it is there to be seen.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai

from batch_assets.batching.collection.collect import collect_day
from batch_assets.batching.ingest.articles import ingest_day
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.planning.plan import plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.submission.submit import submit_day
from batch_assets.batching.submission.submitter import Submitter, identify_api
from batch_assets.local_api.serving.discovery import running_url
from benchmarks.data import DAY, TASK

SERVE = """
import pathlib, sys
from batch_assets.local_api.serving.server import serve
serve(pathlib.Path(sys.argv[1]), engine="instant", without_key=True)
"""
SECONDS_TO_START, SECONDS_FOR_A_DAY = 30, 3600


@dataclass(frozen=True)
class Stage:
    """What a stage took: of ours, and of the server in the same time. Peaks are resident memory in the stage."""

    name: str
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    server_cpu_seconds: float
    server_peak_bytes: int


def whole_day(folder: Path, source: Path) -> list[Stage]:
    """Every stage in turn. Linux only: it reads and resets the peaks in /proc."""
    database, data = Database(str(folder / "whole.duckdb")), folder / "whole"
    stages: list[Stage] = []
    with _serving(folder / "api") as (url, server), openai.OpenAI(base_url=url, api_key="local") as client:

        def stage(name: str, work: Callable[[], object]) -> None:
            for process in ("self", str(server)):
                Path(f"/proc/{process}/clear_refs").write_text("5")
            started, cpu, server_cpu = time.perf_counter(), _cpu_seconds("self"), _cpu_seconds(str(server))
            work()
            stages.append(
                Stage(
                    name,
                    time.perf_counter() - started,
                    _cpu_seconds("self") - cpu,
                    _peak_bytes("self"),
                    _cpu_seconds(str(server)) - server_cpu,
                    _peak_bytes(str(server)),
                )
            )

        options = PlanOptions(max_rounds=3, api="local+instant")
        stage("raw_articles", lambda: ingest_day(database, source=str(source), day=DAY))
        stage("batch_request_file", lambda: plan_day(database, day=DAY, task=TASK, data_folder=data, options=options))
        submitter = Submitter(database, client, data, "run", database.warehouse_id(), identify_api(database, client))
        stage("openai_batch", lambda: submit_day(submitter, DAY, is_run_alive=lambda run_id: False))
        stage("(the server's work)", lambda: _wait(client))
        stage("summaries", lambda: collect_day(database, client, day=DAY, data_folder=data, max_rounds=3))
    return stages


def _wait(client: openai.OpenAI) -> None:
    deadline = time.monotonic() + SECONDS_FOR_A_DAY
    while any(batch.status not in ("completed", "failed") for batch in client.batches.list(limit=100)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"The local Batch API did not end the batches in {SECONDS_FOR_A_DAY} s.")
        time.sleep(0.2)


@contextmanager
def _serving(folder: Path) -> Iterator[tuple[str, int]]:
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(folder)])
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while (url := running_url(folder)) is None:
            if time.monotonic() > deadline or process.poll() is not None:
                raise TimeoutError("The local Batch API did not start.")
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(30)


def _cpu_seconds(process: str) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_bytes(process: str) -> int:
    [line] = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
