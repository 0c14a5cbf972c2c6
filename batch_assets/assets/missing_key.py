"""A day whose key is missing waits, and the sensor tries it again every hour."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from batch_assets.assets.day_run import TaskRun
from batch_assets.assets.unfinished_days import report_unfinished
from batch_assets.day_events import DEFERRED_FILES, Cause, error_metadata, newest_event
from batch_assets.runless_events import report_of_submission

PAUSE_WITHOUT_KEY = timedelta(hours=1)


def stop_until_there_is_a_key(task: TaskRun, day: str) -> None:
    """Raise dagster.Failure if the key is missing, and report the day to the sensor, which tries again every hour.

    Without an event, the sensor would not know a day that was never submitted.
    """
    run, key = task.run, task.keys.openai_batch
    try:
        run.stand_in()
    except dg.Failure as failure:
        newest = newest_event(run.instance, key, day, run.location)
        # the API of its batches, if it has any: the sensor must not look for them at the stand-in
        api_of_batches = newest.origin.api if newest is not None and newest.batch_ids else None
        waiting: dict[str, str | int] = {
            DEFERRED_FILES: 1,
            **error_metadata(failure.description or "", Cause.ACCOUNT),
        }
        report_unfinished(
            run,
            report_of_submission(
                key,
                run.warehouse.tables,
                run.warehouse.files,
                run.origin(api_of_batches),
                task.on(day),
                datetime.now(UTC) + PAUSE_WITHOUT_KEY,
                **waiting,
            ),
        )
        raise
