"""Events in Dagster's event log → what a message is about: facts, with the storage id of the event that has them.

A fact is news if the day's event before did not have it: so a run that reads a day again, or a budget that is checked
again each day, is no news.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import takewhile
from typing import TypeVar

import dagster as dg

from batch_assets.asset_keys import TaskKeys
from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.outcomes import Scope, outcome_of
from batch_assets.batching.task_day import TaskDay
from batch_assets.day_events import Cause, DayEvent, events_before, newest_event, newest_storage_ids, read_events
from batch_assets.day_problems import ProblemEvent, newest_problem_ids, problems_before, read_problems
from batch_assets.notifications.memory import Memory

EVENTS_PER_TICK = 3000  # of a kind and a task, at 0.65 ms each
PROBLEMS_BEFORE = 20
Event = TypeVar("Event", DayEvent, ProblemEvent)


class Kind(StrEnum):
    """What a message is about, the most urgent first."""

    ACCOUNT = "account"
    PROBLEM = "problem"  # a day needs the user
    BUDGET = "budget"
    DONE = "done"


@dataclass(frozen=True)
class News:
    """A fact about a day. sentence: what happened, and what to do; empty for a day that is done, whose event has it.

    backfill: the one that has submitted the day.
    """

    kind: Kind
    day: TaskDay
    storage_id: int
    at: datetime
    sentence: str = ""
    event: DayEvent | None = None
    backfill: str | None = None


@dataclass
class Reading:
    """What a tick has read.

    handled: the storage ids of events that no message is about. newest: the highest storage id. unread: the ids of new
    events for which this tick had no time.
    day_ids: task and day → the newest storage id of the day. account: the same of the new events with an error of the
    account, also if it is no news.
    """

    news: list[News] = field(default_factory=list)
    handled: set[int] = field(default_factory=set)
    newest: int = 0
    unread: list[int] = field(default_factory=list)
    day_ids: dict[str, int] = field(default_factory=dict)
    account: dict[str, int] = field(default_factory=dict)


def all_ids(instance: dg.DagsterInstance, keys: Iterable[TaskKeys]) -> list[int]:
    """The storage ids of the newest events of all days."""
    return [
        storage_id
        for of_task in keys
        for ids in (
            newest_storage_ids(instance, of_task.results),
            newest_storage_ids(instance, of_task.openai_batch),
            newest_problem_ids(instance, of_task.results),
        )
        for storage_id in ids.values()
    ]


def read_news(instance: dg.DagsterInstance, location: str, keys: Mapping[str, TaskKeys], memory: Memory) -> Reading:
    """The news since the memory; with no news for a day whose newest event is known. keys: by the name of the task."""
    reading = Reading()
    for task, of_task in keys.items():
        _TaskReader(instance, location, task, of_task, memory, reading).read()
    return reading


@dataclass(frozen=True)
class _TaskReader:
    instance: dg.DagsterInstance
    location: str
    task: str
    keys: TaskKeys
    memory: Memory
    reading: Reading

    def read(self) -> None:
        submitted = newest_storage_ids(self.instance, self.keys.openai_batch)
        collected = newest_storage_ids(self.instance, self.keys.results)
        problems = newest_problem_ids(self.instance, self.keys.results)
        reading = self.reading
        reading.newest = max([reading.newest, *submitted.values(), *collected.values(), *problems.values()])
        for day in {*submitted, *collected}:
            reading.day_ids[day_key(self.task, day)] = max(submitted.get(day, -1), collected.get(day, -1))
        backfills = self._backfills(submitted, collected)
        for event in self._new(self.keys.results, collected):
            self._add(event.storage_id, self._of_results(event, backfills))
        for event in self._new(self.keys.openai_batch, submitted):
            is_over = collected.get(event.day, -1) > event.storage_id
            self._add(event.storage_id, None if is_over else self._of_submission(event))
        for problem in read_problems(self.instance, self.keys.results, self._page(problems)):
            is_over = collected.get(problem.day, -1) > problem.storage_id or problem.location != self.location
            self._add(problem.storage_id, None if is_over else self._of_problem(problem))

    def _add(self, storage_id: int, news: News | None) -> None:
        if news is None:
            self.reading.handled.add(storage_id)
        else:
            self.reading.news.append(news)

    def _new(self, key: dg.AssetKey, ids: Mapping[str, int]) -> Iterable[DayEvent]:
        """The new events of this code location, the oldest first."""
        for event in read_events(self.instance, key, self._page(ids)):
            if event.origin.location == self.location:
                yield event
                continue
            self.reading.handled.add(event.storage_id)
            ours = newest_event(self.instance, key, event.day, self.location)
            if ours is not None and self.memory.is_new(ours.storage_id):
                yield ours

    def _page(self, ids: Mapping[str, int]) -> list[int]:
        """The new ones, the oldest first, as many as a tick reads."""
        new = sorted(storage_id for storage_id in ids.values() if self.memory.is_new(storage_id))
        self.reading.unread += new[EVENTS_PER_TICK:]
        return new[:EVENTS_PER_TICK]

    def _backfills(self, submitted: Mapping[str, int], collected: Mapping[str, int]) -> Mapping[str, str | None]:
        """day → the backfill that has submitted it, for the days with new results."""
        days = [day for day, storage_id in collected.items() if self.memory.is_new(storage_id) and day in submitted]
        events = read_events(self.instance, self.keys.openai_batch, [submitted[day] for day in days])
        return {event.day: event.origin.backfill for event in events}

    def _before(self, key: dg.AssetKey, event: DayEvent) -> list[DayEvent]:
        """The earlier events of the day; none if an earlier tick has found that this one is news."""
        is_waiting = event.storage_id in self.memory.waiting
        return [] if is_waiting else events_before(self.instance, key, event)

    def _is_known(self, before: Iterable[Event], is_same: Callable[[Event], bool]) -> bool:
        """Whether an earlier tick knew the same fact. before: the earlier events of the day, the newest first."""
        same = takewhile(is_same, before)
        return any(not self.memory.is_new(event.storage_id) for event in same)

    def _news(self, kind: Kind, event: DayEvent, sentence: str = "", backfill: str | None = None) -> News:
        day = TaskDay(self.task, event.day)
        return News(kind, day, event.storage_id, event.at, sentence, event, backfill)

    def _of_results(self, event: DayEvent, backfills: Mapping[str, str | None]) -> News | None:
        day = TaskDay(self.task, event.day)
        if event.requests_in_flight or (event.requests_pending and event.cause != Cause.ACCOUNT):
            return None
        before = self._before(self.keys.results, event)
        if event.requests_pending:
            return self._of_account(event, before)
        if self._is_known(before, lambda earlier: _outcome(earlier) == _outcome(event)):
            return None
        if event.requests_blocked:
            missing = counted(event.requests_blocked, "request")
            return self._news(
                Kind.PROBLEM,
                event,
                f"{day.label}: the results of {missing} are missing, and may be billed. `batch-assets retry "
                f"{day.arguments}` buys them again.",
            )
        return self._news(Kind.DONE, event, backfill=backfills.get(event.day))

    def _of_submission(self, event: DayEvent) -> News | None:
        if event.cause is None:
            return None
        before = self._before(self.keys.openai_batch, event)
        if event.cause == Cause.ACCOUNT:
            return self._of_account(event, before)
        if self._is_known(before, lambda earlier: earlier.cause == event.cause):
            return None
        return self._news(Kind.BUDGET if event.cause == Cause.BUDGET else Kind.PROBLEM, event, event.error or "")

    def _of_account(self, event: DayEvent, before: Sequence[DayEvent]) -> News | None:
        self.reading.account[day_key(self.task, event.day)] = event.storage_id
        if self._is_known(before, lambda earlier: earlier.cause == event.cause):
            return None
        return self._news(Kind.ACCOUNT, event, event.error or "")

    def _of_problem(self, event: ProblemEvent) -> News | None:
        before = problems_before(self.instance, self.keys.results, event, PROBLEMS_BEFORE)
        ours = (earlier for earlier in before if earlier.location == self.location)
        if self._is_known(ours, lambda earlier: (earlier.kind, earlier.fact) == (event.kind, event.fact)):
            return None
        day = TaskDay(self.task, event.day)
        return News(Kind.PROBLEM, day, event.storage_id, datetime.now(UTC), event.sentence)


def _outcome(event: DayEvent) -> tuple[object, ...]:
    """What a message about the results would say."""
    return (
        event.requests_in_flight, event.requests_pending, event.requests_blocked, event.articles, event.answered,
        event.failed, event.cost_usd, event.simulated_cost_usd,
    )  # fmt: skip


def day_key(task: str, day: str) -> str:
    return f"{task}/{day}"


def account_error(error: str) -> str:
    """Which error of the account this is: the name of its outcome, such as `billing`."""
    outcome = outcome_of(None, error)
    return outcome.name if outcome.scope is Scope.ACCOUNT else "account"


def backfills_in_progress(
    instance: dg.DagsterInstance, location: str, keys: Mapping[str, TaskKeys], backfills: Sequence[str]
) -> set[str]:
    """Which of these backfills still submit, or have days in flight. A day that waits for the user does not count."""
    wanted = set(backfills)
    found = {name for name in wanted if _is_submitting(instance, name)}
    for of_task in keys.values() if wanted > found else ():
        submitted = newest_storage_ids(instance, of_task.openai_batch)
        collected = newest_storage_ids(instance, of_task.results)
        uncollected = [storage_id for day, storage_id in submitted.items() if storage_id > collected.get(day, -1)]
        for event in read_events(instance, of_task.openai_batch, uncollected):
            if event.origin.location == location and event.cause is None and event.origin.backfill in wanted:
                found.add(str(event.origin.backfill))
    return found


def _is_submitting(instance: dg.DagsterInstance, backfill: str) -> bool:
    known = instance.get_backfill(backfill)
    return known is not None and known.status.value == "REQUESTED"
