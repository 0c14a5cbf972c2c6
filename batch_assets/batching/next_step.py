"""A day and its batches → the step that comes next. Pure functions: they read no event log, no table and no API."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from batch_assets.batching.ledger.outcomes import must_requeue
from batch_assets.batching.provider.batches import MISSING, RemoteBatch
from batch_assets.batching.task_day import FIRST_TASK, TaskDay
from batch_assets.batching.timing import Timing


class Step(StrEnum):
    """What comes next for a day."""

    WAIT = "wait"
    COLLECT = "collect"  # its batches have ended: materialize `summaries`
    COLLECT_PART = "collect_part"  # see `has_overdue_answers`: `summaries` loads what has ended
    SUBMIT = "submit"  # a batch must be requeued, or deferred files may fit: `openai_batch`
    NEXT_ROUND = "next_round"  # requests are pending again: `batch_request_file` and `openai_batch`


@dataclass(frozen=True)
class Progress:
    """The batches of a day taken together: their number, how many ended, and the requests in those that were polled."""

    batches: int
    ended: int
    total: int
    done: int
    statuses: str


@dataclass(frozen=True)
class Day:
    """What the event log has of a day: its newest `openai_batch`, or its newest `summaries` if that is newer.

    `needs_next_round`: `summaries` is newer, and requests are pending. `blocked`: `summaries` is newer, and the results
    of so many requests are missing; only the user decides whether a run buys them again. `is_capacity_freed`: another
    day was collected after this one was submitted. `api` is the name of the API that has its batches.
    `next_attempt_at`: when deferred files or pending requests are due; `error`: why a run ended before it submitted all
    files.
    """

    day: str
    storage_id: int
    at: datetime
    task: str = FIRST_TASK
    batch_ids: tuple[str, ...] = ()
    api: str | None = None
    deferred: int = 0
    next_attempt_at: datetime | None = None
    error: str | None = None
    is_capacity_freed: bool = False
    needs_next_round: bool = False
    blocked: int = 0

    @property
    def label(self) -> str:
        """The day, and which task it is of unless it is of `summaries`: for a sentence."""
        return TaskDay(self.task, self.day).label

    @property
    def arguments(self) -> str:
        """What a command is told to mean this day of this task."""
        return TaskDay(self.task, self.day).arguments

    @property
    def is_in_flight(self) -> bool:
        """Whether `summaries` is not newer: batches may run, or files wait."""
        return not self.needs_next_round and not self.blocked

    def batches(self, polled: Mapping[str, RemoteBatch]) -> list[RemoteBatch]:
        """Those of its batches that are among the polled ones."""
        return [polled[batch_id] for batch_id in self.batch_ids if batch_id in polled]

    def progress(self, polled: Mapping[str, RemoteBatch]) -> Progress | None:
        """Its batches taken together; None if none of them was polled."""
        batches = self.batches(polled)
        if not batches:
            return None
        return Progress(
            batches=len(self.batch_ids),
            ended=sum(batch.has_ended for batch in batches),
            total=sum(batch.total or 0 for batch in batches),
            done=sum((batch.completed or 0) + (batch.failed or 0) for batch in batches),
            statuses=", ".join(sorted({batch.status for batch in batches})),
        )


def next_step(
    day: Day, polled: Mapping[str, RemoteBatch], now: datetime, last_end: datetime | None, timing: Timing
) -> Step:
    """The step that the day is ready for. A batch that was not polled counts as running.

    `last_end`: when the last batch of any day ended, and freed capacity.
    """
    if day.needs_next_round:
        return Step.NEXT_ROUND if now >= next_round_at(day, timing) else Step.WAIT
    if day.blocked:
        return Step.WAIT
    batches = day.batches(polled)
    if any(must_requeue(batch) for batch in batches):
        return Step.SUBMIT
    if day.deferred:
        return Step.SUBMIT if _may_find_capacity(day, now, last_end) else Step.WAIT
    if len(batches) == len(day.batch_ids) and all(batch.has_ended for batch in batches):
        return Step.COLLECT
    return Step.WAIT


def next_round_at(day: Day, timing: Timing) -> datetime:
    """When the pending requests of a collected day may be sent again."""
    return max(day.at + timing.next_round_pause, day.next_attempt_at or day.at)


def _may_find_capacity(day: Day, now: datetime, last_end: datetime | None) -> bool:
    """Whether the deferred request files of the day are due, or a batch has ended since they were deferred.

    The end of a batch frees capacity. It removes no other cause, such as an account error or a budget.
    """
    is_due = day.next_attempt_at is not None and now >= day.next_attempt_at
    # the API rounds the end down to a second
    has_one_ended = last_end is not None and last_end >= day.at - timedelta(seconds=1)
    return is_due or (day.error is None and (has_one_ended or day.is_capacity_freed))


def has_overdue_answers(day: Day, polled: Mapping[str, RemoteBatch], now: datetime, timing: Timing) -> bool:
    """Whether `summaries` of the day should be materialized before all of its batches have ended.

    Either a batch with answers ended long ago: OpenAI deletes them after 30 days. Or a batch has been missing for long:
    the run finds out whether it is lost. An earlier run may have loaded these answers; only the database knows.
    """
    if not day.is_in_flight:
        return False
    batches = day.batches(polled)
    if any(batch.status == MISSING for batch in batches) and now - day.at > timing.lost_after:
        return True
    ends = [batch.ended_at or batch.created_at for batch in batches if batch.has_ended and batch.output_file_id]
    return any(end is not None and now - end.replace(tzinfo=UTC) > timing.overdue_after for end in ends)


def last_end_of(batches: Iterable[RemoteBatch]) -> datetime | None:
    """When the last of these batches ended; None if none has."""
    ends = (batch.ended_at for batch in batches if batch.has_ended and batch.ended_at is not None)
    last = max(ends, default=None)
    return None if last is None else last.replace(tzinfo=UTC)
