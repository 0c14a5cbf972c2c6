"""Events, runs and batches of a day, a tick of the sensor, and its clock.

The sensor reads Dagster's event log, so these functions write events; the batches are real ones.
"""

import json
import time as real_time
import uuid
from datetime import datetime, timedelta, tzinfo
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import RemoteJobOrigin, RemoteRepositoryOrigin

from batch_assets import run_requests, sensors
from batch_assets.batching import next_step as steps
from batch_assets.batching.next_step import Day, Step
from batch_assets.batching.provider.batches import RemoteBatch
from batch_assets.batching.timing import Timing
from batch_assets.day_events import DEDUP_TAG, DEFAULT_LOCATION
from batch_assets.days import read_days
from batch_assets.resources import OPENAI
from batch_assets.run_keys import NextRun, RunNumbers
from batch_assets.run_requests import FIRST_PARTITION_TAG, LAST_PARTITION_TAG, PARTITION_TAG
from batch_assets_tests.first_task import openai_batch, openai_batch_sensor, summaries
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY, api_at, code_location_origin

NEXT_DAY = "2026-01-06"
TIMING = Timing()
MAX_ATTEMPTS = TIMING.max_run_attempts


def submitted(
    instance: dg.DagsterInstance,
    *batch_ids: str,
    day: str = DAY,
    waiting: int = 0,
    next_attempt_at: datetime | None = None,
) -> None:
    metadata: dict[str, dg.MetadataValue] = {
        "batch_ids": dg.MetadataValue.json(list(batch_ids)),
        "deferred_files": dg.MetadataValue.int(waiting),
    }
    if next_attempt_at is not None:
        metadata["next_attempt_at"] = dg.MetadataValue.timestamp(next_attempt_at)
    instance.report_runless_asset_event(dg.AssetMaterialization(openai_batch.key, partition=day, metadata=metadata))


def next_step(day: Day, polled: dict[str, RemoteBatch], now: datetime, last_end: datetime | None = None) -> Step:
    return steps.next_step(day, polled, now, last_end, TIMING)


def has_overdue_answers(day: Day, polled: dict[str, RemoteBatch], now: datetime) -> bool:
    return steps.has_overdue_answers(day, polled, now, TIMING)


def request_runs(
    instance: dg.DagsterInstance, next_runs: list[NextRun], now: datetime
) -> tuple[list[dg.RunRequest], list[str]]:
    """The run requests, and the sentences about days whose runs failed too often."""
    requested = run_requests.request_runs(instance, DEFAULT_LOCATION, next_runs, now, TIMING, RunNumbers(since=1))
    return requested.requests, [problem.sentence for problem in requested.failing.values()]


def ready_day(instance: dg.DagsterInstance, of_day: str = DAY) -> NextRun:
    """The collection of the day."""
    [day] = [day for day in read_days(instance) if day.day == of_day]
    return NextRun((day,), Step.COLLECT)


def collected(
    instance: dg.DagsterInstance, *, pending: int = 0, day: str = DAY, next_attempt_at: datetime | None = None
) -> None:
    metadata: dict[str, Any] = {"requests_pending": pending}
    if next_attempt_at is not None:
        metadata["next_attempt_at"] = dg.MetadataValue.timestamp(next_attempt_at)
    instance.report_runless_asset_event(dg.AssetMaterialization(summaries.key, partition=day, metadata=metadata))


def a_batch(api: LocalApi) -> str:
    line = {
        "custom_id": "1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "One. Two. Three."}]},
    }
    file = api.client.files.create(file=("a.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = api.client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    return batch.id


def tick(
    instance: dg.DagsterInstance, url: str, cursor: str | None = None, *, location: str | None = None
) -> dg.SensorResult:
    """The result of a tick in this code location; None: Dagster names none."""
    resources = {OPENAI: api_at(url)}
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
        if location is not None:
            context._code_location_origin = code_location_origin(location)
        result = openai_batch_sensor._raw_fn(context)
    assert isinstance(result, dg.SensorResult)
    return result


def requested(result: dg.SensorResult) -> list[tuple[str | None, list[dg.AssetKey]]]:
    return [(request.partition_key, list(request.asset_selection or [])) for request in result.run_requests or []]


def a_run(
    instance: dg.DagsterInstance,
    dedup_key: str,
    status: dg.DagsterRunStatus,
    *,
    location: str = DEFAULT_LOCATION,
    **tags: str,
) -> dg.DagsterRun:
    """A run that the sensor of this code location requested with this key."""
    first, is_range, last = dedup_key.split("/")[1].partition("..")
    days = {FIRST_PARTITION_TAG: first, LAST_PARTITION_TAG: last} if is_range else {PARTITION_TAG: first}
    repository = RemoteRepositoryOrigin(code_location_origin(location), "a_repository")
    run = dg.DagsterRun(
        job_name="a_job",
        run_id=str(uuid.uuid4()),
        status=status,
        tags={DEDUP_TAG: dedup_key, **days, **tags},
        remote_job_origin=RemoteJobOrigin(repository, "a_job"),
    )
    return instance.add_run(run)


def failed_run(instance: dg.DagsterInstance, result: dg.SensorResult) -> dg.DagsterRun:
    """The only run that the tick requested, which failed long ago."""
    [request] = result.run_requests or []
    tags = {"dagster/run_key": str(request.run_key)}
    return a_run(instance, request.tags[DEDUP_TAG], dg.DagsterRunStatus.FAILURE, **tags)


def later(monkeypatch: pytest.MonkeyPatch, **time: float) -> None:
    """The sensor's clock is that much ahead."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return cls.fromtimestamp(real_time.time() + timedelta(**time).total_seconds(), tz)

    monkeypatch.setattr(sensors, "datetime", Clock)


def reason_of(instance: dg.DagsterInstance, url: str, cursor: str | None = None) -> str:
    return str(tick(instance, url, cursor).skip_reason)
