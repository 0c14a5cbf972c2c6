"""Which of Dagster's runs `batch-assets prune --runs` may delete, with their logs; and their deletion.

The events of the assets and of their checks stay, so the sensor, the state of each partition and the history of each
asset do not change: `stored_runs`. What a day still needs is the record and the log of some runs, and these stay, too:

- of a run that has not ended, or that a retry or a backfill in progress refers to,
- of a run whose day is young, unfinished in the ledger, or one that the sensor has a step or a sentence for,
- of a run that failed or was skipped last: a partition or a check has its state from this run, until a later one
  materializes or checks it,
- of another database, of another project, and of a run with assets that are not ours.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, partial

import dagster as dg
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionsFilter, BulkActionStatus
from dagster._core.utils import is_valid_run_id

from batch_assets.batching.counting import counted
from batch_assets.day_events import DEFAULT_LOCATION, location_of_run, newest_event
from batch_assets.days import read_days
from batch_assets.run_requests import ENDED, FIRST_PARTITION_TAG, LAST_PARTITION_TAG, PARTITION_TAG, UNFINISHED
from batch_assets.stored_runs import assets_of_runs, delete_log, log_bytes, runs_that_states_are_from
from batch_assets.task_set import TaskSet

BACKFILL_TAG = "dagster/backfill"
RUNS_AT_ONCE = 500


@dataclass(frozen=True)
class FinishedDays:
    """The days whose runs may be deleted: those before `before` that are not `unfinished` in the ledger.

    before: the end of a run, in UTC, is before this day, too: the day of a run may be much older.
    warehouse_id: of the database with this ledger.
    """

    before: date
    unfinished: Collection[str]
    warehouse_id: str

    def has(self, day: str) -> bool:
        return day < self.before.isoformat() and day not in self.unfinished


@dataclass(frozen=True)
class OldRuns:
    """The runs that may be deleted. log_bytes: the size of those logs that are files on this machine."""

    run_ids: tuple[str, ...] = ()
    log_bytes: int = 0

    @property
    def lines(self) -> list[str]:
        """A line for the user; none if there is no run."""
        size = f", {self.log_bytes / 1e6:,.1f} MB" if self.log_bytes else ""
        return [f"{counted(len(self.run_ids), 'run')} in Dagster with all logs{size}"] if self.run_ids else []


def find_old_runs(instance: dg.DagsterInstance, finished: FinishedDays, tasks: TaskSet) -> OldRuns:
    """The runs of these tasks that may be deleted. Changes nothing. Raises StorageError."""
    assets = {feed.key for feed in tasks.feeds}.union(*tasks.keys.values())
    candidates = list(_candidates(instance, finished, assets))
    if not candidates:
        return OldRuns()
    needed = _retried_runs(instance) | runs_that_states_are_from(instance, assets)
    locations = {run.location for run in candidates}
    waiting = {
        (location, day.day)
        for location in locations
        for task, keys in tasks.keys.items()
        for day in read_days(instance, location, task, keys)
    }
    of_tasks = [keys.openai_batch for keys in tasks.keys.values()]
    is_ours = cache(partial(_is_of_database, finished.warehouse_id, instance, of_tasks))
    run_ids = tuple(
        run.run_id
        for run in candidates
        if run.run_id not in needed
        and not any((run.location, day) in waiting for day in run.days)
        and all(is_ours(day, run.location) for day in run.days)
    )
    return OldRuns(run_ids, sum(log_bytes(instance, run_id) for run_id in run_ids))


def delete_runs(instance: dg.DagsterInstance, old_runs: OldRuns) -> None:
    """Delete these runs and their logs. Raises StorageError, OSError.

    The record of a run is deleted last: if this is killed, the next prune finds the run again.
    """
    for run_id in old_runs.run_ids:
        delete_log(instance, run_id)
        instance.run_storage.delete_run(run_id)


@dataclass(frozen=True)
class _Run:
    run_id: str
    location: str
    days: frozenset[str]


def _candidates(instance: dg.DagsterInstance, finished: FinishedDays, ours: Collection[dg.AssetKey]) -> Iterator[_Run]:
    """The ended runs of our assets, and of no others, whose days are all finished."""
    backfills = _backfills_in_progress(instance)
    for page in _ended_runs(instance, finished.before):
        assets = assets_of_runs(instance, [run.run_id for run in page])
        for run in page:
            of_run = assets.get(run.run_id, set())
            days = _days_of(run) | {day for _, day in of_run if day is not None}
            if (
                {key for key, _ in of_run} <= set(ours)
                and of_run
                and run.tags.get(BACKFILL_TAG) not in backfills
                and days
                and all(finished.has(day) for day in days)
            ):
                yield _Run(run.run_id, location_of_run(run), days)


def _ended_runs(instance: dg.DagsterInstance, before: date) -> Iterator[list[dg.DagsterRun]]:
    """The runs that had ended before this day, the newest first, a page at a time."""
    ended = dg.RunsFilter(statuses=list(ENDED), updated_before=datetime.combine(before, time(), UTC))
    cursor: str | None = None
    while page := instance.get_runs(ended, limit=RUNS_AT_ONCE, cursor=cursor):
        # the id becomes part of a path
        yield [run for run in page if is_valid_run_id(run.run_id)]
        cursor = page[-1].run_id


def _days_of(run: dg.DagsterRun) -> frozenset[str]:
    """The days that the tags of the run name: one, or all of a range. Empty if they name no day."""
    day = run.tags.get(PARTITION_TAG, "")
    first, last = run.tags.get(FIRST_PARTITION_TAG, day), run.tags.get(LAST_PARTITION_TAG, day)
    try:
        start, end = date.fromisoformat(first), date.fromisoformat(last)
    except ValueError:
        return frozenset()
    days = frozenset((start + timedelta(days=number)).isoformat() for number in range((end - start).days + 1))
    return days | {day} if day else days


def _retried_runs(instance: dg.DagsterInstance) -> set[str]:
    """The runs that a run which has not ended is a retry of: it may read their logs."""
    unfinished = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    return {run_id for run in unfinished for run_id in (run.parent_run_id, run.root_run_id) if run_id}


def _backfills_in_progress(instance: dg.DagsterInstance) -> set[str]:
    """Their ids: the daemon counts the runs of these backfills."""
    open_statuses = [status for status in BulkActionStatus if status not in BULK_ACTION_TERMINAL_STATUSES]
    found = instance.get_backfills(filters=BulkActionsFilter(statuses=open_statuses))
    return {backfill.backfill_id for backfill in found}


def _is_of_database(
    warehouse_id: str, instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey], day: str, location: str
) -> bool:
    """Whether this code location submitted the day from this database, for each task with one of these keys.

    The newest event of `openai_batch` says so. Events of an earlier version do not name their database. They count as
    ours in the default code location only.
    """
    events = [event for key in keys if (event := newest_event(instance, key, day, location)) is not None]
    return bool(events) and all(
        event.origin.warehouse_id == warehouse_id
        or (event.origin.warehouse_id is None and location == DEFAULT_LOCATION)
        for event in events
    )
