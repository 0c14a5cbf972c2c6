"""A whole day from a Parquet file to `summaries`, with the local Batch API and an engine that answers at once.

The server is a process of its own, as for users. Its times are not those of OpenAI, so the table shows them separately.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import openai

from batch_assets.batching.collection.collect import collect_day
from batch_assets.batching.ingest.articles import ingest_day
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.planning.plan import plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.submission.submit import submit_day
from batch_assets.batching.submission.submitter import make_submitter
from benchmarks.data import DAY, RESULTS, TASK
from benchmarks.server import Process, serving_in_process

SECONDS_FOR_A_DAY = 3600


@dataclass(frozen=True)
class Stage:
    """What this process and the server used in a stage. Peaks are resident memory during the stage."""

    name: str
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    server_cpu_seconds: float
    server_peak_bytes: int


def whole_day(folder: Path, source: Path) -> list[Stage]:
    """Run every stage, one after the other. Linux only."""
    database, data = Database(str(folder / "whole.duckdb")), folder / "whole"
    stages: list[Stage] = []
    ours = Process("self")
    with serving_in_process(folder / "api") as (url, server), openai.OpenAI(base_url=url, api_key="local") as client:

        def stage(name: str, work: Callable[[], object]) -> None:
            for process in (ours, server):
                process.reset_peak()
            started, cpu, server_cpu = time.perf_counter(), ours.cpu_seconds(), server.cpu_seconds()
            work()
            stages.append(
                Stage(
                    name,
                    time.perf_counter() - started,
                    ours.cpu_seconds() - cpu,
                    ours.peak_bytes(),
                    server.cpu_seconds() - server_cpu,
                    server.peak_bytes(),
                )
            )

        options = PlanOptions(max_rounds=3, api="local+instant")
        stage("raw_articles", lambda: ingest_day(database, source=str(source), day=DAY))
        stage("batch_request_file", lambda: plan_day(database, day=DAY, task=TASK, data_folder=data, options=options))
        submitter = make_submitter(database, client, data, "run")
        stage("openai_batch", lambda: submit_day(submitter, TASK.on(DAY), is_run_alive=lambda run_id: False))
        stage("(the server's work)", lambda: _wait(client))
        stage(
            "summaries", lambda: collect_day(database, client, day=DAY, results=RESULTS, data_folder=data, max_rounds=3)
        )
    return stages


def _wait(client: openai.OpenAI) -> None:
    deadline = time.monotonic() + SECONDS_FOR_A_DAY
    while any(batch.status not in ("completed", "failed") for batch in client.batches.list(limit=100)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"The local Batch API did not end the batches in {SECONDS_FOR_A_DAY} s.")
        time.sleep(0.2)
