"""Reads and writes the events of a day in Dagster's event log. Only this module knows the names of their metadata.

Code locations in one Dagster share the event log, and so may databases. So each event has the code location and the
warehouse id. The sensor reads the events of its own location. A run stops if the log and its database contradict each
other.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import dagster as dg

# Names of metadata; the UI shows them.
BATCH_IDS, DEFERRED_FILES, NEXT_ATTEMPT_AT = "batch_ids", "deferred_files", "next_attempt_at"
REQUESTS_PENDING, REQUESTS_BLOCKED, ERROR = "requests_pending", "requests_blocked", "error"
REQUESTS_IN_FLIGHT = "requests_in_flight"
ARTICLES, ANSWERED, FAILED = "dagster/partition_row_count", "answered", "failed"
COST_USD, SIMULATED_COST_USD = "cost_usd", "simulated_cost_usd"
CAUSE = "cause"  # of `error`: a Cause
CODE_LOCATION, WAREHOUSE_ID, API, BACKFILL = "code_location", "warehouse_id", "api", "backfill"
NAMES_OF_THE_FIRST_VERSION = {
    DEFERRED_FILES: "waiting_shards",
    NEXT_ATTEMPT_AT: "look_again_at",
    REQUESTS_PENDING: "requests_owed",
}
DEDUP_TAG = "batch_assets/dedup_key"  # of the sensor's runs: which steps of which days they are
LOOK_BACK_TAG = "batch_assets/look_back"  # of a run that reads a day again, for late articles
DEFAULT_LOCATION = "batch_assets"  # as in workspace.yaml; also for runs in the process of `demo`
BACKFILL_TAG = "dagster/backfill"  # of a run: the backfill that it is of
EVENTS_AT_ONCE = 50  # of a day, which several code locations may materialize


class Cause(StrEnum):
    """Why a day waits."""

    BUDGET = "budget"  # a budget does not allow it, or its price is not known
    ACCOUNT = "account"  # billing, quota, key, access, model
    REFUSED = "refused"  # OpenAI refuses its request file, and will refuse it again


@dataclass(frozen=True)
class Origin:
    """Where an event is from. `warehouse_id` and `api` are None if an earlier version did not record them.

    backfill: the id of the backfill that submitted the day, also of a later run of the sensor; None if none did.
    """

    location: str
    warehouse_id: str | None = None
    api: str | None = None
    backfill: str | None = None

    def is_of_other_warehouse(self, warehouse_id: str | None) -> bool:
        """Whether another database recorded the event. One of an earlier version may be of any."""
        return self.warehouse_id not in (None, warehouse_id)

    def as_metadata(self) -> dict[str, str]:
        metadata = {
            CODE_LOCATION: self.location,
            WAREHOUSE_ID: self.warehouse_id,
            API: self.api,
            BACKFILL: self.backfill,
        }
        return {name: value for name, value in metadata.items() if value is not None}


@dataclass(frozen=True)
class DayEvent:
    """The fields of a materialization that the sensors and the runs use.

    articles to simulated_cost_usd: of results; None if they are not known.
    """

    day: str
    storage_id: int
    at: datetime
    origin: Origin
    batch_ids: tuple[str, ...] = ()
    deferred_files: int = 0
    next_attempt_at: datetime | None = None
    requests_pending: int = 0
    requests_blocked: int = 0
    requests_in_flight: int = 0
    error: str | None = None
    cause: str | None = None
    articles: int | None = None
    answered: int | None = None
    failed: int | None = None
    cost_usd: float | None = None
    simulated_cost_usd: float | None = None


def location_of_run(run: dg.DagsterRun) -> str:
    """The code location that the run belongs to."""
    return server_location(run) or DEFAULT_LOCATION


def server_location(run: dg.DagsterRun) -> str | None:
    """The code location whose server executes the run; None if the run is in a process of its own."""
    return None if run.remote_job_origin is None else run.remote_job_origin.location_name


def location_of_sensor(context: dg.SensorEvaluationContext) -> str:
    """The code location that the sensor belongs to."""
    origin = context.code_location_origin
    return DEFAULT_LOCATION if origin is None else origin.location_name


def submission_metadata(
    origin: Origin, batch_ids: Sequence[str], deferred_files: int, next_attempt_at: datetime | None
) -> dict[str, Any]:
    """The metadata that the sensor needs about a day after a submission, a failed one included."""
    return {
        BATCH_IDS: dg.MetadataValue.json(list(batch_ids)),
        DEFERRED_FILES: deferred_files,
        **next_attempt_metadata(next_attempt_at),
        **origin.as_metadata(),
    }


def error_metadata(error: str | None, cause: Cause | None) -> dict[str, str]:
    """Why the day waits."""
    found = {ERROR: error, CAUSE: cause}
    return {name: str(value) for name, value in found.items() if value is not None}


def next_attempt_metadata(next_attempt_at: datetime | None) -> dict[str, Any]:
    """When the sensor may request the next run for what is pending or deferred; empty: at once."""
    return {} if next_attempt_at is None else {NEXT_ATTEMPT_AT: dg.MetadataValue.timestamp(next_attempt_at)}


def read_events(instance: dg.DagsterInstance, key: dg.AssetKey, storage_ids: Sequence[int]) -> Iterator[DayEvent]:
    """The materializations with these storage ids, a thousand at a time."""
    ids = sorted(storage_ids)
    for start in range(0, len(ids), 1000):
        page_ids = ids[start : start + 1000]
        records_filter = dg.AssetRecordsFilter(asset_key=key, storage_ids=page_ids)
        yield from _events(instance.fetch_materializations(records_filter, limit=len(page_ids)).records)


def newest_storage_ids(
    instance: dg.DagsterInstance, key: dg.AssetKey, days: Collection[str] | None = None
) -> Mapping[str, int]:
    """day → storage id of its newest materialization, by any code location; one query, whatever the number of days.

    days: None means all days.
    """
    wanted = None if days is None else set(days)
    return instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION, wanted)


def newest_event(instance: dg.DagsterInstance, key: dg.AssetKey, day: str, location: str) -> DayEvent | None:
    """The day's newest materialization by this code location; None if there is none."""
    records_filter = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[day])
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(records_filter, limit=EVENTS_AT_ONCE, cursor=cursor)
        ours = next((event for event in _events(page.records) if event.origin.location == location), None)
        if ours is not None or not page.has_more:
            return ours
        cursor = page.cursor


def newest_events(
    instance: dg.DagsterInstance, key: dg.AssetKey, days: Collection[str], location: str
) -> dict[str, DayEvent]:
    """day → its newest materialization by this code location. One query, and one more per day of several locations."""
    newest = newest_storage_ids(instance, key, days)
    found: dict[str, DayEvent | None] = {}
    for event in read_events(instance, key, list(newest.values())):
        is_ours = event.origin.location == location
        found[event.day] = event if is_ours else newest_event(instance, key, event.day, location)
    return {day: event for day, event in found.items() if event is not None}


def events_before(instance: dg.DagsterInstance, key: dg.AssetKey, event: DayEvent) -> list[DayEvent]:
    """The last materializations of the same day by the same code location before this one, the newest first."""
    records_filter = dg.AssetRecordsFilter(
        asset_key=key, asset_partitions=[event.day], before_storage_id=event.storage_id
    )
    page = instance.fetch_materializations(records_filter, limit=EVENTS_AT_ONCE)
    return [found for found in _events(page.records) if found.origin.location == event.origin.location]


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
            _value(metadata, CODE_LOCATION) or DEFAULT_LOCATION,
            _value(metadata, WAREHOUSE_ID),
            _value(metadata, API),
            _value(metadata, BACKFILL),
        ),
        batch_ids=tuple(_value(metadata, BATCH_IDS) or ()),
        deferred_files=_value(metadata, DEFERRED_FILES) or 0,
        next_attempt_at=None if next_attempt_at is None else datetime.fromtimestamp(next_attempt_at, UTC),
        requests_pending=_value(metadata, REQUESTS_PENDING) or 0,
        requests_blocked=_value(metadata, REQUESTS_BLOCKED) or 0,
        requests_in_flight=_value(metadata, REQUESTS_IN_FLIGHT) or 0,
        error=_value(metadata, ERROR),
        cause=_value(metadata, CAUSE),
        articles=_value(metadata, ARTICLES),
        answered=_value(metadata, ANSWERED),
        failed=_value(metadata, FAILED),
        cost_usd=_value(metadata, COST_USD),
        simulated_cost_usd=_value(metadata, SIMULATED_COST_USD),
    )


def _value(metadata: Mapping[str, dg.MetadataValue], name: str) -> Any:
    found = metadata.get(name) or metadata.get(NAMES_OF_THE_FIRST_VERSION.get(name, name))
    return None if found is None else found.value
