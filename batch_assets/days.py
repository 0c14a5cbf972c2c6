"""Dagster's event log → the days that need a step, with a constant number of queries."""

from collections.abc import Mapping

import dagster as dg

from batch_assets.assets import openai_batch, summaries
from batch_assets.batching.next_step import Day
from batch_assets.day_events import DEFAULT_LOCATION, DayEvent, newest_event, read_events


def read_days(instance: dg.DagsterInstance, location: str = DEFAULT_LOCATION) -> list[Day]:
    """The days that were submitted and not collected, and the collected days with pending requests.

    Only events of this code location count: another one may define the same assets with another database.
    """
    submitted, collected = _newest(instance, openai_batch.key), _newest(instance, summaries.key)
    last_collected = max(collected.values(), default=-1)
    uncollected = {day: storage_id for day, storage_id in submitted.items() if storage_id > collected.get(day, -1)}
    ended = {day: collected[day] for day in submitted.keys() - uncollected.keys()}
    days: list[Day] = []
    foreign: set[str] = set()
    for event in read_events(instance, openai_batch.key, list(uncollected.values())):
        if event.origin.location != location:
            foreign.add(event.day)
        else:
            days.append(_submitted_day(event, last_collected))
    for event in read_events(instance, summaries.key, list(ended.values())):
        if event.origin.location != location:
            foreign.add(event.day)
        elif event.requests_pending:
            days.append(_collected_day(event))
    days += [day for name in foreign if (day := _day_of_several_locations(instance, name, location, last_collected))]
    return sorted(days, key=lambda day: day.storage_id)


def _newest(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, int]:
    """partition → storage id of its newest materialization; one query, whatever the number of partitions."""
    return instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)


def _day_of_several_locations(
    instance: dg.DagsterInstance, name: str, location: str, last_collected: int
) -> Day | None:
    """The same for a day whose newest event is of another code location; None if the day needs no step."""
    submitted = newest_event(instance, openai_batch.key, name, location)
    collected = newest_event(instance, summaries.key, name, location)
    if submitted is None:
        return None
    if collected is None or submitted.storage_id > collected.storage_id:
        return _submitted_day(submitted, last_collected)
    return _collected_day(collected) if collected.requests_pending else None


def _submitted_day(event: DayEvent, last_collected: int) -> Day:
    return Day(
        event.day,
        event.storage_id,
        event.at,
        batch_ids=event.batch_ids,
        api=event.origin.api,
        deferred=event.deferred_files,
        next_attempt_at=event.next_attempt_at,
        is_capacity_freed=last_collected > event.storage_id,
    )


def _collected_day(event: DayEvent) -> Day:
    return Day(event.day, event.storage_id, event.at, needs_next_round=True)
