"""Dagster's event log → the days that need a step, with a bounded number of queries and of events in each tick."""

from dataclasses import dataclass, replace

import dagster as dg

from batch_assets.asset_keys import TaskKeys, keys_of_task
from batch_assets.batching.next_step import Day
from batch_assets.batching.task_day import FIRST_TASK
from batch_assets.day_events import DEFAULT_LOCATION, DayEvent, newest_event, newest_storage_ids, read_events

# Several processes write events at once: one with a lower storage id may become visible later. A tick reads them again.
OVERLAP = 1000
FIRST_KEYS = keys_of_task(FIRST_TASK, ())


@dataclass(frozen=True)
class CollectedDays:
    """What the sensor knows of the events of the results that it has read, so that it reads each only once.

    read_up_to: the storage id up to which it has read. pending: the days among them that may need a step: requests are
    pending, blocked or in flight, or their newest event is of another code location.
    """

    read_up_to: int = -1
    pending: tuple[str, ...] = ()


@dataclass(frozen=True)
class DaysRead:
    """The days that need a step, what to remember for the next tick, and how many collected days are still unread.

    last_collected: the storage id of the newest event of the results.
    """

    days: list[Day]
    collected: CollectedDays
    unread: int
    last_collected: int = -1

    def after(self, last_collected: int) -> "DaysRead":
        """The same, when another task may have been collected later: its batches no longer take capacity."""
        days = [
            replace(day, is_capacity_freed=day.is_in_flight and last_collected > day.storage_id) for day in self.days
        ]
        return replace(self, days=days)


def read_days(
    instance: dg.DagsterInstance, location: str = DEFAULT_LOCATION, task: str = FIRST_TASK, keys: TaskKeys = FIRST_KEYS
) -> list[Day]:
    """The days of the task that were submitted and not collected, and the collected days with pending or blocked
    requests.

    Only events of this code location count: another one may define the same assets with another database.
    """
    return read_new_days(instance, location, CollectedDays(), task=task, keys=keys).days


def read_new_days(
    instance: dg.DagsterInstance,
    location: str,
    known: CollectedDays,
    limit: int | None = None,
    *,
    task: str = FIRST_TASK,
    keys: TaskKeys = FIRST_KEYS,
) -> DaysRead:
    """The same, but it reads only the events of the results that are new, the oldest first, at most `limit`
    (None: all).

    With an empty memory and many collected days, the first ticks do not find all collected days with pending requests.
    They find all days that were submitted and not collected.
    """
    submitted, collected = newest_storage_ids(instance, keys.openai_batch), newest_storage_ids(instance, keys.results)
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
    for event in read_events(instance, keys.results, sorted(again.union(page))):
        if event.day not in submitted or event.day in uncollected:
            pending.update([event.day] if event.origin.location == location and _has_requests_left(event) else [])
        elif event.origin.location != location:
            foreign.add(event.day)
        elif event.requests_in_flight:  # a backfill has materialized the day before its batches ended
            pending.add(event.day)
            uncollected[event.day] = submitted[event.day]
        elif _has_requests_left(event):
            pending.add(event.day)
            days.append(_collected_day(event, task))
    for event in read_events(instance, keys.openai_batch, list(uncollected.values())):
        if event.origin.location != location:
            foreign.add(event.day)
        else:
            days.append(_submitted_day(event, task, last_collected))
    for name in foreign:
        submitted_event, collected_event = (newest_event(instance, key, name, location) for key in keys[1:])
        day = _day_of_several_locations(submitted_event, collected_event, task, last_collected)
        if day is not None:
            days.append(day)
            pending.add(name)
    read_up_to = max([known.read_up_to, *page[-1:]])
    return DaysRead(
        sorted(days, key=lambda day: day.storage_id),
        CollectedDays(read_up_to, tuple(sorted(pending))),
        unread=len(new) - len(page),
        last_collected=last_collected,
    )


def _day_of_several_locations(
    submitted: DayEvent | None, collected: DayEvent | None, task: str, last_collected: int
) -> Day | None:
    """The same for a day whose newest event is of another code location: by the newest events of this one.

    None if the day needs no step.
    """
    if submitted is None:
        return None
    if collected is None or submitted.storage_id > collected.storage_id or collected.requests_in_flight:
        return _submitted_day(submitted, task, last_collected)
    return _collected_day(collected, task) if _has_requests_left(collected) else None


def _submitted_day(event: DayEvent, task: str, last_collected: int) -> Day:
    return Day(
        event.day,
        event.storage_id,
        event.at,
        task,
        batch_ids=event.batch_ids,
        api=event.origin.api,
        deferred=event.deferred_files,
        next_attempt_at=event.next_attempt_at,
        error=event.error,
        is_capacity_freed=last_collected > event.storage_id,
    )


def _has_requests_left(event: DayEvent) -> bool:
    return event.requests_pending > 0 or event.requests_blocked > 0


def _collected_day(event: DayEvent, task: str) -> Day:
    return Day(
        event.day,
        event.storage_id,
        event.at,
        task,
        next_attempt_at=event.next_attempt_at,
        error=event.error,
        needs_next_round=event.requests_pending > 0,
        blocked=event.requests_blocked,
    )
