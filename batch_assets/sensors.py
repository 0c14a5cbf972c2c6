"""The sensor: polls the batches of every day in flight, shows their progress, and requests the runs that come next.

It reads the new events of Dagster's event log. It never opens DuckDB, whose lock belongs to the runs. Its cursor may be
lost: `sensor_cursor`.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice

import dagster as dg
import openai as openai_client

from batch_assets.batching.counting import counted
from batch_assets.batching.next_step import Day, Step, has_overdue_answers, last_end_of, next_step
from batch_assets.batching.provider.batches import RemoteBatch, error_message
from batch_assets.batching.provider.polling import PollCursor, PollResult, poll_batches
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.batching.timing import Timing
from batch_assets.batching.waiting import Problem, late_batches, missing_batches, quoted, summary, why_waits
from batch_assets.day_events import location_of_sensor
from batch_assets.day_problems import observe_problems
from batch_assets.day_progress import days_to_check_again, observe
from batch_assets.days import DaysRead, read_new_days
from batch_assets.resources import BatchApi
from batch_assets.run_keys import NextRun
from batch_assets.run_requests import RUNS_PER_TICK, RequestedRuns, TaskRuns, request_runs
from batch_assets.sensor_cursor import Cursor, ShownDay, TaskCursor, read_cursor, write_cursor
from batch_assets.task_set import DeclaredTask, TaskSet

# Dagster ends a tick after 60 s, and starts the next one while the first still runs.
TICK_SECONDS = 40.0
HTTP_SECONDS = 10.0
WARNINGS_PER_TICK = 20
EVENTS_PER_TICK = 3000  # of results of a task, at 0.65 ms each
SENSOR = "openai_batch_sensor"
EARLIER = timedelta(days=1)  # a batch may be older than the materialization that names it, for example an adopted one


def build_sensor(tasks: TaskSet, minimum_interval_seconds: int) -> dg.SensorDefinition:
    """The one sensor of all tasks of a code location."""

    @dg.sensor(
        name=SENSOR,
        # not `target`: that would be one job of all tasks, which must then have the same partitions
        asset_selection=dg.AssetSelection.assets(*(key for keys in tasks.keys.values() for key in keys)),
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={declared.openai for declared in tasks.tasks},
        description="Polls the batches of every pending day, shows their progress, and requests the run that comes "
        "next.",
    )
    @without_secrets_in_errors
    def openai_batch_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return _tick(context, tasks)

    return openai_batch_sensor


@dataclass(frozen=True)
class _TaskTick:
    """What a tick knows of a task."""

    declared: DeclaredTask
    cursor: TaskCursor
    read: DaysRead

    @property
    def in_flight(self) -> list[Day]:
        return [day for day in self.read.days if day.is_in_flight]


def _tick(context: dg.SensorEvaluationContext, tasks: TaskSet) -> dg.SensorResult:
    now = datetime.now(UTC)
    cursor = read_cursor(context.cursor, now)
    location = location_of_sensor(context)
    ticks = _read_days(context, tasks, location, cursor)
    # the sensor polls the API of each resource once for all tasks that use it
    results: dict[str, PollResult] = {}
    notes = [_unread(unread)] if (unread := sum(tick.read.unread for tick in ticks)) else []
    for name in dict.fromkeys(tick.declared.openai for tick in ticks):
        openai: BatchApi = getattr(context.resources, name)
        of_api = [tick for tick in ticks if tick.declared.openai == name]
        in_flight = [day for tick in of_api for day in tick.in_flight]
        timing = openai.timing
        shown = {(tick.declared.name, day): seen for tick in of_api for day, seen in tick.cursor.days.items()}
        check_again = days_to_check_again(in_flight, shown, now, timing)
        try:
            polled_before = cursor.poll.get(name, PollCursor())
            results[name] = _poll(context, openai, in_flight, polled_before, check_again)
        except (openai_client.OpenAIError, dg.Failure) as error:
            results[name] = PollResult(cursor=polled_before)
            notes.append(f"The sensor could not read the batches: {quoted(error_message(error))}")
            context.log.warning(notes[-1])
    return _result(context, tasks, location, ticks, results, cursor, now, notes)


def _read_days(context: dg.SensorEvaluationContext, tasks: TaskSet, location: str, cursor: Cursor) -> list[_TaskTick]:
    """The days of each task, with the memory of the last tick."""
    ticks = []
    for declared in tasks.tasks:
        of_task = cursor.of(declared.name)
        read = read_new_days(
            context.instance, location, of_task.collected, EVENTS_PER_TICK, task=declared.name, keys=declared.keys
        )
        ticks.append(_TaskTick(declared, of_task, read))
    last_collected = max((tick.read.last_collected for tick in ticks), default=-1)
    return [replace(tick, read=tick.read.after(last_collected)) for tick in ticks]


def _result(
    context: dg.SensorEvaluationContext,
    tasks: TaskSet,
    location: str,
    ticks: Sequence[_TaskTick],
    results: Mapping[str, PollResult],
    cursor: Cursor,
    now: datetime,
    notes: list[str],
) -> dg.SensorResult:
    """The runs and the observations of this tick, and what to remember."""
    observations: list[dg.AssetObservation] = []
    requests: list[dg.RunRequest] = []
    elsewhere: dict[str, str] = {}
    problems: dict[str, str] = {}
    waiting: dict[str, str] = {}
    cursors: dict[str, TaskCursor] = {}
    for tick in ticks:
        declared, polled = tick.declared, results[tick.declared.openai]
        timing = getattr(context.resources, declared.openai).timing
        at_other_api = _elsewhere(tick.in_flight, polled)
        here = [day for day in tick.read.days if day.label not in at_other_api]
        requested = request_runs(
            context.instance,
            location,
            _next_runs(here, polled.batches, now, timing),
            now,
            timing,
            tick.cursor.numbers.of(tick.read.days),
            days_per_run=tasks.days_per_run,
            tasks={declared.name: TaskRuns(declared.keys, declared.feed.step)},
            most=RUNS_PER_TICK - len(requests),
        )
        seen, shown = observe(
            declared.keys.openai_batch, tick.in_flight, polled.batches, tick.cursor.days, now, polled.checked_again
        )
        observations += seen
        requests += requested.requests
        elsewhere |= at_other_api
        of_task = {**_problems(here, polled.batches, shown, now, timing), **requested.failing}
        problems |= {label: problem.sentence for label, problem in of_task.items()}
        seen, known = observe_problems(declared.keys.results, location, tick.read.days, of_task, tick.cursor.problems)
        observations += seen
        waiting |= _waiting(here, polled.batches, requested, now, timing)
        cursors[declared.name] = TaskCursor(requested.numbers, shown, tick.read.collected, known)
    for sentence in islice(problems.values(), WARNINGS_PER_TICK):
        context.log.warning(sentence)
    if requests:
        notes.append(f"{counted(len(requests), 'run')} requested.")
    text = summary(notes, {**elsewhere, **problems}, waiting)
    if requests:
        context.log.info(text)
    poll = {name: polled.cursor for name, polled in results.items()}
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else text,
        asset_events=observations,
        cursor=write_cursor(Cursor(cursor.since, {**cursor.tasks, **cursors}, poll)),
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
        day.label: f"{day.label} waits for {day.api}, where its batches are; the API is {polled.api}."
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
) -> dict[str, Problem]:
    """day → the problem, for each day with a batch that is missing, late or stuck."""
    unmoved_since = {day.label: shown[day.day].unmoved_since for day in days if day.day in shown}
    late = late_batches(days, polled, unmoved_since, now, timing)
    return {**late, **missing_batches(days, polled)}


def _waiting(
    days: Iterable[Day], polled: Mapping[str, RemoteBatch], requested: RequestedRuns, now: datetime, timing: Timing
) -> dict[str, str]:
    """day → what it waits for, for each day of which this tick requests no run."""
    return {
        day.label: requested.waiting.get(day.label) or why_waits(day, polled, now, timing)
        for day in days
        if day.label not in requested.days
    }
