"""Materializations of `openai_batch` outside of a run of their day, so that the sensor polls the batches of the day."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from batch_assets.asset_keys import TaskKeys
from batch_assets.batching.ledger import known_batches, submissions
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.task_day import TaskDay
from batch_assets.day_events import DayEvent, Origin, newest_event, newest_storage_ids, read_events, submission_metadata


def report_of_submission(
    key: dg.AssetKey,
    database: Database,
    data_folder: Path,
    origin: Origin,
    day: TaskDay,
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
        partition=day.day,
        metadata={**submission_metadata(origin, batch_ids, len(deferred), next_attempt_at), **metadata},
    )


def announce_days_without_event(
    instance: dg.DagsterInstance,
    keys: Mapping[str, TaskKeys],
    database: Database,
    data_folder: Path,
    origin: Origin,
    days: Collection[TaskDay],
) -> None:
    """Report each day, except those of the run itself, that waits for a batch which its newest event does not name.

    keys: of the assets of each task of the code location. A task that it does not have any more is not reported.
    The sensor knows a day only by its events. A run of one day enters the batches of all days, a run may be killed
    between its batch and its event, and a Dagster home may be lost. So this function compares the ledger with the
    events. It does not report a day that another database has submitted.
    """
    with_batches = set(known_batches.days_with_batches(database))
    days_without_events = {day for day in with_batches if day.task in keys} - _with_events(
        instance, keys, {day.task for day in with_batches}
    )
    for other in sorted({*known_batches.days_with_adopted_batches(database), *days_without_events}.difference(days)):
        if other.task not in keys:
            continue
        key = keys[other.task].openai_batch
        event = newest_event(instance, key, other.day, origin.location)
        if event is not None and event.origin.is_of_other_warehouse(origin.warehouse_id):
            continue
        waited_for = submissions.awaited_batch_ids(database, other, data_folder)
        if event is None or not set(waited_for) <= set(event.batch_ids):
            instance.report_runless_asset_event(
                report_of_submission(
                    key, database, data_folder, origin, other, datetime.now(UTC), batches_recovered=len(waited_for)
                )
            )


def _with_events(instance: dg.DagsterInstance, keys: Mapping[str, TaskKeys], tasks: Collection[str]) -> set[TaskDay]:
    """The days of these tasks that have an event of `openai_batch`."""
    found: set[TaskDay] = set()
    for task in keys.keys() & tasks:
        found.update(TaskDay(task, day) for day in newest_storage_ids(instance, keys[task].openai_batch))
    return found


def announce_abandoned_batch(
    instance: dg.DagsterInstance,
    keys: Mapping[str, TaskKeys],
    database: Database,
    data_folder: Path,
    origin: Origin,
    *,
    batch_id: str,
    days: Sequence[TaskDay],
) -> list[TaskDay]:
    """Report the days that wait for a batch which the user gave up, without it; returns these days.

    keys: of the assets of each task of the code location.
    days: the days that need its requests, as the ledger knows them. One of them without any event is reported, too. An
        event may name the batch for other days, whose articles have changed since then.

    The event of the same code location is replaced. It has no API unless the day waits for other batches: else the
    sensor would wait for an API that may no longer exist. A day that another database has submitted is not reported.
    """
    events: dict[TaskDay, DayEvent] = {}
    for task, of_task in keys.items():
        in_flight = _storage_ids_in_flight(instance, of_task)
        for event in read_events(instance, of_task.openai_batch, in_flight):
            if batch_id in event.batch_ids:
                events[TaskDay(task, event.day)] = event
    reported: list[TaskDay] = []
    for day in sorted({*days, *events}):
        if day.task not in keys:
            continue
        key = keys[day.task].openai_batch
        found = events.get(day) or newest_event(instance, key, day.day, origin.location)
        if found is not None and (
            found.origin.is_of_other_warehouse(origin.warehouse_id) or batch_id not in found.batch_ids
        ):
            continue
        of_event = origin if found is None else replace(found.origin, warehouse_id=origin.warehouse_id)
        waits = bool(submissions.awaited_batch_ids(database, day, data_folder))
        of_report = replace(of_event, api=of_event.api if waits else None)
        instance.report_runless_asset_event(
            report_of_submission(key, database, data_folder, of_report, day, datetime.now(UTC), batches_abandoned=1)
        )
        reported.append(day)
    return reported


def _storage_ids_in_flight(instance: dg.DagsterInstance, keys: TaskKeys) -> list[int]:
    """The newest events of the days that were submitted, and not collected since."""
    submitted, collected = newest_storage_ids(instance, keys.openai_batch), newest_storage_ids(instance, keys.results)
    return [storage_id for day, storage_id in submitted.items() if storage_id > collected.get(day, -1)]
