"""Consecutive days that are ready become one run, unless one of them has a history of its own."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from batch_assets import run_requests
from batch_assets.batching.next_step import Step
from batch_assets.day_events import DEFAULT_LOCATION
from batch_assets.days import read_days
from batch_assets.run_keys import NextRun, RunNumbers
from batch_assets.run_requests import FIRST_PARTITION_TAG, LAST_PARTITION_TAG, PARTITION_TAG, RequestedRuns
from batch_assets_tests.sensors.support import TIMING, a_run, submitted

NOW = datetime.now(UTC)
DAYS = [(date(2026, 1, 5) + timedelta(days=number)).isoformat() for number in range(10)]


def requested(
    instance: dg.DagsterInstance,
    days: Sequence[str],
    *,
    step: Step = Step.COLLECT,
    most: int = 30,
    now: datetime = NOW,
    ended_at: datetime | None = None,
    numbers: RunNumbers | None = None,
) -> RequestedRuns:
    """The runs of days that are ready for a step; each was submitted before."""
    known = {day.day: day for day in read_days(instance)}
    runs = [NextRun((known[day],), step, ended_at=ended_at) for day in days]
    return run_requests.request_runs(
        instance, DEFAULT_LOCATION, runs, now, TIMING, numbers or RunNumbers(since=1), days_per_run=most
    )


def ranges(found: RequestedRuns) -> list[tuple[str, str]]:
    return [
        (
            request.partition_key or request.tags[FIRST_PARTITION_TAG],
            request.partition_key or request.tags[LAST_PARTITION_TAG],
        )
        for request in found.requests
    ]


@pytest.fixture
def days(instance: dg.DagsterInstance) -> dg.DagsterInstance:
    for day in reversed(DAYS):  # in another order than that of the calendar
        submitted(instance, day=day)
    return instance


@pytest.mark.parametrize("step", [Step.COLLECT, Step.SUBMIT, Step.NEXT_ROUND])
def test_consecutive_days_are_one_run_and_a_gap_begins_another(days: dg.DagsterInstance, step: Step) -> None:
    found = requested(days, [*DAYS[:4], *DAYS[6:]], step=step)
    assert sorted(ranges(found)) == [(DAYS[0], DAYS[3]), (DAYS[6], DAYS[9])]
    assert found.days == {*DAYS[:4], *DAYS[6:]}


def test_a_run_has_at_most_the_days_of_the_setting(days: dg.DagsterInstance) -> None:
    assert sorted(ranges(requested(days, DAYS, most=4))) == [
        (DAYS[0], DAYS[3]),
        (DAYS[4], DAYS[7]),
        (DAYS[8], DAYS[9]),
    ]
    assert len(requested(days, DAYS, most=1).requests) == 10


def test_a_day_that_failed_alone_is_tried_alone(days: dg.DagsterInstance) -> None:
    [failed] = requested(days, [DAYS[3]]).requests
    a_run(days, failed.tags["batch_assets/dedup_key"], dg.DagsterRunStatus.FAILURE)
    later = NOW + timedelta(hours=1)
    assert sorted(ranges(requested(days, DAYS, now=later))) == [
        (DAYS[0], DAYS[2]),
        (DAYS[3], DAYS[3]),
        (DAYS[4], DAYS[9]),
    ]
    assert sorted(ranges(requested(days, DAYS, now=NOW))) == [(DAYS[0], DAYS[2]), (DAYS[4], DAYS[9])]  # its pause


def test_days_that_failed_together_are_tried_together(days: dg.DagsterInstance) -> None:
    first = requested(days, DAYS)
    [run] = first.requests
    a_run(days, run.tags["batch_assets/dedup_key"], dg.DagsterRunStatus.FAILURE)
    again = requested(days, DAYS, now=NOW + timedelta(hours=1), numbers=first.numbers)
    assert ranges(again) == [(DAYS[0], DAYS[9])]
    assert again.requests[0].run_key != run.run_key


def test_days_that_have_just_ended_wait_for_others_while_a_run_collects(days: dg.DagsterInstance) -> None:
    [run] = requested(days, DAYS[:3], ended_at=NOW).requests
    running = a_run(days, run.tags["batch_assets/dedup_key"], dg.DagsterRunStatus.STARTED)
    days.add_run_tags(running.run_id, {FIRST_PARTITION_TAG: DAYS[0], LAST_PARTITION_TAG: DAYS[2]})
    waits = requested(days, DAYS[3:6], ended_at=NOW)
    assert waits.requests == []
    assert waits.waiting == dict.fromkeys(DAYS[3:6], "it is collected together with the days that end next")
    assert len(requested(days, DAYS[3:6], ended_at=NOW, most=3).requests) == 1  # a full run waits for nothing
    assert len(requested(days, DAYS[3:6], ended_at=NOW - TIMING.collection_pause).requests) == 1
    assert len(requested(days, DAYS[3:6], step=Step.SUBMIT, ended_at=NOW).requests) == 1


def test_the_first_of_several_ranges_is_collected_and_the_others_follow(days: dg.DagsterInstance) -> None:
    found = requested(days, [*DAYS[:2], *DAYS[5:7]], ended_at=NOW)
    assert len(found.requests) == 1
    assert len(found.waiting) == 2
    assert all(PARTITION_TAG not in request.tags for request in found.requests)
