"""Runs that are due → fewer runs of several days each: consecutive days of one step, which a run takes as a range."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import dagster as dg

from batch_assets.run_keys import NextRun


@dataclass(frozen=True)
class DueRun:
    """A step that is due. attempts: day → the earlier runs of this step, newest first. place: in the order of ticks."""

    next_run: NextRun
    attempts: Mapping[str, Sequence[dg.RunRecord]]
    place: int


def in_ranges(due: Sequence[DueRun], days_per_run: int) -> list[DueRun]:
    """Join consecutive days of one step into runs of at most `days_per_run` days.

    Only days with the same earlier runs are joined: a day that fails for reasons of its own delays no other day, and
    days that have failed together, as when the API did not answer, are tried again together.
    """
    joined: list[DueRun] = []
    for one in sorted(due, key=lambda run: (run.next_run.task, run.next_run.step, run.next_run.first)):
        if joined and _can_join(joined[-1], one, days_per_run):
            before = joined.pop()
            days = (*before.next_run.days, *one.next_run.days)
            attempts = {**before.attempts, **one.attempts}
            ends = [run.next_run.ended_at for run in (before, one) if run.next_run.ended_at is not None]
            joined_run = NextRun(days, one.next_run.step, ended_at=min(ends, default=None))
            one = DueRun(joined_run, attempts, min(before.place, one.place))
        joined.append(one)
    return sorted(joined, key=lambda run: run.place)


def _can_join(before: DueRun, after: DueRun, days_per_run: int) -> bool:
    first, second = before.next_run, after.next_run
    return (
        first.task == second.task
        and first.step == second.step
        and first.once_on is None
        and second.once_on is None
        and len(first.days) + len(second.days) <= days_per_run
        and date.fromisoformat(first.last) + timedelta(days=1) == date.fromisoformat(second.first)
        and _runs(before) == _runs(after)
    )


def _runs(due: DueRun) -> set[tuple[str, ...]]:
    return {tuple(record.dagster_run.run_id for record in records) for records in due.attempts.values()}
