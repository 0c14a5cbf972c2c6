"""Runs keyed by sets of days: a set may grow or split while its run is in progress, or after it has failed."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from batch_assets import run_requests
from batch_assets.batching.next_step import Day, Step
from batch_assets.batching.task_day import FIRST_TASK
from batch_assets.day_events import DEFAULT_LOCATION
from batch_assets.days import read_days
from batch_assets.run_keys import NextRun, RunNumbers
from batch_assets.run_requests import FIRST_PARTITION_TAG, LAST_PARTITION_TAG
from batch_assets.sensor_cursor import Cursor, TaskCursor, read_cursor, write_cursor
from batch_assets_tests.sensors.support import (
    MAX_ATTEMPTS,
    TIMING,
    a_run,
    collected,
    request_runs,
    submitted,
)

DAYS = ("2026-01-05", "2026-01-06", "2026-01-07")


def collect(instance: dg.DagsterInstance, *days: str) -> NextRun:
    """The collection of these days in one run."""
    return NextRun(tuple(day for day in read_days(instance) if day.day in days), Step.COLLECT)


def three_days(instance: dg.DagsterInstance) -> None:
    for day in DAYS:
        submitted(instance, day=day)


def run_numbers(instance: dg.DagsterInstance, want: NextRun, numbers: RunNumbers, now: datetime) -> RunNumbers:
    """The memory after the sensor has requested this run."""
    requested = run_requests.request_runs(instance, DEFAULT_LOCATION, [want], now, TIMING, numbers)
    assert len(requested.requests) == 1
    return requested.numbers


def test_a_run_of_several_days_has_one_short_key_for_the_set(instance: dg.DagsterInstance) -> None:
    three_days(instance)
    alone, pair, all_three = (collect(instance, *DAYS[:number]) for number in (1, 2, 3))
    assert len({alone.dedup_key, pair.dedup_key, all_three.dedup_key}) == 3
    days = [Day(f"2026-01-{number:02d}", 10**18 + number, datetime.now(UTC)) for number in range(1000)]
    many = NextRun(tuple(days), Step.COLLECT_PART)
    assert len(many.dedup_key) <= 63
    [request], _ = request_runs(instance, [all_three], datetime.now(UTC))
    assert request.partition_key is None
    assert (request.tags[FIRST_PARTITION_TAG], request.tags[LAST_PARTITION_TAG]) == (DAYS[0], DAYS[2])
    submitted(instance, day=DAYS[1])
    assert collect(instance, *DAYS).dedup_key != all_three.dedup_key  # the day has a new event


@pytest.mark.parametrize(
    ("running", "wanted", "shared"),
    [(DAYS[:1], DAYS, DAYS[0]), (DAYS, DAYS[1:2], DAYS[1]), (DAYS[:2], DAYS[1:], DAYS[1])],
    ids=["the set grows", "it splits", "it moves"],
)
def test_no_second_run_for_a_day_whose_run_of_other_days_is_in_progress(
    instance: dg.DagsterInstance, running: tuple[str, ...], wanted: tuple[str, ...], shared: str
) -> None:
    """Also after a lost cursor, and after a new event of the day."""
    three_days(instance)
    a_run(instance, collect(instance, *running).dedup_key, dg.DagsterRunStatus.STARTED)
    assert request_runs(instance, [collect(instance, *wanted)], datetime.now(UTC)) == ([], [])
    submitted(instance, day=shared)
    assert request_runs(instance, [collect(instance, *wanted)], datetime.now(UTC)) == ([], [])
    [day] = [day for day in read_days(instance) if day.day == shared]
    assert request_runs(instance, [NextRun((day,), Step.SUBMIT)], datetime.now(UTC))[0]  # another step


def test_a_run_in_progress_stops_only_its_own_days(instance: dg.DagsterInstance) -> None:
    three_days(instance)
    a_run(instance, collect(instance, *DAYS[:2]).dedup_key, dg.DagsterRunStatus.STARTED)
    [request], _ = request_runs(instance, [collect(instance, DAYS[0]), collect(instance, DAYS[2])], datetime.now(UTC))
    assert request.partition_key == DAYS[2]


def test_the_failures_of_a_day_count_in_every_set_of_days(instance: dg.DagsterInstance) -> None:
    """Otherwise a day that fails would start a run in each tick, as long as its set changes."""
    three_days(instance)
    numbers, now, later = RunNumbers(since=1), datetime.now(UTC), datetime.now(UTC) + timedelta(minutes=30)
    all_three, alone, pair = collect(instance, *DAYS), collect(instance, DAYS[1]), collect(instance, *DAYS[1:])
    for failed in (all_three, alone):
        numbers = run_numbers(instance, failed, numbers, later)
        a_run(instance, failed.dedup_key, dg.DagsterRunStatus.FAILURE)
        for want in (all_three, alone, pair):
            assert run_requests.request_runs(instance, DEFAULT_LOCATION, [want], now, TIMING, numbers).waiting
    numbers = numbers.of([day for day in read_days(instance) if day.day != DAYS[0]])
    for _ in range(MAX_ATTEMPTS - 2):
        numbers = run_numbers(instance, pair, numbers, later)
        a_run(instance, pair.dedup_key, dg.DagsterRunStatus.FAILURE)
    requested = run_requests.request_runs(instance, DEFAULT_LOCATION, [pair], later, TIMING, numbers)
    assert not requested.requests
    assert list(requested.failing) == [DAYS[1]]
    assert requested.failing[DAYS[1]].sentence.startswith(f"{DAYS[1]}: {MAX_ATTEMPTS} runs of")


def test_a_set_of_days_is_numbered_from_the_highest_number_ever_used(instance: dg.DagsterInstance) -> None:
    three_days(instance)
    numbers, now = RunNumbers(since=1), datetime.now(UTC)
    keys: set[str] = set()
    for _ in range(3):
        numbers = run_numbers(instance, collect(instance, *DAYS), numbers, now)
        cursor = write_cursor(Cursor(1, {FIRST_TASK: TaskCursor(numbers)}))
        numbers = read_cursor(cursor, now).of(FIRST_TASK).numbers.of(read_days(instance))
        keys.add(numbers.run_key(collect(instance, *DAYS)))
        deleted = a_run(instance, collect(instance, *DAYS).dedup_key, dg.DagsterRunStatus.FAILURE)
        instance.delete_run(deleted.run_id)
    assert len(keys) == 3
    for day in DAYS:
        collected(instance, day=day)
    assert numbers.of(read_days(instance)) == RunNumbers(since=1)
