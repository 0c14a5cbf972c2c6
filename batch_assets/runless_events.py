"""Materializations of `openai_batch` outside of a run of their day, so that the sensor polls the batches of the day."""

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
    **metadata: str | int,
) -> dg.AssetMaterialization:
    """A materialization of the day with the batches and request files that it waits for."""
    batch_ids = submissions.awaited_batch_ids(database, day, data_folder)
    deferred = len(submissions.unsubmitted(database, day, data_folder))
    return dg.AssetMaterialization(
        key,
        partition=day,
        metadata={**submission_metadata(origin, batch_ids, deferred, next_attempt_at), **metadata},
    )


def announce_days_without_event(
    instance: dg.DagsterInstance, key: dg.AssetKey, database: Database, data_folder: Path, origin: Origin, day: str
) -> None:
    """Report each day except `day` that waits for a batch which its newest event does not name.

    The sensor knows a day only by its events. A run of one day enters the batches of all days, a run may be killed
    between its batch and its event, and a Dagster home may be lost. So this function compares the ledger with the
    events. It does not report a day that another database has submitted.
    """
    with_events = instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    days_without_events = set(known_batches.days_with_batches(database)) - with_events.keys()
    for other in sorted({*known_batches.days_with_adopted_batches(database), *days_without_events} - {day}):
        event = newest_event(instance, key, other, origin.location)
        if event is not None and event.origin.warehouse_id not in (None, origin.warehouse_id):
            continue
        waited_for = submissions.awaited_batch_ids(database, other, data_folder)
        if event is None or not set(waited_for) <= set(event.batch_ids):
            instance.report_runless_asset_event(
                report_of_submission(
                    key, database, data_folder, origin, other, datetime.now(UTC), batches_recovered=len(waited_for)
                )
            )
