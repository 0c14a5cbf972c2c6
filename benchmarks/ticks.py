"""The sensor with many days in flight, three batches each, on a persistent Dagster instance and an API that counts."""

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import dagster as dg
from dagster_openai import OpenAIResource

from batch_assets.resources import BatchApi

FIRST_DAY = date(2023, 1, 1)
METADATA = {**dict.fromkeys(("warehouse_id", "submission_id", "claim_token"), "0" * 32), "partition": "2026-01-05"}


@dataclass(frozen=True)
class Tick:
    """The seconds of the first tick with so many days in flight, and of a tick without changes."""

    days: int
    batches: int
    first_seconds: float
    seconds: float
    calls: int
    cursor_bytes: int


def tick(days: int, shards: int) -> Tick:
    """Put the days into a new instance's event log, and evaluate the sensor twice."""
    from batch_assets.assets import openai_batch
    from batch_assets.sensors import openai_batch_sensor

    batch_ids = [[f"batch_{day:05d}{shard:027d}" for shard in range(shards)] for day in range(days)]
    with (
        tempfile.TemporaryDirectory() as home,
        dg.DagsterInstance.local_temp(home) as instance,
        listing([name for day in batch_ids for name in day][::-1]) as (url, calls),
    ):
        for number, names in enumerate(batch_ids):
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    openai_batch.key,
                    partition=(FIRST_DAY + timedelta(days=number)).isoformat(),
                    metadata={"batch_ids": dg.MetadataValue.json(names), "deferred_files": 0},
                )
            )
        resources = {"openai": BatchApi(lambda: OpenAIResource(api_key="local", base_url=url))}
        took: list[float] = []
        cursor: str | None = None
        for _ in range(2 + days // 100):  # until the sensor has shown all days
            calls.clear()
            started = time.perf_counter()
            with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
                cursor = openai_batch_sensor.evaluate_tick(context).cursor
            took.append(time.perf_counter() - started)
    return Tick(days, days * shards, took[0], took[-1], len(calls), len((cursor or "").encode()))


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
