"""Days whose submission ended with an error: the event by which the sensor requests another run, and when.

The event is a materialization, since the sensor reads those. It says nothing of success, so Dagster is told again that
the run intends to materialize the day: it then shows the day as failed when the run has failed.
"""

import logging
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
import duckdb
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

from batch_assets.assets.day_run import DayRun, TaskRun
from batch_assets.batching.ledger.database import DatabaseBusyError
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets.day_events import Cause, DayEvent, Origin, error_metadata, newest_event, submission_metadata
from batch_assets.runless_events import report_of_submission

FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(minutes=10)
FAILURES_OF_AN_OUTAGE = 3


@dataclass
class Outage:
    """Whether the API failed for several days in a row: the run then tries no other day, since each takes minutes."""

    errors: list[SubmissionError] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        """Raises the last SubmissionError during an outage."""
        with self.lock:
            if len(self.errors) >= FAILURES_OF_AN_OUTAGE:
                raise self.errors[-1]

    def count(self, error: SubmissionError) -> None:
        with self.lock:
            self.errors.append(error)

    def is_over(self) -> None:
        with self.lock:
            self.errors.clear()


def next_pause(event: DayEvent | None) -> timedelta:
    """Until the next attempt of a day that fails again: twice as long as before. event: the day's newest one."""
    if event is None or event.error is None or event.next_attempt_at is None:
        return FIRST_PAUSE
    return min(max(2 * (event.next_attempt_at - event.at), FIRST_PAUSE), LONGEST_PAUSE)


def report_to_sensor(
    task: TaskRun, origin: Origin, day: str, pause: timedelta, reason: str, cause: Cause | None = None
) -> None:
    """Report an unfinished submission: the sensor collects its batches, and requests a run for the rest.

    If the tables cannot be read, the event repeats the batches of the newest one. The next run finds the others.
    """
    run, key = task.run, task.keys.openai_batch
    next_attempt_at = datetime.now(UTC) + pause
    try:
        event = report_of_submission(
            key,
            run.warehouse.tables,
            run.warehouse.files,
            origin,
            task.on(day),
            next_attempt_at,
            **error_metadata(reason, cause),
        )
    except (DatabaseBusyError, duckdb.Error, OSError) as error:
        task.warning(day, f"The tables cannot be read: {error_message(error)}")
        newest = newest_event(run.instance, key, day, origin.location)
        batch_ids = () if newest is None else newest.batch_ids
        metadata = submission_metadata(origin, batch_ids, deferred_files=1, next_attempt_at=next_attempt_at)
        event = dg.AssetMaterialization(key, partition=day, metadata={**metadata, **error_metadata(reason, cause)})
    report_unfinished(run, event)


def report_unfinished(run: DayRun, event: dg.AssetMaterialization) -> None:
    """Report the event, and that the run has not materialized the day: Dagster shows it as failed."""
    run.report_runless(event)
    planned = DagsterEvent.build_asset_materialization_planned_event(
        run.context.run.job_name,
        run.context.op_execution_context.op.name,
        AssetMaterializationPlannedData(event.asset_key, partition=event.partition),
    )
    with run.lock:
        run.instance.report_dagster_event(planned, run_id=run.context.run.run_id, log_level=logging.DEBUG)
