"""The days that wait, as the sensor sees them: what each waits for, and how far its batches are."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
import openai

from batch_assets.api_client import client_of_running_api
from batch_assets.batching.next_step import Day
from batch_assets.batching.provider.batches import RemoteBatch, error_message
from batch_assets.batching.provider.polling import poll_batches
from batch_assets.batching.timing import Timing
from batch_assets.batching.waiting import late_batches, missing_batches, why_waits
from batch_assets.days import read_days
from batch_assets.settings import Settings
from batch_assets.task_set import TaskSet

POLL_SECONDS = 10.0


@dataclass(frozen=True)
class WaitingDay:
    """A day that waits. requests_done, requests_total: of its batches, as the API says now; None: it did not say.

    since: when it was submitted or collected. why: what it waits for. problem: a sentence for the user to act on.
    """

    task: str
    day: str
    why: str
    since: datetime
    requests_done: int | None = None
    requests_total: int | None = None
    problem: str | None = None


def waiting_days(instance: dg.DagsterInstance, tasks: TaskSet, settings: Settings) -> tuple[list[WaitingDay], str]:
    """The days that wait, the earliest first, and why the API could not be asked: empty if it was."""
    days = [day for name, keys in tasks.keys.items() for day in read_days(instance, task=name, keys=keys)]
    polled, problem = _poll(days, settings)
    now, timing = datetime.now(UTC), Timing()
    problems = {**late_batches(days, polled, {}, now, timing), **missing_batches(days, polled)}
    found = []
    for day in sorted(days, key=lambda day: (day.day, day.task)):
        problem_of_day = problems.get(day.label)
        progress = day.progress(polled) if day.is_in_flight else None
        found.append(
            WaitingDay(
                day.task,
                day.day,
                why_waits(day, polled, now, timing),
                day.at.astimezone(UTC).replace(tzinfo=None),
                None if progress is None else progress.done,
                None if progress is None else progress.total,
                None if problem_of_day is None else problem_of_day.sentence,
            )
        )
    return found, problem


def _poll(days: Sequence[Day], settings: Settings) -> tuple[Mapping[str, RemoteBatch], str]:
    in_flight = [day for day in days if day.is_in_flight and day.batch_ids]
    if not in_flight:
        return {}, ""
    since = min(day.at for day in in_flight).astimezone(UTC).replace(tzinfo=None) - timedelta(days=1)
    try:
        with client_of_running_api(settings) as client:
            if client is None:
                return {}, "The local Batch API does not run: `batch-assets dev` or `serve` starts it."
            polled = poll_batches(
                client.with_options(timeout=POLL_SECONDS, max_retries=0),
                [day.batch_ids for day in in_flight],
                since=since,
                deadline=time.monotonic() + POLL_SECONDS,
            )
            return polled.batches, ""
    except openai.OpenAIError as error:
        return {}, f"The API could not be asked: {error_message(error)}"
