"""What Dagster's event log says about a backfill: when what happened, how many runs, what a run's time went into."""

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES

ASSETS = ("raw_articles", "batch_request_file", "openai_batch", "summaries")
UPSTREAM = ASSETS[:3]
SUMMARIES = dg.AssetKey("summaries")
BACKFILL_TAG = "dagster/backfill"
FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
EVENTS_AT_ONCE = 1000
PROCESS_ID = re.compile(r"Executing steps in process \(pid: (\d+)\)")
ENDS_OF_A_STEP = (dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE)


@dataclass
class RunTimes:
    """A run, and the Unix seconds of its log. `pid` is that of its process."""

    record: dg.RunRecord
    pid: int | None = None
    launched_at: float | None = None
    first_step_at: float | None = None
    first_line_at: float | None = None  # that our code has logged
    steps: dict[str, float] = field(default_factory=dict)  # step → seconds

    @property
    def is_of_backfill(self) -> bool:
        return BACKFILL_TAG in self.record.dagster_run.tags


@dataclass
class Days:
    """The days whose summaries are complete, from the events of `summaries` that are new at each call of `read`."""

    days: Sequence[str]
    articles: int
    complete: set[str] = field(default_factory=set)
    _known: set[int] = field(default_factory=set)

    def read(self, instance: dg.DagsterInstance) -> None:
        newest = instance.get_latest_storage_id_by_partition(SUMMARIES, dg.DagsterEventType.ASSET_MATERIALIZATION)
        new = sorted(storage_id for storage_id in newest.values() if storage_id not in self._known)
        self._known.update(new)
        for record in _events(instance, SUMMARIES, new):
            event = record.asset_materialization
            if event is not None and event.partition is not None:
                answered = event.metadata.get("answered")
                if answered is not None and answered.value == self.articles:
                    self.complete.add(event.partition)

    @property
    def are_complete(self) -> bool:
        return len(self.complete) == len(self.days)


def times_of(instance: dg.DagsterInstance, asset: str) -> list[float]:
    """When the asset was materialized, for any day, in Unix seconds."""
    key, cursor = dg.AssetKey(asset), None
    times: list[float] = []
    while True:
        page = instance.fetch_materializations(key, limit=EVENTS_AT_ONCE, cursor=cursor, ascending=True)
        times.extend(record.timestamp for record in page.records)
        if not page.has_more:
            return times
        cursor = page.cursor


def read_runs(instance: dg.DagsterInstance) -> list[RunTimes]:
    """All runs, with what their logs say; takes some seconds for a thousand runs."""
    return [_run_times(record, instance.all_logs(record.dagster_run.run_id)) for record in instance.get_run_records()]


def status_of(instance: dg.DagsterInstance, backfill_id: str) -> tuple[str, bool]:
    """The status of the backfill, and whether it has ended."""
    backfill = instance.get_backfill(backfill_id)
    if backfill is None:
        return "-", True
    return backfill.status.value, backfill.status in BULK_ACTION_TERMINAL_STATUSES


def median_seconds(pairs: Iterable[tuple[float | None, float | None]]) -> float | None:
    """The median of the seconds from the first to the second time; None if there is none."""
    seconds = [end - start for start, end in pairs if start is not None and end is not None]
    return statistics.median(seconds) if seconds else None


def seconds_in_steps(runs: Iterable[RunTimes]) -> Mapping[str, float]:
    """step → the seconds of all its executions. They may overlap."""
    seconds: dict[str, float] = defaultdict(float)
    for run in runs:
        for step, took in run.steps.items():
            seconds[step] += took
    return seconds


def _run_times(record: dg.RunRecord, log: Iterable[dg.EventLogEntry]) -> RunTimes:
    run = RunTimes(record)
    started: dict[str, float] = {}
    for entry in log:
        event = entry.dagster_event
        if event is None:
            run.first_line_at = run.first_line_at or entry.timestamp
        elif event.event_type is dg.DagsterEventType.RUN_STARTING:
            run.launched_at = run.launched_at or entry.timestamp
        elif event.event_type is dg.DagsterEventType.STEP_START:
            run.first_step_at = run.first_step_at or entry.timestamp
            started[str(event.step_key)] = entry.timestamp
        elif event.event_type in ENDS_OF_A_STEP and event.step_key in started:
            step = str(event.step_key)
            run.steps[step] = run.steps.get(step, 0.0) + entry.timestamp - started[step]
        elif run.pid is None and (match := PROCESS_ID.search(event.message or "")):
            run.pid = int(match[1])
    return run


def _events(instance: dg.DagsterInstance, key: dg.AssetKey, storage_ids: Sequence[int]) -> Iterator[dg.EventLogRecord]:
    for start in range(0, len(storage_ids), EVENTS_AT_ONCE):
        page = storage_ids[start : start + EVENTS_AT_ONCE]
        wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=page)
        yield from instance.fetch_materializations(wanted, limit=len(page)).records
