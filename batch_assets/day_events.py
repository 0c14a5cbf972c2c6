"""What our events in Dagster's log say of a day: the one place that knows the names of their metadata.

Two code locations in one Dagster share the event log, and so may two databases. So each event of ours names its code
location and its warehouse; the sensor reads those of its own location, and a run stops where the log and its database
contradict each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

# Names of metadata, which the UI shows.
BATCH_IDS, DEFERRED_FILES, NEXT_ATTEMPT_AT = "batch_ids", "deferred_files", "next_attempt_at"
REQUESTS_PENDING = "requests_pending"
CODE_LOCATION, WAREHOUSE_ID, API = "code_location", "warehouse_id", "api"
NAMES_OF_THE_FIRST_EDITION = {
    DEFERRED_FILES: "waiting_shards",
    NEXT_ATTEMPT_AT: "look_again_at",
    REQUESTS_PENDING: "requests_owed",
}
DEFAULT_LOCATION = "batch_assets"  # of our workspace.yaml, and of runs in the process of `demo`
EVENTS_AT_ONCE = 50  # of a day that several code locations materialize


@dataclass(frozen=True)
class Origin:
    """Whose event it is. `warehouse_id` and `api` are None where an earlier version did not record them."""

    location: str
    warehouse_id: str | None = None
    api: str | None = None

    def as_metadata(self) -> dict[str, str]:
        named = {CODE_LOCATION: self.location, WAREHOUSE_ID: self.warehouse_id, API: self.api}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class DayEvent:
    """A materialization of a day, as far as the sensor and the runs ask for it."""

    day: str
    storage_id: int
    at: datetime
    origin: Origin
    batch_ids: tuple[str, ...] = ()
    deferred_files: int = 0
    next_attempt_at: datetime | None = None
    requests_pending: int = 0


def location_of_run(run: dg.DagsterRun) -> str:
    """The code location that the run belongs to."""
    origin = run.remote_job_origin
    return DEFAULT_LOCATION if origin is None else origin.repository_origin.code_location_origin.location_name


def location_of_sensor(context: dg.SensorEvaluationContext) -> str:
    """The code location that the sensor belongs to."""
    origin = context.code_location_origin
    return DEFAULT_LOCATION if origin is None else origin.location_name


def submission_metadata(
    origin: Origin, batch_ids: Sequence[str], deferred_files: int, next_attempt_at: datetime | None
) -> dict[str, Any]:
    """What the sensor needs to know of a day that was submitted, or of what became of the try."""
    attempt = {} if next_attempt_at is None else {NEXT_ATTEMPT_AT: dg.MetadataValue.timestamp(next_attempt_at)}
    return {
        BATCH_IDS: dg.MetadataValue.json(list(batch_ids)),
        DEFERRED_FILES: deferred_files,
        **attempt,
        **origin.as_metadata(),
    }


def read_events(instance: dg.DagsterInstance, key: dg.AssetKey, storage_ids: Sequence[int]) -> Iterator[DayEvent]:
    """The materializations with these storage ids, a thousand at a time."""
    ids = sorted(storage_ids)
    for start in range(0, len(ids), 1000):
        some = ids[start : start + 1000]
        wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=some)
        yield from _events(instance.fetch_materializations(wanted, limit=len(some)).records)


def newest_event(instance: dg.DagsterInstance, key: dg.AssetKey, day: str, location: str) -> DayEvent | None:
    """The day's newest materialization by this code location; None if there is none."""
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[day])
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(wanted, limit=EVENTS_AT_ONCE, cursor=cursor)
        ours = next((event for event in _events(page.records) if event.origin.location == location), None)
        if ours is not None or not page.has_more:
            return ours
        cursor = page.cursor


def _events(records: Sequence[dg.EventLogRecord]) -> Iterator[DayEvent]:
    for record in records:
        event = record.asset_materialization
        if event is not None and event.partition is not None:
            yield _event(event.partition, record.storage_id, record.timestamp, event.metadata)


def _event(day: str, storage_id: int, timestamp: float, metadata: Mapping[str, dg.MetadataValue]) -> DayEvent:
    next_attempt_at = _value(metadata, NEXT_ATTEMPT_AT)
    return DayEvent(
        day,
        storage_id,
        datetime.fromtimestamp(timestamp, UTC),
        Origin(
            _value(metadata, CODE_LOCATION) or DEFAULT_LOCATION, _value(metadata, WAREHOUSE_ID), _value(metadata, API)
        ),
        batch_ids=tuple(_value(metadata, BATCH_IDS) or ()),
        deferred_files=_value(metadata, DEFERRED_FILES) or 0,
        next_attempt_at=None if next_attempt_at is None else datetime.fromtimestamp(next_attempt_at, UTC),
        requests_pending=_value(metadata, REQUESTS_PENDING) or 0,
    )


def _value(metadata: Mapping[str, dg.MetadataValue], name: str) -> Any:
    found = metadata.get(name) or metadata.get(NAMES_OF_THE_FIRST_EDITION.get(name, name))
    return None if found is None else found.value
