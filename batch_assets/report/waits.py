"""What waits now, and how long batches took."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.batch_figures import REQUEUED, BatchFigures
from batch_assets.batching.ledger.day_errors import NEXT_STEPS
from batch_assets.batching.ledger.states import OPEN, RequestState
from batch_assets.report.read import Report
from batch_assets.report.sums import code_of, what_to_do

MOST_BATCHES = 10


@dataclass(frozen=True)
class Waiting:
    """Articles of a day and task that wait for the same. since: when the first batch was submitted, UTC."""

    day: str
    task: str
    what: str
    code: str | None
    articles: int
    since: datetime | None
    what_to_do: str


def waiting_now(report: Report) -> list[Waiting]:
    """What waits in the days of the report, the oldest day first."""
    found = []
    for day in report.days:
        if day.in_flight or day.batches_running:
            what = f"in flight, in {counted(day.batches_running, 'batch', 'batches')}"
            then = "The sensor materializes the results when the batches have ended."
            if not day.batches_running:
                what, then = "in flight, in no batch yet", "A run of `openai_batch` submits the request files."
            found.append(Waiting(day.day, day.task, what, None, day.in_flight, day.submitted_at, then))
        if day.pending:
            then = NEXT_STEPS[RequestState.PENDING]
            found.append(Waiting(day.day, day.task, "pending", None, day.pending, day.submitted_at, then))
        found += [
            Waiting(
                day.day, day.task, "blocked", code_of(reason), reason.articles, day.submitted_at, what_to_do(reason)
            )
            for reason in report.reasons
            if (reason.task, reason.day, reason.status) == (day.task, day.day, "blocked")
        ]
    return found


def elsewhere(report: Report) -> str | None:
    """A sentence about the days that wait and are not in the report; None if there is none."""
    if report.unfinished is None or not report.days:
        return None
    first, last = report.unfinished
    outside = [day for day in (first, last) if not report.first <= day <= report.last]
    if not outside:
        return None
    days = " and ".join(dict.fromkeys(outside))
    return f"Days outside of this report wait, too: {days}."


@dataclass(frozen=True)
class Wait:
    """How long a batch took, in seconds: before the API began with it, from then on, and in all.

    queued, ran: None if the API did not return the time. Of a batch that runs until now.
    """

    batch: BatchFigures
    queued: float | None
    ran: float | None
    seconds: float
    is_running: bool


def longest_waits(report: Report) -> list[Wait]:
    """The batches that took longest, or that run for longest."""
    waits = [wait for batch in report.batches if (wait := wait_of(batch, report.written_at)) is not None]
    return sorted(waits, key=lambda wait: -wait.seconds)[:MOST_BATCHES]


def slowest_of(batches: Iterable[BatchFigures], now: datetime) -> Wait | None:
    """That of the slowest batch that has ended; None if none has. Earlier attempts do not count, as in `DayFigures`."""
    waits = [wait_of(batch, now) for batch in batches if batch.state != REQUEUED]
    ended = [wait for wait in waits if wait is not None and not wait.is_running]
    return max(ended, key=lambda wait: wait.seconds, default=None)


def wait_of(batch: BatchFigures, now: datetime) -> Wait | None:
    """None if it is not known when the batch began, or when a batch that no run waits for any more has ended."""
    is_running = batch.ended_at is None and batch.state in OPEN
    ended_at = now if is_running else batch.ended_at
    if batch.submitted_at is None or ended_at is None:
        return None
    began_at = batch.in_progress_at
    if began_at is not None and not batch.submitted_at <= began_at <= ended_at:
        began_at = None  # the clocks differ
    return Wait(
        batch,
        None if began_at is None else (began_at - batch.submitted_at).total_seconds(),
        None if began_at is None else (ended_at - began_at).total_seconds(),
        (ended_at - batch.submitted_at).total_seconds(),
        is_running,
    )
