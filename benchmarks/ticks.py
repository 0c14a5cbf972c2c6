"""The sensor with many days in flight or collected, on a persistent Dagster instance and an API that counts.

python -m benchmarks.ticks IN_FLIGHT [COLLECTED]
"""

import json
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
from dagster_openai import OpenAIResource

from batch_assets.resources import OPENAI, BatchApi

FIRST_DAY = date(2023, 1, 1)
METADATA = {**dict.fromkeys(("warehouse_id", "submission_id", "claim_token"), "0" * 32), "partition": "2026-01-05"}


@dataclass(frozen=True)
class Tick:
    """The seconds of the first tick, of the slowest one, and of one without changes; `ticks`: until nothing changed.

    On a busy machine, the CPU seconds show what a tick costs. They include those of the server of the batches.
    """

    days: int
    batches: int
    first_seconds: float
    seconds: float
    calls: int
    cursor_bytes: int
    collected_days: int = 0
    slowest_seconds: float = 0.0
    cpu_seconds: float = 0.0
    most_cpu_seconds: float = 0.0
    ticks: int = 0


def tick(days: int, shards: int, collected_days: int = 0) -> Tick:
    """Put the days into a new instance's event log, and evaluate the sensor until nothing changes.

    The cursor is empty at first, so the sensor reads the collected days in several ticks.
    """
    from batch_assets.days import OVERLAP
    from batch_assets.sensors import EVENTS_PER_TICK
    from batch_assets_tests.first_task import openai_batch, openai_batch_sensor

    batch_ids = [[f"batch_{day:05d}{shard:027d}" for shard in range(shards)] for day in range(days)]
    with (
        tempfile.TemporaryDirectory() as home,
        dg.DagsterInstance.local_temp(home) as instance,
        listing([name for day in batch_ids for name in day][::-1]) as (url, calls),
    ):
        if collected_days:
            _add_collected(instance, Path(home), collected_days)
        for number, names in enumerate(batch_ids):
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    openai_batch.key,
                    partition=(FIRST_DAY + timedelta(days=number)).isoformat(),
                    metadata={"batch_ids": dg.MetadataValue.json(names), "deferred_files": 0},
                )
            )
        resources = {OPENAI: BatchApi(lambda: OpenAIResource(api_key="local", base_url=url))}
        took: list[float] = []
        used: list[float] = []
        cursor: str | None = None
        # until the sensor has shown all days, and has read the collected ones
        for _ in range(2 + max(days // 100, collected_days // (EVENTS_PER_TICK - OVERLAP))):
            calls.clear()
            started, cpu_before = time.perf_counter(), time.process_time()
            with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
                cursor = openai_batch_sensor.evaluate_tick(context).cursor
            took.append(time.perf_counter() - started)
            used.append(time.process_time() - cpu_before)
    cursor_bytes = len((cursor or "").encode())
    return Tick(
        days,
        days * shards,
        first_seconds=took[0],
        seconds=took[-1],
        calls=len(calls),
        cursor_bytes=cursor_bytes,
        collected_days=collected_days,
        slowest_seconds=max(took),
        cpu_seconds=used[-1],
        most_cpu_seconds=max(used),
        ticks=len(took),
    )


def _add_collected(instance: dg.DagsterInstance, home: Path, days: int) -> None:
    """Add so many collected days to the event log, one of them with pending requests.

    Dagster needs 20 ms for an event, so two events are written by it, and copied in its SQLite file.
    """
    from batch_assets_tests.first_task import openai_batch, summaries

    first = date(2030, 1, 1)
    metadata: dict[dg.AssetKey, dict[str, Any]] = {
        openai_batch.key: {"batch_ids": dg.MetadataValue.json([]), "deferred_files": 0},
        summaries.key: {"requests_pending": 0},
    }
    for key, values in metadata.items():
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=first.isoformat(), metadata=values))
    copies = [((first + timedelta(days=number)).isoformat(), first.isoformat()) for number in range(1, days)]
    with closing(sqlite3.connect(home / "history" / "runs" / "index.db")) as connection, connection:
        originals = connection.execute("SELECT id FROM event_logs WHERE partition = ? ORDER BY id", [first.isoformat()])
        for (original,) in originals.fetchall():
            connection.executemany(
                """
                INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
                SELECT run_id, replace(event, ?2, ?1), dagster_event_type, timestamp, step_key, asset_key, ?1
                FROM event_logs WHERE id = ?3
                """,
                [(day, old, original) for day, old in copies],
            )
    pending: dict[str, Any] = {
        "requests_pending": 3,
        "next_attempt_at": dg.MetadataValue.timestamp(time.time() + 86_400),
    }
    instance.report_runless_asset_event(
        dg.AssetMaterialization(summaries.key, partition=first.isoformat(), metadata=pending)
    )


@contextmanager
def listing(batch_ids: list[str]) -> Iterator[tuple[str, list[str]]]:
    """A server of these batches, all half done, and the paths of its requests."""
    positions = {name: number for number, name in enumerate(batch_ids)}
    calls: list[str] = []
    counts = {"total": 50_000, "completed": 25_000, "failed": 0}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            calls.append(self.path)
            after = parse_qs(urlsplit(self.path).query).get("after")
            start = positions[after[0]] + 1 if after else 0
            data = [
                {"id": name, "object": "batch", "status": "in_progress", "created_at": int(time.time()),
                 "request_counts": counts, "metadata": METADATA}
                for name in batch_ids[start : start + 100]
            ]  # fmt: skip
            page = {"object": "list", "data": data, "has_more": start + 100 < len(batch_ids)}
            content = json.dumps(page).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", calls
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    print(tick(numbers[0], 1, *numbers[1:]))
