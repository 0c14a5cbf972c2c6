"""The last hop: OpenAI says that a day's batches have ended, so `summaries` is materialized.

What the sensor knows it reads from Dagster's event log, with a constant number of queries; it never opens
DuckDB, whose lock belongs to the runs. Its cursor says only which progress was shown last, and where to go on with
asking if a tick's time wasn't enough for all; it may be lost.
"""

import json
import time
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

import dagster as dg
import openai as openai_client

from batch_assets.assets import batch_request_file, openai_batch, summaries
from batch_assets.batching.collection.collect import LOST_AFTER
from batch_assets.batching.ledger.batch_transitions import must_requeue
from batch_assets.batching.provider.batches import MISSING, RemoteBatch, error_message
from batch_assets.batching.provider.polling import PollCursor, PollResult, poll_batches
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.day_events import DEFAULT_LOCATION, DayEvent, location_of_sensor, newest_event, read_events
from batch_assets.resources import BatchApi
from batch_assets.settings import read_settings

# A tick may take 60 s before Dagster gives up on it, and then it would run on beside the next one.
TICK_SECONDS = 40.0
HTTP_SECONDS = 10.0
RUNS_PER_TICK = 25
OBSERVATIONS_PER_TICK = 100  # reporting one takes Dagster up to 70 ms
EARLIER = timedelta(days=1)  # batches may be older than the materialization that names them: an adopted one is
TRIES = 5
FIRST_PAUSE = timedelta(seconds=30)  # before the second try; doubles with each
LONGEST_PAUSE = timedelta(minutes=10)
ROUND_PAUSE = timedelta(seconds=60)  # before what came back without an answer is asked again
# After it, answers aren't left at OpenAI because others of their day are late: it deletes them after 30 days.
OVERDUE_AFTER = timedelta(days=1)
CAUSE_TAG = "batch_assets/cause"


class Step(StrEnum):
    """What comes next for a day."""

    COLLECT = "collect"  # its batches have ended: `summaries`
    COLLECT_PART = "collect_part"  # one ended long ago, others are late: `summaries` loads what there is
    SUBMIT = "submit"  # there may be room for what waits: `openai_batch`
    NEXT_ROUND = "next_round"  # requests came back without an answer: `batch_request_file` and `openai_batch`


ASSETS_OF = {
    Step.COLLECT: [summaries.key],
    Step.COLLECT_PART: [summaries.key],
    Step.SUBMIT: [openai_batch.key],
    Step.NEXT_ROUND: [batch_request_file.key, openai_batch.key],
}


@dataclass(frozen=True)
class Day:
    """What the event log says of a day: its newest `openai_batch`, and its newest `summaries` if that is newer.

    `is_collected`: `summaries` is newer, and requests came back without an answer. `room_since`: whether any
    day was collected after this one was submitted. `api` made its batches.
    """

    day: str
    storage_id: int
    at: datetime
    batch_ids: tuple[str, ...] = ()
    api: str | None = None
    deferred: int = 0
    next_attempt_at: datetime | None = None
    room_since: bool = False
    is_collected: bool = False


@dataclass(frozen=True)
class Wanted:
    """A step that a day is ready for. Runs for the same `cause` are tries of the same thing.

    `once_on`: the date (UTC) on which one successful run is enough.
    """

    day: Day
    step: Step
    once_on: date | None = None

    @property
    def cause(self) -> str:
        return f"{self.step}/{self.day.day}/{self.once_on or self.day.storage_id}"


@dataclass(frozen=True)
class Progress:
    """The batches of a day taken together."""

    batches: int
    ended: int
    total: int
    done: int
    statuses: str

    @property
    def as_shown(self) -> str:
        """Changes when there is something new to show: a status, or a tenth of the way. Short."""
        shown = f"{self.statuses}:{10 * self.done // self.total if self.total else 0}"
        return f"{zlib.crc32(shown.encode()):08x}"


@dg.sensor(
    name="openai_batch_sensor",
    target=dg.AssetSelection.assets(batch_request_file, openai_batch, summaries),
    minimum_interval_seconds=read_settings().poll_seconds,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
@without_secrets_in_errors
def openai_batch_sensor(context: dg.SensorEvaluationContext, openai: dg.ResourceParam[BatchApi]) -> dg.SensorResult:
    """Watches the batches of every pending day, shows their progress, and asks for the run that comes next."""
    deadline = time.monotonic() + TICK_SECONDS
    now = datetime.now(UTC)
    days = read_days(context.instance, location_of_sensor(context))
    in_flight = [day for day in days if not day.is_collected]
    cursor = read_cursor(context.cursor)
    found = PollResult(place=cursor.place)
    notes: list[str] = []
    if any(day.batch_ids for day in in_flight):
        since = min(day.at for day in in_flight if day.batch_ids) - EARLIER
        try:
            with openai.get_client(context) as client:
                # the next tick asks again; a retry would wait for as long as the server says
                tick_client = client.with_options(timeout=HTTP_SECONDS, max_retries=0)
                found = poll_batches(
                    tick_client,
                    [day.batch_ids for day in in_flight],
                    since=since.replace(tzinfo=None),
                    deadline=deadline,
                    place=cursor.place,
                )
        except (openai_client.OpenAIError, dg.Failure) as error:
            notes.append(f"The batches could not be asked for: {error_message(error)}")
            context.log.warning(notes[-1])

    seen, last_end = found.batches, last_end_of(found.batches)
    elsewhere = [day for day in in_flight if day.api is not None and found.api is not None and day.api != found.api]
    notes += [f"{day.day} waits for {day.api}, where its batches are; the API is {found.api}." for day in elsewhere]
    here = [day for day in days if day not in elsewhere]
    notes += missing_sentences(here, seen)
    wanted = [Wanted(day, step) for day in here if (step := next_step(day, seen, now, last_end))]
    complete = {want.day.day for want in wanted if want.step is Step.COLLECT}
    wanted += [
        Wanted(day, Step.COLLECT_PART, once_on=now.date())
        for day in here
        if not day.is_collected and day.day not in complete and has_overdue_answers(day, seen, now)
    ]
    requests, given_up = ask_for_runs(context.instance, wanted, now)
    for sentence in given_up:
        context.log.warning(sentence)
    observations, shown = observe(in_flight, seen, cursor.shown)
    waiting = len(in_flight) - len(complete)
    notes += [f"{waiting} days wait for OpenAI." if days else "Nothing is pending.", *given_up]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else " ".join(notes),
        asset_events=observations,
        cursor=write_cursor(Cursor(shown, found.place)),
    )


def read_days(instance: dg.DagsterInstance, location: str = DEFAULT_LOCATION) -> list[Day]:
    """The days with something to do: submitted and not collected, or collected with pending requests.

    Only events of this code location count: another one may define the same assets, with another database.
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


def _day_of_several_locations(
    instance: dg.DagsterInstance, name: str, location: str, last_collected: int
) -> Day | None:
    """The same for a day whose newest event is another code location's."""
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
        room_since=last_collected > event.storage_id,
    )


def _collected_day(event: DayEvent) -> Day:
    return Day(event.day, event.storage_id, event.at, is_collected=True)


def _newest(instance: dg.DagsterInstance, key: dg.AssetKey) -> Mapping[str, int]:
    """partition → storage id of its newest materialization; one query, whatever the number of partitions."""
    return instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)


def missing_sentences(days: Iterable[Day], seen: Mapping[str, RemoteBatch]) -> list[str]:
    """A sentence for each day with a batch that the API does not know with the present key."""
    return [
        f"{batch_id} of {day.day} is not found with the present key. Which organization and project does "
        "OPENAI_API_KEY belong to? Nothing of it is sent again."
        for day in days
        for batch_id in day.batch_ids
        if batch_id in seen and seen[batch_id].status == MISSING
    ]


def last_end_of(seen: Mapping[str, RemoteBatch]) -> datetime | None:
    """When the last of these batches ended, as far as any has."""
    ends = (batch.ended_at for batch in seen.values() if batch.has_ended and batch.ended_at is not None)
    last = max(ends, default=None)
    return None if last is None else last.replace(tzinfo=UTC)


def next_step(
    day: Day, seen: Mapping[str, RemoteBatch], now: datetime, last_end: datetime | None = None
) -> Step | None:
    """What the day is ready for; None while it waits. A batch that could not be had counts as running.

    `last_end`: when the last batch of any day ended, and made room.
    """
    if day.is_collected:
        return Step.NEXT_ROUND if now >= day.at + ROUND_PAUSE else None
    batches = [seen[batch_id] for batch_id in day.batch_ids if batch_id in seen]
    if any(must_requeue(batch) for batch in batches):
        return Step.SUBMIT
    if day.deferred:
        is_due = day.next_attempt_at is not None and now >= day.next_attempt_at
        # an end is known to the second only, rounded down
        one_ended = last_end is not None and last_end >= day.at - timedelta(seconds=1)
        return Step.SUBMIT if is_due or one_ended or day.room_since else None
    has_ended = len(batches) == len(day.batch_ids) and all(batch.has_ended for batch in batches)
    return Step.COLLECT if has_ended else None


def has_overdue_answers(day: Day, seen: Mapping[str, RemoteBatch], now: datetime) -> bool:
    """Whether a batch of the day ended long ago, with answers, and so is to be collected before the day is complete.

    It may have been collected already: only the database knows. So is a batch that has been missing for long: the run
    finds out whether it is lost.
    """
    batches = [seen[batch_id] for batch_id in day.batch_ids if batch_id in seen]
    if any(batch.status == MISSING for batch in batches) and now - day.at > LOST_AFTER:
        return True
    ends = [batch.ended_at or batch.created_at for batch in batches if batch.has_ended and batch.output_file_id]
    return any(end is not None and now - end.replace(tzinfo=UTC) > OVERDUE_AFTER for end in ends)


def ask_for_runs(
    instance: dg.DagsterInstance, wanted: Sequence[Wanted], now: datetime
) -> tuple[list[dg.RunRequest], list[str]]:
    """A run for each of these steps, unless one is under way or it is too early for another try.

    Also returns a sentence for each day that was given up. A run key is used once for ever, whatever became of its
    run, so it bears the number of the try.
    """
    earlier = _earlier_runs(instance, [want.cause for want in wanted])
    requests: list[dg.RunRequest] = []
    given_up: list[str] = []
    for want in wanted:
        runs, day = earlier[want.cause], want.day.day
        if len(requests) == RUNS_PER_TICK or any(not run.dagster_run.is_finished for run in runs):
            continue
        failures = [run for run in runs if not run.dagster_run.is_success]
        if len(failures) >= TRIES:
            names = " and ".join(f"`{key.to_user_string()}`" for key in ASSETS_OF[want.step])
            given_up.append(
                f"{day}: {len(failures)} runs failed to {want.step} it, the last is {failures[0].dagster_run.run_id}. "
                f"Read its error, fix the cause, and materialize {names} of the day yourself."
            )
            continue
        if want.once_on and len(failures) < len(runs):
            continue
        # a run that succeeded, and left the day as it was, found that something else has to end first
        if runs and now < _ended(runs[0]) + _pause_after(len(runs)):
            continue
        requests.append(
            dg.RunRequest(
                run_key=f"{want.cause}/{len(runs) + 1}",
                partition_key=day,
                asset_selection=ASSETS_OF[want.step],
                tags={CAUSE_TAG: want.cause},
                run_config=_config_of(want.step),
            )
        )
    return requests, given_up


def _pause_after(runs: int) -> timedelta:
    doublings: int = min(runs - 1, 10)
    return min(FIRST_PAUSE * (1 << doublings), LONGEST_PAUSE)


def _earlier_runs(instance: dg.DagsterInstance, causes: Collection[str]) -> Mapping[str, list[dg.RunRecord]]:
    """The runs asked for so far, newest first, for each cause; one query."""
    runs: dict[str, list[dg.RunRecord]] = defaultdict(list)
    if causes:
        for record in instance.get_run_records(dg.RunsFilter(tags={CAUSE_TAG: list(causes)})):
            runs[record.dagster_run.tags[CAUSE_TAG]].append(record)
    return runs


def _ended(run: dg.RunRecord) -> datetime:
    return datetime.fromtimestamp(run.end_time or run.create_timestamp.timestamp(), UTC)


def _config_of(step: Step) -> dict[str, Any]:
    """Of another round: the task that the ledger recorded for the day, whatever the environment says now.

    With another task, every request of the day would be owed again, and paid for. What the user cancelled stays so.
    """
    if step is not Step.NEXT_ROUND:
        return {}
    return {"ops": {"batch_request_file": {"config": {"resume_cancelled": False, "same_task": True}}}}


def observe(
    days: Iterable[Day], seen: Mapping[str, RemoteBatch], shown: Mapping[str, str]
) -> tuple[list[dg.AssetObservation], dict[str, str]]:
    """Observations of the days whose progress changed since it was last shown, and what is shown now."""
    observations: list[dg.AssetObservation] = []
    now_shown: dict[str, str] = {}
    for day in days:
        progress = progress_of(day, seen)
        if progress is None or len(observations) == OBSERVATIONS_PER_TICK:
            now_shown.update({day.day: shown[day.day]} if day.day in shown else {})
            continue
        now_shown[day.day] = progress.as_shown
        if shown.get(day.day) != progress.as_shown:
            observations.append(
                dg.AssetObservation(
                    asset_key=openai_batch.key,
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
            )
    return observations, now_shown


def progress_of(day: Day, seen: Mapping[str, RemoteBatch]) -> Progress | None:
    """The day's batches taken together; None if none of them was seen."""
    batches = [seen[batch_id] for batch_id in day.batch_ids if batch_id in seen]
    if not batches:
        return None
    return Progress(
        batches=len(day.batch_ids),
        ended=sum(batch.has_ended for batch in batches),
        total=sum(batch.total or 0 for batch in batches),
        done=sum((batch.completed or 0) + (batch.failed or 0) for batch in batches),
        statuses=", ".join(sorted({batch.status for batch in batches})),
    )


@dataclass(frozen=True)
class Cursor:
    """What was shown of each day (as a short hash), and where the look-up goes on. May be lost."""

    shown: Mapping[str, str] = field(default_factory=dict)
    place: PollCursor = field(default_factory=PollCursor)


def read_cursor(text: str | None) -> Cursor:
    """What an earlier tick has left; one that can't be read means nothing yet."""
    try:
        said = json.loads(text or "{}")
        return Cursor(dict(said["shown"]), PollCursor(**said["place"]))
    except (ValueError, TypeError, KeyError):
        return Cursor()


def write_cursor(cursor: Cursor) -> str:
    """About 25 bytes for each day in flight."""
    return json.dumps({"shown": cursor.shown, "place": asdict(cursor.place)}, separators=(",", ":"))
