"""Materializations of `openai_batch` outside of a run of their day, so that the sensor polls the batches of the day."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from batch_assets.batching.ledger import known_batches, submissions
from batch_assets.batching.ledger.database import Database
from batch_assets.day_events import Origin, newest_event, read_events, submission_metadata


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
    deferred = submissions.unsubmitted(database, day, data_folder)
    pauses = [submission.not_before.replace(tzinfo=UTC) for submission in deferred if submission.not_before]
    if pauses and len(pauses) == len(deferred) and min(pauses) > datetime.now(UTC):
        next_attempt_at = min(pauses)  # no run can send any of them earlier
    return dg.AssetMaterialization(
        key,
        partition=day,
        metadata={**submission_metadata(origin, batch_ids, len(deferred), next_attempt_at), **metadata},
    )


def announce_days_without_event(
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    database: Database,
    data_folder: Path,
    origin: Origin,
    days: Collection[str],
) -> None:
    """Report each day, except those of the run itself, that waits for a batch which its newest event does not name.

    The sensor knows a day only by its events. A run of one day enters the batches of all days, a run may be killed
    between its batch and its event, and a Dagster home may be lost. So this function compares the ledger with the
    events. It does not report a day that another database has submitted.
    """
    with_events = instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    days_without_events = set(known_batches.days_with_batches(database)) - with_events.keys()
    for other in sorted({*known_batches.days_with_adopted_batches(database), *days_without_events}.difference(days)):
        event = newest_event(instance, key, other, origin.location)
        if event is not None and event.origin.is_of_other_warehouse(origin.warehouse_id):
            continue
        waited_for = submissions.awaited_batch_ids(database, other, data_folder)
        if event is None or not set(waited_for) <= set(event.batch_ids):
            instance.report_runless_asset_event(
                report_of_submission(
                    key, database, data_folder, origin, other, datetime.now(UTC), batches_recovered=len(waited_for)
                )
            )


def announce_abandoned_batch(
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    collected_key: dg.AssetKey,
    database: Database,
    data_folder: Path,
    origin: Origin,
    *,
    batch_id: str,
    days: Sequence[str],
) -> list[str]:
    """Report the days that wait for a batch which the user gave up, without it; returns these days.

    key, collected_key: of `openai_batch` and `summaries`.
    days: the days that need its requests, as the ledger knows them. One of them without any event is reported, too. An
        event may name the batch for other days, whose articles have changed since then.

    The event of the same code location is replaced. It has no API unless the day waits for other batches: else the
    sensor would wait for an API that may no longer exist. A day that another database has submitted is not reported.
    """
    submitted = instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    collected = instance.get_latest_storage_id_by_partition(collected_key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    in_flight = [storage_id for day, storage_id in submitted.items() if storage_id > collected.get(day, -1)]
    events = {event.day: event for event in read_events(instance, key, in_flight) if batch_id in event.batch_ids}
    reported: list[str] = []
    for day in sorted({*days, *events}):
        event = events.get(day) or newest_event(instance, key, day, origin.location)
        if event is not None and (
            event.origin.is_of_other_warehouse(origin.warehouse_id) or batch_id not in event.batch_ids
        ):
            continue
        of_event = origin if event is None else replace(event.origin, warehouse_id=origin.warehouse_id)
        waits = bool(submissions.awaited_batch_ids(database, day, data_folder))
        of_report = replace(of_event, api=of_event.api if waits else None)
        instance.report_runless_asset_event(
            report_of_submission(key, database, data_folder, of_report, day, datetime.now(UTC), batches_abandoned=1)
        )
        reported.append(day)
    return reported
