"""A failed or deleted run delays a day, and never stops it."""

import json
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import dagster as dg
import pytest

from batch_assets import run_requests
from batch_assets.batching.counting import counted
from batch_assets.batching.next_step import Step
from batch_assets.days import read_days
from batch_assets.run_keys import NextRun
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY
from batch_assets_tests.sensors.support import (
    MAX_ATTEMPTS,
    TIMING,
    a_run,
    collected,
    failed_run,
    later,
    ready_day,
    request_runs,
    submitted,
    tick,
)


def test_no_second_run_while_one_is_in_progress(instance: dg.DagsterInstance) -> None:
    submitted(instance)
    want = ready_day(instance)
    a_run(instance, want.dedup_key, dg.DagsterRunStatus.STARTED)
    assert request_runs(instance, [want], datetime.now(UTC)) == ([], [])


def test_a_failed_run_is_requested_again_with_longer_pauses_and_a_new_key_up_to_a_limit(
    instance: dg.DagsterInstance,
) -> None:
    submitted(instance)
    want = ready_day(instance)
    keys = set()
    now = datetime.now(UTC)
    for number in range(MAX_ATTEMPTS):
        [request], _ = request_runs(instance, [want], now)
        assert request.run_key is not None
        keys.add(request.run_key)
        a_run(instance, want.dedup_key, dg.DagsterRunStatus.FAILURE)
        pause = TIMING.first_run_pause * 2**number
        assert request_runs(instance, [want], datetime.now(UTC) + pause * 0.9)[0] == []
        now = datetime.now(UTC) + pause * 1.1
    assert len(keys) == MAX_ATTEMPTS


@pytest.mark.parametrize("step", [Step.COLLECT, Step.COLLECT_PART, Step.SUBMIT, Step.NEXT_ROUND])
def test_no_step_is_given_up_its_runs_continue_hourly_and_then_daily(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, step: Step
) -> None:
    """The file of a result may be unreachable for hours, and a broken configuration may be repaired after days."""
    submitted(instance)
    [day] = read_days(instance)
    start = datetime.now(UTC)
    attempts: list[timedelta] = []
    failed: list[datetime] = []
    monkeypatch.setattr(run_requests, "_ended", lambda record: failed[int(record.dagster_run.tags["number"])])
    age = timedelta(0)
    while age < timedelta(days=4):
        want = NextRun((day,), step, once_on=(start + age).date() if step is Step.COLLECT_PART else None)
        requests, sentences = request_runs(instance, [want], start + age)
        if len(failed) >= MAX_ATTEMPTS:
            assert "the next attempt is at" in sentences[0] or requests
            assert DAY in sentences[0]
            assert str(counted(len(failed), "run")) in sentences[0]
            assert "or wait" in sentences[0]
        if requests:
            a_run(instance, want.dedup_key, dg.DagsterRunStatus.FAILURE, number=str(len(failed)))
            failed.append(start + age)
            attempts.append(age)
        age += timedelta(minutes=5 if len(attempts) <= MAX_ATTEMPTS else 30)  # later pauses are whole hours
    quick, hours = attempts[:MAX_ATTEMPTS], [later - earlier for earlier, later in pairwise(attempts[MAX_ATTEMPTS:])]
    assert quick[-1] < timedelta(hours=1)
    assert set(hours) == {timedelta(hours=1), timedelta(days=1)}
    assert hours == sorted(hours)
    assert 20 <= hours.count(timedelta(hours=1)) <= 24
    assert hours.count(timedelta(days=1)) >= 2


def test_a_day_that_failed_too_often_says_when_it_is_tried_again(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    submitted(instance)
    for _ in range(MAX_ATTEMPTS):
        a_run(instance, ready_day(instance).dedup_key, dg.DagsterRunStatus.FAILURE)
    reason = str(tick(instance, local_api.url).skip_reason)
    assert f"{DAY}: {MAX_ATTEMPTS} runs of `summaries` failed" in reason
    assert re.search(r"the next attempt is at (\d{4}-\d\d-\d\d )?\d\d:\d\d UTC", reason)
    assert "1 day waits." in reason


def test_a_new_submission_restarts_the_count_of_attempts(instance: dg.DagsterInstance) -> None:
    submitted(instance)
    for _ in range(MAX_ATTEMPTS):
        a_run(instance, ready_day(instance).dedup_key, dg.DagsterRunStatus.FAILURE)
    submitted(instance)
    requests, given_up = request_runs(instance, [ready_day(instance)], datetime.now(UTC))
    assert len(requests) == 1
    assert not given_up


def test_a_successful_run_that_did_not_change_the_day_is_no_failure(instance: dg.DagsterInstance) -> None:
    """Another batch had to end first: the sensor requests further runs, with longer pauses, without a limit."""
    submitted(instance)
    want = ready_day(instance)
    for _ in range(MAX_ATTEMPTS + 3):
        a_run(instance, want.dedup_key, dg.DagsterRunStatus.SUCCESS)
    assert request_runs(instance, [want], datetime.now(UTC)) == ([], [])
    [request], given_up = request_runs(instance, [want], datetime.now(UTC) + timedelta(minutes=11))
    assert str(request.run_key).endswith(f"/attempt-{MAX_ATTEMPTS + 4}")
    assert not given_up
    for _ in range(150):  # a day of them
        a_run(instance, want.dedup_key, dg.DagsterRunStatus.SUCCESS)
    assert len(request_runs(instance, [want], datetime.now(UTC) + timedelta(minutes=11))[0]) == 1


@pytest.mark.parametrize("keeps_cursor", [True, False])
@pytest.mark.parametrize("deleted", ["first", "last", "all"])
def test_a_deleted_run_does_not_stop_a_day(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, deleted: str, keeps_cursor: bool
) -> None:
    """Dagster remembers the run key of a deleted run, and skips a request with the same key for ever."""
    submitted(instance)
    used: list[str] = []
    runs: list[dg.DagsterRun] = []
    cursor: str | None = None
    for number in range(2):
        later(monkeypatch, hours=number)
        result = tick(instance, "http://127.0.0.1:9/v1", cursor)
        cursor = result.cursor
        used += [str(request.run_key) for request in result.run_requests or []]
        runs.append(failed_run(instance, result))
    for run in {"first": runs[:1], "last": runs[1:], "all": runs}[deleted]:
        instance.delete_run(run.run_id)
    later(monkeypatch, hours=5)
    [request] = tick(instance, "http://127.0.0.1:9/v1", cursor if keeps_cursor else None).run_requests or []
    assert len(used) == 2
    assert request.run_key not in used


def test_the_memory_of_run_keys_holds_only_days_in_flight(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor: str | None = None
    sizes: list[int] = []
    for number in range(4):
        submitted(instance)
        later(monkeypatch, days=number)
        result = tick(instance, "http://127.0.0.1:9/v1", cursor)
        failed_run(instance, result)
        cursor = str(result.cursor)
        sizes.append(len(json.loads(cursor)["tasks"]["summaries"]["numbers"]["highest"]))
        collected(instance)
    assert sizes == [1] * 4
    assert (
        json.loads(str(tick(instance, "http://127.0.0.1:9/v1", cursor).cursor))["tasks"]["summaries"]["numbers"][
            "highest"
        ]
        == {}
    )


def test_results_come_before_new_submissions_and_both_before_a_backfill(instance: dg.DagsterInstance) -> None:
    submitted(instance)
    [day] = read_days(instance)
    priorities = {}
    for step in (Step.COLLECT, Step.COLLECT_PART, Step.SUBMIT, Step.NEXT_ROUND):
        [request], _ = request_runs(instance, [NextRun((day,), step)], datetime.now(UTC))
        priorities[step] = int(request.tags["dagster/priority"])
    assert min(priorities.values()) > 0  # of a backfill's runs
    assert min(priorities[Step.COLLECT], priorities[Step.COLLECT_PART]) > priorities[Step.SUBMIT]
    assert priorities[Step.SUBMIT] == priorities[Step.NEXT_ROUND]
