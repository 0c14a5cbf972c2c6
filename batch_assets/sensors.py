"""The sensor: polls the batches of every day in flight, shows their progress, and requests the runs that come next.

It reads the new events of Dagster's event log. It never opens DuckDB, whose lock belongs to the runs. Its cursor may be
lost: `sensor_cursor`.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice

import dagster as dg
import openai as openai_client

from batch_assets.asset_keys import BATCH_REQUEST_FILE, OPENAI_BATCH, SUMMARIES
from batch_assets.batching.counting import counted
from batch_assets.batching.next_step import Day, Step, has_overdue_answers, last_end_of, next_step
from batch_assets.batching.provider.batches import RemoteBatch, error_message
from batch_assets.batching.provider.polling import PollCursor, PollResult, poll_batches
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.batching.timing import Timing
from batch_assets.batching.waiting import late_sentences, missing_sentences, quoted, summary, why_waits
from batch_assets.day_events import location_of_sensor
from batch_assets.day_progress import days_to_check_again, observe
from batch_assets.days import read_new_days
from batch_assets.resources import BatchApi
from batch_assets.run_keys import NextRun
from batch_assets.run_requests import RequestedRuns, request_runs
from batch_assets.sensor_cursor import Cursor, ShownDay, read_cursor, write_cursor
from batch_assets.settings import read_settings

# Dagster ends a tick after 60 s, and starts the next one while the first still runs.
TICK_SECONDS = 40.0
HTTP_SECONDS = 10.0
WARNINGS_PER_TICK = 20
EVENTS_PER_TICK = 3000  # of `summaries`, at 0.65 ms each
EARLIER = timedelta(days=1)  # a batch may be older than the materialization that names it, for example an adopted one


@dg.sensor(
    name="openai_batch_sensor",
    target=dg.AssetSelection.assets(BATCH_REQUEST_FILE, OPENAI_BATCH, SUMMARIES),
    minimum_interval_seconds=read_settings().poll_seconds,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
@without_secrets_in_errors
def openai_batch_sensor(context: dg.SensorEvaluationContext, openai: dg.ResourceParam[BatchApi]) -> dg.SensorResult:
    """Polls the batches of every pending day, shows their progress, and requests the run that comes next."""
    now, timing = datetime.now(UTC), openai.timing
    cursor = read_cursor(context.cursor, now)
    location = location_of_sensor(context)
    read = read_new_days(context.instance, location, cursor.collected, EVENTS_PER_TICK)
    in_flight = [day for day in read.days if day.is_in_flight]
    check_again = days_to_check_again(in_flight, cursor.days, now, timing)
    notes = [_unread(read.unread)] if read.unread else []
    try:
        polled = _poll(context, openai, in_flight, cursor.poll, check_again)
    except (openai_client.OpenAIError, dg.Failure) as error:
        polled = PollResult(cursor=cursor.poll)
        notes.append(f"The sensor could not read the batches: {quoted(error_message(error))}")
        context.log.warning(notes[-1])

    elsewhere = _elsewhere(in_flight, polled)
    here = [day for day in read.days if day.day not in elsewhere]
    next_runs = _next_runs(here, polled.batches, now, timing)
    requested = request_runs(
        context.instance,
        location,
        next_runs,
        now,
        timing,
        cursor.numbers.of(read.days),
        days_per_run=read_settings().days_per_run,
    )
    observations, shown = observe(in_flight, polled.batches, cursor.days, now, polled.checked_again)

    problems = {**_problems(here, polled.batches, shown, now, timing), **requested.failing}
    for sentence in islice(problems.values(), WARNINGS_PER_TICK):
        context.log.warning(sentence)
    waiting = _waiting(here, polled.batches, requested, now, timing)
    if requested.requests:
        notes.append(f"{counted(len(requested.requests), 'run')} requested.")
    text = summary(notes, {**elsewhere, **problems}, waiting)
    if requested.requests:
        context.log.info(text)
    return dg.SensorResult(
        run_requests=requested.requests,
        skip_reason=None if requested.requests else text,
        asset_events=observations,
        cursor=write_cursor(Cursor(requested.numbers, shown, polled.cursor, read.collected)),
    )


def _unread(number: int) -> str:
    """The first ticks after a lost cursor have it."""
    return f"{counted(number, 'collected day is', 'collected days are')} not read yet; the next ticks read them."


def _poll(
    context: dg.SensorEvaluationContext,
    openai: BatchApi,
    days: Sequence[Day],
    cursor: PollCursor,
    check_again: Iterable[Day],
) -> PollResult:
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
            check_again=[batch_id for day in check_again for batch_id in day.batch_ids],
        )


def _elsewhere(days: Iterable[Day], polled: PollResult) -> dict[str, str]:
    """day → a sentence, for each day whose batches are at another API than the one that answered."""
    return {
        day.day: f"{day.day} waits for {day.api}, where its batches are; the API is {polled.api}."
        for day in days
        if day.api and polled.api and day.api != polled.api
    }


def _next_runs(days: Sequence[Day], polled: Mapping[str, RemoteBatch], now: datetime, timing: Timing) -> list[NextRun]:
    """The step of each day that is ready for one; and, once a day, the collection of answers that are overdue."""
    last_end = last_end_of(polled.values())
    steps = [(day, next_step(day, polled, now, last_end, timing)) for day in days]
    ready = [NextRun((day,), step, ended_at=_ended_at(day, polled)) for day, step in steps if step is not Step.WAIT]
    overdue = [
        NextRun((day,), Step.COLLECT_PART, once_on=now.date())
        for day, step in steps
        if step is not Step.COLLECT and has_overdue_answers(day, polled, now, timing)
    ]
    return ready + overdue


def _ended_at(day: Day, polled: Mapping[str, RemoteBatch]) -> datetime | None:
    return last_end_of(day.batches(polled))


def _problems(
    days: Collection[Day],
    polled: Mapping[str, RemoteBatch],
    shown: Mapping[str, ShownDay],
    now: datetime,
    timing: Timing,
) -> dict[str, str]:
    """day → a sentence, for each day with a batch that is missing, late or stuck."""
    unmoved_since = {day: seen.unmoved_since for day, seen in shown.items()}
    late = late_sentences(days, polled, unmoved_since, now, timing)
    return {**late, **missing_sentences(days, polled)}


def _waiting(
    days: Iterable[Day], polled: Mapping[str, RemoteBatch], requested: RequestedRuns, now: datetime, timing: Timing
) -> dict[str, str]:
    """day → what it waits for, for each day of which this tick requests no run."""
    return {
        day.day: requested.waiting.get(day.day) or why_waits(day, polled, now, timing)
        for day in days
        if day.day not in requested.days
    }
