"""The sensor: polls the batches of every day in flight, shows their progress, and requests the runs that come next.

It reads Dagster's event log with a constant number of queries. It never opens DuckDB, whose lock belongs to the runs.
Its cursor has the progress that it showed last, and where the next poll continues. The cursor may be lost.
"""

import json
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta

import dagster as dg
import openai as openai_client

from batch_assets.assets import batch_request_file, openai_batch, summaries
from batch_assets.batching.next_step import Day, Step, has_overdue_answers, last_end_of, next_step
from batch_assets.batching.provider.batches import MISSING, RemoteBatch, error_message
from batch_assets.batching.provider.polling import PollCursor, PollResult, poll_batches
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.batching.timing import Timing
from batch_assets.day_events import location_of_sensor
from batch_assets.days import read_days
from batch_assets.resources import BatchApi
from batch_assets.run_requests import NextRun, request_runs
from batch_assets.settings import read_settings

# Dagster ends a tick after 60 s, and starts the next one while the first still runs.
TICK_SECONDS = 40.0
HTTP_SECONDS = 10.0
OBSERVATIONS_PER_TICK = 100  # Dagster takes up to 70 ms for each
EARLIER = timedelta(days=1)  # a batch may be older than the materialization that names it, for example an adopted one


@dataclass(frozen=True)
class Cursor:
    """The progress that the sensor showed for each day (a short hash), and where the next poll continues."""

    shown: Mapping[str, str] = field(default_factory=dict)
    poll: PollCursor = field(default_factory=PollCursor)


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
        """A short hash. It changes with the statuses, and with each tenth of the requests."""
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
    """Polls the batches of every pending day, shows their progress, and requests the run that comes next."""
    now = datetime.now(UTC)
    days = read_days(context.instance, location_of_sensor(context))
    in_flight = [day for day in days if not day.needs_next_round]
    cursor = read_cursor(context.cursor)
    notes: list[str] = []
    try:
        polled = _poll(context, openai, in_flight, cursor.poll)
    except (openai_client.OpenAIError, dg.Failure) as error:
        polled = PollResult(cursor=cursor.poll)
        notes.append(f"The sensor could not read the batches: {error_message(error)}")
        context.log.warning(notes[-1])

    elsewhere = [day for day in in_flight if day.api and polled.api and day.api != polled.api]
    here = [day for day in days if day not in elsewhere]
    next_runs = _next_runs(here, polled.batches, now, openai.timing)
    requests, failed_too_often = request_runs(context.instance, next_runs, now, openai.timing)
    for sentence in failed_too_often:
        context.log.warning(sentence)
    observations, shown = observe(in_flight, polled.batches, cursor.shown)

    notes += [f"{day.day} waits for {day.api}, where its batches are; the API is {polled.api}." for day in elsewhere]
    notes += missing_sentences(here, polled.batches)
    waiting = len(in_flight) - sum(next_run.step is Step.COLLECT for next_run in next_runs)
    notes += [_days_wait(waiting) if days else "Nothing is pending.", *failed_too_often]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else " ".join(notes),
        asset_events=observations,
        cursor=write_cursor(Cursor(shown, polled.cursor)),
    )


def _poll(context: dg.SensorEvaluationContext, openai: BatchApi, days: Sequence[Day], cursor: PollCursor) -> PollResult:
    """The batches of these days. Raises openai.OpenAIError, and dagster.Failure if there is no API."""
    deadline = time.monotonic() + TICK_SECONDS
    submitted = [day.at for day in days if day.batch_ids]
    if not submitted:
        return PollResult(cursor=cursor)
    with openai.get_client(context) as client:
        return poll_batches(
            # no retries: the server may ask for a long pause, and the next tick polls again
            client.with_options(timeout=HTTP_SECONDS, max_retries=0),
            [day.batch_ids for day in days],
            since=(min(submitted) - EARLIER).replace(tzinfo=None),
            deadline=deadline,
            cursor=cursor,
            grace_seconds=openai.timing.poll_grace_seconds,
        )


def _next_runs(days: Sequence[Day], polled: Mapping[str, RemoteBatch], now: datetime, timing: Timing) -> list[NextRun]:
    """The step of each day that is ready for one; and, once a day, the collection of answers that are overdue."""
    last_end = last_end_of(polled.values())
    steps = [(day, next_step(day, polled, now, last_end, timing)) for day in days]
    ready = [NextRun(day, step) for day, step in steps if step is not Step.WAIT]
    overdue = [
        NextRun(day, Step.COLLECT_PART, once_on=now.date())
        for day, step in steps
        if step is not Step.COLLECT and has_overdue_answers(day, polled, now, timing)
    ]
    return ready + overdue


def _days_wait(number: int) -> str:
    return f"{number} day waits for OpenAI." if number == 1 else f"{number} days wait for OpenAI."


def missing_sentences(days: Iterable[Day], polled: Mapping[str, RemoteBatch]) -> list[str]:
    """A sentence for each batch that the API does not find with the present key."""
    return [
        f"The API does not find {batch.id} of {day.day} with the present key. Which organization and project does "
        "OPENAI_API_KEY belong to? No run sends its requests again."
        for day in days
        for batch in day.batches(polled)
        if batch.status == MISSING
    ]


def observe(
    days: Iterable[Day], polled: Mapping[str, RemoteBatch], shown: Mapping[str, str]
) -> tuple[list[dg.AssetObservation], dict[str, str]]:
    """Observations of the days whose progress changed since it was last shown, and what is shown now."""
    observations: list[dg.AssetObservation] = []
    now_shown: dict[str, str] = {}
    for day in days:
        progress = progress_of(day, polled)
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


def progress_of(day: Day, polled: Mapping[str, RemoteBatch]) -> Progress | None:
    """The day's batches taken together; None if none of them was polled."""
    batches = day.batches(polled)
    if not batches:
        return None
    return Progress(
        batches=len(day.batch_ids),
        ended=sum(batch.has_ended for batch in batches),
        total=sum(batch.total or 0 for batch in batches),
        done=sum((batch.completed or 0) + (batch.failed or 0) for batch in batches),
        statuses=", ".join(sorted({batch.status for batch in batches})),
    )


def read_cursor(text: str | None) -> Cursor:
    """The cursor of an earlier tick; an empty one if it is unreadable, for example that of an earlier version."""
    try:
        saved = json.loads(text or "{}")
        return Cursor(dict(saved["shown"]), PollCursor(**saved["poll"]))
    except (ValueError, TypeError, KeyError):
        return Cursor()


def write_cursor(cursor: Cursor) -> str:
    """About 25 bytes for each day in flight."""
    return json.dumps({"shown": cursor.shown, "poll": asdict(cursor.poll)}, separators=(",", ":"))
