"""Materializations of `openai_batch` made outside of a run of their day, so that the sensor watches the day."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from batch_assets.batching.ledger import known_batches, submissions
from batch_assets.batching.ledger.database import Database
from batch_assets.day_events import Origin, newest_event, submission_metadata


def report_of_submission(
    key: dg.AssetKey,
    database: Database,
    data_folder: Path,
    origin: Origin,
    day: str,
    next_attempt_at: datetime,
    **more: str | int,
) -> dg.AssetMaterialization:
    """A materialization of the day that says what the ledger waits for."""
    batch_ids = submissions.batches_waited_for(database, day, data_folder)
    deferred = len(submissions.unsubmitted(database, day, data_folder))
    return dg.AssetMaterialization(
        key,
        partition=day,
        metadata={**submission_metadata(origin, batch_ids, deferred, next_attempt_at), **more},
    )


def announce_days_without_event(
    instance: dg.DagsterInstance, key: dg.AssetKey, database: Database, data_folder: Path, origin: Origin, day: str
) -> None:
    """Report the days, but for `day` itself, that wait for a batch which their events do not name.

    The sensor knows a day by its events only. A run of one day takes in the batches of all days, a run may be killed
    between its batch and its event, and a Dagster home may be lost. Compares the ledger with the events, so nothing is
    left out. A day that another database submitted is left to it.
    """
    with_events = instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    days_without_events = set(known_batches.days_with_batches(database)) - with_events.keys()
    for other in sorted({*known_batches.days_taken_in(database), *days_without_events} - {day}):
        event = newest_event(instance, key, other, origin.location)
        if event is not None and event.origin.warehouse_id not in (None, origin.warehouse_id):
            continue
        waited_for = submissions.batches_waited_for(database, other, data_folder)
        if event is None or not set(waited_for) <= set(event.batch_ids):
            instance.report_runless_asset_event(
                report_of_submission(
                    key, database, data_folder, origin, other, datetime.now(UTC), batches_recovered=len(waited_for)
                )
            )
