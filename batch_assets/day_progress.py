"""The progress of days: what the sensor shows of it, and which days have not moved for long."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import dagster as dg

from batch_assets.batching.next_step import Day, Progress
from batch_assets.batching.provider.batches import RemoteBatch
from batch_assets.batching.timing import Timing
from batch_assets.sensor_cursor import ShownDay

OBSERVATIONS_PER_TICK = 100  # Dagster takes up to 70 ms for each
CHECKS_PER_TICK = 20  # HTTP calls in addition to the list


def days_to_check_again(
    days: Iterable[Day], shown: Mapping[tuple[str, str], ShownDay], now: datetime, timing: Timing
) -> Sequence[Day]:
    """The days whose listed batches have not moved for long: the sensor retrieves these batches.

    shown: task and day → its state.
    The longest unchecked first, as many whole days as `CHECKS_PER_TICK` allows, or one: the batches of a day are judged
    together.
    """
    latest = now.timestamp() - timing.unmoved_after.total_seconds()
    due = [
        (max(seen.moved_at, seen.checked_at), day)
        for day in days
        if day.batch_ids and (seen := shown.get((day.task, day.day))) and max(seen.moved_at, seen.checked_at) <= latest
    ]
    chosen: list[Day] = []
    number = 0
    for _, day in sorted(due, key=lambda entry: (entry[0], entry[1].storage_id)):
        number += len(day.batch_ids)
        if chosen and number > CHECKS_PER_TICK:
            break
        chosen.append(day)
    return chosen


def observe(
    key: dg.AssetKey,
    days: Iterable[Day],
    polled: Mapping[str, RemoteBatch],
    shown: Mapping[str, ShownDay],
    now: datetime,
    checked_again: frozenset[str] = frozenset(),
) -> tuple[list[dg.AssetObservation], dict[str, ShownDay]]:
    """Observations of the days whose progress changed since it was last shown, and what is known of each day now.

    key: of the asset that is observed.
    """
    observations: list[dg.AssetObservation] = []
    now_shown: dict[str, ShownDay] = {}
    for day in days:
        seen = shown.get(day.day)
        progress = day.progress(polled)
        if progress is None:
            now_shown.update({} if seen is None else {day.day: seen})
            continue
        seen = _moved(day, polled, seen, now)
        if checked_again.issuperset(day.batch_ids):
            seen = replace(seen, checked_at=int(now.timestamp()))
        as_shown = _as_shown(progress)
        if seen.shown != as_shown and len(observations) < OBSERVATIONS_PER_TICK:
            seen = replace(seen, shown=as_shown)
            observations.append(_observation(key, day, progress))
        now_shown[day.day] = seen
    return observations, now_shown


def _moved(day: Day, polled: Mapping[str, RemoteBatch], seen: ShownDay | None, now: datetime) -> ShownDay:
    """The same with the present state. A day of which not all batches were polled did not move as far as is known."""
    batches = day.batches(polled)
    if seen is not None and len(batches) < len(day.batch_ids):
        return seen
    state = _hash(
        " ".join(f"{batch.id}:{batch.status}:{batch.total}:{batch.completed}:{batch.failed}" for batch in batches)
    )
    if seen is None:
        return ShownDay("", state, int(now.timestamp()))
    return seen if seen.state == state else replace(seen, state=state, moved_at=int(now.timestamp()))


def _observation(key: dg.AssetKey, day: Day, progress: Progress) -> dg.AssetObservation:
    return dg.AssetObservation(
        asset_key=key,
        partition=day.day,
        description=f"{progress.done:,} of {progress.total:,} requests done",
        metadata={
            "status": progress.statuses,
            "requests_total": progress.total,
            "requests_done": progress.done,
            "batches": progress.batches,
            "batches_ended": progress.ended,
        },
    )


def _as_shown(progress: Progress) -> str:
    """A short hash. It changes with the statuses, and with each tenth of the requests."""
    return _hash(f"{progress.statuses}:{10 * progress.done // progress.total if progress.total else 0}")


def _hash(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
