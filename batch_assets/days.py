"""Dagster's event log → the days that need a step, with a bounded number of queries and of events in each tick."""

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

from batch_assets.asset_keys import OPENAI_BATCH, SUMMARIES
from batch_assets.batching.next_step import Day
from batch_assets.day_events import DEFAULT_LOCATION, DayEvent, newest_event, read_events

# Several processes write events at once: one with a lower storage id may become visible later. A tick reads them again.
OVERLAP = 1000


@dataclass(frozen=True)
class CollectedDays:
    """What the sensor knows of the events of `summaries` that it has read, so that it reads each only once.

    read_up_to: the storage id up to which it has read. pending: the days among them that may need a step: requests are
    pending, blocked or in flight, or their newest event is of another code location.
    """

    read_up_to: int = -1
    pending: tuple[str, ...] = ()


@dataclass(frozen=True)
class DaysRead:
    """The days that need a step, what to remember for the next tick, and how many collected days are still unread."""

    days: list[Day]
    collected: CollectedDays
    unread: int


def read_days(instance: dg.DagsterInstance, location: str = DEFAULT_LOCATION) -> list[Day]:
    """The days that were submitted and not collected, and the collected days with pending or blocked requests.

    Only events of this code location count: another one may define the same assets with another database.
    """
    return read_new_days(instance, location, CollectedDays()).days


def read_new_days(
    instance: dg.DagsterInstance, location: str, known: CollectedDays, limit: int | None = None
) -> DaysRead:
    """The same, but it reads only the events of `summaries` that are new, the oldest first, at most `limit`
    (None: all).

    With an empty memory and many collected days, the first ticks do not find all collected days with pending requests.
    They find all days that were submitted and not collected.
    """
    submitted, collected = _newest(instance, OPENAI_BATCH), _newest(instance, SUMMARIES)
    last_collected = max(collected.values(), default=-1)
    uncollected = {day: storage_id for day, storage_id in submitted.items() if storage_id > collected.get(day, -1)}
    if known.read_up_to > last_collected:  # events were deleted, or the whole log: the ids of a new one begin at 1
        known = CollectedDays(pending=known.pending)
    new = sorted(storage_id for storage_id in collected.values() if storage_id > known.read_up_to - OVERLAP)
    page = new[:limit]
    again = {collected[day] for day in known.pending if day in collected}

    days: list[Day] = []
    foreign: set[str] = set()
    pending: set[str] = set()
    for event in read_events(instance, SUMMARIES, sorted(again.union(page))):
        if event.day not in submitted or event.day in uncollected:
            pending.update([event.day] if event.origin.location == location and _has_requests_left(event) else [])
        elif event.origin.location != location:
            foreign.add(event.day)
        elif event.requests_in_flight:  # a backfill has materialized the day before its batches ended
            pending.add(event.day)
            uncollected[event.day] = submitted[event.day]
        elif _has_requests_left(event):
            pending.add(event.day)
            days.append(_collected_day(event))
    for event in read_events(instance, OPENAI_BATCH, list(uncollected.values())):
        if event.origin.location != location:
            foreign.add(event.day)
        else:
            days.append(_submitted_day(event, last_collected))
    for name in foreign:
        if (day := _day_of_several_locations(instance, name, location, last_collected)) is not None:
            days.append(day)
            pending.add(name)
    read_up_to = max([known.read_up_to, *page[-1:]])
    return DaysRead(
        sorted(days, key=lambda day: day.storage_id),
        CollectedDays(read_up_to, tuple(sorted(pending))),
        unread=len(new) - len(page),
    )


def _newest(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, int]:
    """partition → storage id of its newest materialization; one query, whatever the number of partitions."""
    return instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)


def _day_of_several_locations(
    instance: dg.DagsterInstance, name: str, location: str, last_collected: int
) -> Day | None:
    """The same for a day whose newest event is of another code location; None if the day needs no step."""
    submitted = newest_event(instance, OPENAI_BATCH, name, location)
    collected = newest_event(instance, SUMMARIES, name, location)
    if submitted is None:
        return None
    if collected is None or submitted.storage_id > collected.storage_id or collected.requests_in_flight:
        return _submitted_day(submitted, last_collected)
    return _collected_day(collected) if _has_requests_left(collected) else None


def _submitted_day(event: DayEvent, last_collected: int) -> Day:
    return Day(
        event.day,
        event.storage_id,
        event.at,
        batch_ids=event.batch_ids,
        api=event.origin.api,
        deferred=event.deferred_files,
        next_attempt_at=event.next_attempt_at,
        error=event.error,
        is_capacity_freed=last_collected > event.storage_id,
    )


def _has_requests_left(event: DayEvent) -> bool:
    return event.requests_pending > 0 or event.requests_blocked > 0


def _collected_day(event: DayEvent) -> Day:
    return Day(
        event.day,
        event.storage_id,
        event.at,
        next_attempt_at=event.next_attempt_at,
        error=event.error,
        needs_next_round=event.requests_pending > 0,
        blocked=event.requests_blocked,
    )
