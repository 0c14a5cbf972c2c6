"""The sensor: a lost cursor, a failed run or an API that is down may delay a day, and never loses one.

The sensor reads Dagster's event log, so these tests write events; the batches are real ones.
"""

import json
import re
import time as real_time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import RemoteJobOrigin, RemoteRepositoryOrigin

from batch_assets import days, run_requests, sensors
from batch_assets.assets import batch_request_file, openai_batch, summaries
from batch_assets.batching import next_step as steps
from batch_assets.batching.counting import counted
from batch_assets.batching.next_step import Day, Step, last_end_of
from batch_assets.batching.provider.batches import RemoteBatch, RemoteError
from batch_assets.batching.timing import Timing
from batch_assets.batching.waiting import late_sentences
from batch_assets.day_events import DEFAULT_LOCATION, DayEvent, read_events
from batch_assets.days import CollectedDays, read_days, read_new_days
from batch_assets.resources import SummaryTask
from batch_assets.run_keys import NextRun, RunNumbers
from batch_assets.run_requests import DEDUP_TAG, FIRST_PARTITION_TAG, LAST_PARTITION_TAG, PARTITION_TAG
from batch_assets.sensor_cursor import Cursor, read_cursor, write_cursor
from batch_assets.sensors import openai_batch_sensor
from batch_assets_tests.batching.conftest import Call, Reply, proxy, still_running
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY, QUIET, UPSTREAM, Project, api_at, code_location_origin

NEXT_DAY = "2026-01-06"
TIMING = Timing()
MAX_ATTEMPTS = TIMING.max_run_attempts


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def submitted(
    instance: dg.DagsterInstance,
    *batch_ids: str,
    day: str = DAY,
    waiting: int = 0,
    next_attempt_at: datetime | None = None,
) -> None:
    metadata: dict[str, dg.MetadataValue] = {
        "batch_ids": dg.MetadataValue.json(list(batch_ids)),
        "deferred_files": dg.MetadataValue.int(waiting),
    }
    if next_attempt_at is not None:
        metadata["next_attempt_at"] = dg.MetadataValue.timestamp(next_attempt_at)
    instance.report_runless_asset_event(dg.AssetMaterialization(openai_batch.key, partition=day, metadata=metadata))


def submitted_by_the_first_version(
    instance: dg.DagsterInstance, *batch_ids: str, waiting: int = 0, look_again_at: datetime | None = None
) -> None:
    """An event with the names of that version, and without a code location, a database or an API."""
    metadata: dict[str, dg.MetadataValue] = {
        "batch_ids": dg.MetadataValue.json(list(batch_ids)),
        "waiting_shards": dg.MetadataValue.int(waiting),
    }
    if look_again_at is not None:
        metadata["look_again_at"] = dg.MetadataValue.timestamp(look_again_at)
    instance.report_runless_asset_event(dg.AssetMaterialization(openai_batch.key, partition=DAY, metadata=metadata))


def next_step(day: Day, polled: dict[str, RemoteBatch], now: datetime, last_end: datetime | None = None) -> Step:
    return steps.next_step(day, polled, now, last_end, TIMING)


def has_overdue_answers(day: Day, polled: dict[str, RemoteBatch], now: datetime) -> bool:
    return steps.has_overdue_answers(day, polled, now, TIMING)


def request_runs(
    instance: dg.DagsterInstance, next_runs: list[NextRun], now: datetime
) -> tuple[list[dg.RunRequest], list[str]]:
    """The run requests, and the sentences about days whose runs failed too often."""
    requested = run_requests.request_runs(instance, DEFAULT_LOCATION, next_runs, now, TIMING, RunNumbers(since=1))
    return requested.requests, list(requested.failing.values())


def ready_day(instance: dg.DagsterInstance) -> NextRun:
    """The next step of the only day."""
    [day] = read_days(instance)
    return NextRun((day,), Step.COLLECT)


def collected(
    instance: dg.DagsterInstance, *, pending: int = 0, day: str = DAY, next_attempt_at: datetime | None = None
) -> None:
    metadata: dict[str, Any] = {"requests_pending": pending}
    if next_attempt_at is not None:
        metadata["next_attempt_at"] = dg.MetadataValue.timestamp(next_attempt_at)
    instance.report_runless_asset_event(dg.AssetMaterialization(summaries.key, partition=day, metadata=metadata))


def a_batch(api: LocalApi) -> str:
    line = {
        "custom_id": "1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "One. Two. Three."}]},
    }
    file = api.client.files.create(file=("a.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = api.client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    return batch.id


def tick(
    instance: dg.DagsterInstance, url: str, cursor: str | None = None, *, location: str | None = None
) -> dg.SensorResult:
    """The result of a tick in this code location; None: Dagster names none."""
    resources = {"openai": api_at(url)}
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
        if location is not None:
            context._code_location_origin = code_location_origin(location)
        result = openai_batch_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def requested(result: dg.SensorResult) -> list[tuple[str | None, list[dg.AssetKey]]]:
    return [(request.partition_key, list(request.asset_selection or [])) for request in result.run_requests or []]


def a_run(
    instance: dg.DagsterInstance,
    dedup_key: str,
    status: dg.DagsterRunStatus,
    *,
    location: str = DEFAULT_LOCATION,
    **tags: str,
) -> dg.DagsterRun:
    """A run that the sensor of this code location requested with this key."""
    first, is_range, last = dedup_key.split("/")[1].partition("..")
    days = {FIRST_PARTITION_TAG: first, LAST_PARTITION_TAG: last} if is_range else {PARTITION_TAG: first}
    repository = RemoteRepositoryOrigin(code_location_origin(location), "a_repository")
    run = dg.DagsterRun(
        job_name="a_job",
        run_id=str(uuid.uuid4()),
        status=status,
        tags={DEDUP_TAG: dedup_key, **days, **tags},
        remote_job_origin=RemoteJobOrigin(repository, "a_job"),
    )
    return instance.add_run(run)


def failed_run(instance: dg.DagsterInstance, result: dg.SensorResult) -> dg.DagsterRun:
    """The only run that the tick requested, which failed long ago."""
    [request] = result.run_requests or []
    tags = {"dagster/run_key": str(request.run_key)}
    return a_run(instance, request.tags[DEDUP_TAG], dg.DagsterRunStatus.FAILURE, **tags)


def later(monkeypatch: pytest.MonkeyPatch, **time: float) -> None:
    """The sensor's clock is that much ahead."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return cls.fromtimestamp(real_time.time() + timedelta(**time).total_seconds(), tz)

    monkeypatch.setattr(sensors, "datetime", Clock)


def test_nothing_submitted_means_nothing_to_do(instance: dg.DagsterInstance) -> None:
    result = tick(instance, "http://127.0.0.1:9/v1")  # no server is there, and the sensor sends nothing
    assert not result.run_requests
    assert "Nothing is pending" in str(result.skip_reason)


def test_an_ended_batch_requests_summaries_of_its_day_only(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    with serving(tmp_path, batch_seconds=3) as api:
        submitted(instance, ended := a_batch(api))
        api.wait(ended)
        submitted(instance, a_batch(api), day=NEXT_DAY)
        assert requested(tick(instance, api.url)) == [(DAY, [summaries.key])]


def test_a_day_is_ready_when_all_of_its_batches_have_ended(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    with serving(tmp_path, batch_seconds=2) as api:
        early = a_batch(api)
        api.wait(early)
        submitted(instance, early, late := a_batch(api))
        assert not requested(tick(instance, api.url))
        api.wait(late)
        assert requested(tick(instance, api.url)) == [(DAY, [summaries.key])]


def test_a_day_that_had_nothing_to_submit_is_ready_at_once(instance: dg.DagsterInstance) -> None:
    submitted(instance)
    assert requested(tick(instance, "http://127.0.0.1:9/v1")) == [(DAY, [summaries.key])]


def test_a_collected_day_needs_no_run_until_it_is_submitted_again(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)
    collected(instance)
    assert not requested(tick(instance, local_api.url))
    submitted(instance, batch)
    assert requested(tick(instance, local_api.url)) == [(DAY, [summaries.key])]


def test_progress_is_shown_on_change_and_again_after_a_lost_cursor(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)
    first = tick(instance, local_api.url)
    [observation] = first.asset_events
    assert isinstance(observation, dg.AssetObservation)
    assert observation.partition == DAY
    assert observation.metadata["status"].value == "completed"
    assert observation.metadata["requests_done"].value == 1
    assert not tick(instance, local_api.url, first.cursor).asset_events
    assert len(tick(instance, local_api.url, "not JSON").asset_events) == 1
    assert len(tick(instance, local_api.url, None).asset_events) == 1


def test_a_batch_that_the_api_does_not_know_does_not_stop_the_others(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    submitted(instance, "batch_" + "0" * 32)
    submitted(instance, batch := a_batch(local_api), day=NEXT_DAY)
    local_api.wait(batch)
    assert [day for day, _ in requested(tick(instance, local_api.url))] == [NEXT_DAY]


def test_an_api_that_is_down_skips_a_tick_without_an_error(instance: dg.DagsterInstance) -> None:
    submitted(instance, "batch_" + "0" * 32)
    result = tick(instance, "http://127.0.0.1:9/v1")
    assert not result.run_requests
    assert "could not read the batches" in str(result.skip_reason)


def test_a_busy_api_is_asked_once_a_tick(instance: dg.DagsterInstance) -> None:
    """A retry would sleep for as long as the server asks for, which may be longer than a tick."""
    calls: list[Call] = []

    def refuse(call: Call) -> Reply:
        calls.append(call)
        return Reply.of({"error": {"message": "Slow down."}}, 429)

    submitted(instance, "batch_" + "0" * 32)
    with proxy("", refuse) as client:
        assert "Slow down" in str(tick(instance, str(client.base_url)).skip_reason)
    assert len(calls) == 1


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
        age += timedelta(minutes=5)
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


def test_pending_requests_need_another_round_after_a_pause(instance: dg.DagsterInstance) -> None:
    submitted(instance)
    collected(instance, pending=3)
    [day] = read_days(instance)
    assert next_step(day, {}, datetime.now(UTC)) is Step.WAIT
    assert next_step(day, {}, datetime.now(UTC) + timedelta(hours=1)) is Step.NEXT_ROUND
    [request], _ = request_runs(instance, [NextRun((day,), Step.NEXT_ROUND)], datetime.now(UTC))
    assert list(request.asset_selection or []) == [batch_request_file.key, openai_batch.key]
    # the sensor does not send what the user has cancelled
    config = request.run_config["ops"]["batch_request_file"]["config"]
    assert config["resume_cancelled"] is False
    assert config["same_task"] is True


def test_deferred_files_are_submitted_when_a_batch_has_ended_or_their_pause_is_over(
    instance: dg.DagsterInstance,
) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    submitted(instance, "batch_1", waiting=2, next_attempt_at=soon)
    [day] = read_days(instance)
    running = {"batch_1": RemoteBatch("batch_1", "in_progress")}
    before, after = ((day.at + timedelta(seconds=pause)).replace(tzinfo=None) for pause in (-60, 60))
    assert next_step(day, running, datetime.now(UTC)) is Step.WAIT
    assert next_step(day, running, soon) is Step.SUBMIT
    for ended_at, step in ((before, Step.WAIT), (after, Step.SUBMIT)):  # the submission knew the first end
        seen = {"batch_1": RemoteBatch("batch_1", "completed", ended_at=ended_at)}
        assert next_step(day, seen, datetime.now(UTC), last_end_of(seen.values())) is step


def test_deferred_files_are_submitted_when_another_day_was_collected(instance: dg.DagsterInstance) -> None:
    submitted(instance, waiting=1, next_attempt_at=datetime.now(UTC) + timedelta(minutes=5))
    assert next_step(read_days(instance)[0], {}, datetime.now(UTC)) is Step.WAIT
    submitted(instance, day=NEXT_DAY)
    collected(instance, day=NEXT_DAY)
    assert next_step(read_days(instance)[0], {}, datetime.now(UTC)) is Step.SUBMIT


OVERDUE = (datetime.now(UTC) - timedelta(days=2)).replace(tzinfo=None)
RECENT = (datetime.now(UTC) - timedelta(hours=2)).replace(tzinfo=None)


@pytest.mark.parametrize(
    ("batch", "is_overdue"),
    [
        (RemoteBatch("a", "completed", ended_at=OVERDUE, output_file_id="f"), True),
        (RemoteBatch("a", "expired", ended_at=OVERDUE, output_file_id="f"), True),
        (RemoteBatch("a", "completed", created_at=OVERDUE, output_file_id="f"), True),
        (RemoteBatch("a", "completed", ended_at=RECENT, output_file_id="f"), False),
        (RemoteBatch("a", "failed", ended_at=OVERDUE), False),
        (RemoteBatch("a", "finalizing", created_at=OVERDUE), False),
        (RemoteBatch("a", "missing"), False),
    ],
    ids=["completed", "expired", "no end", "recent", "failed", "finalizing", "missing"],
)
@pytest.mark.parametrize("waiting", [0, 1])
def test_answers_are_overdue_a_day_after_their_batch_ended(
    instance: dg.DagsterInstance, batch: RemoteBatch, is_overdue: bool, waiting: int
) -> None:
    submitted(instance, "a", "b", waiting=waiting, next_attempt_at=datetime.now(UTC) + timedelta(hours=1))
    seen = {"a": batch, "b": RemoteBatch("b", "finalizing")}
    assert has_overdue_answers(read_days(instance)[0], seen, datetime.now(UTC)) is is_overdue


def test_answers_that_ended_long_ago_are_collected_once_a_day_while_a_file_is_deferred(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    """A new submission every hour, without success, neither stops nor repeats the collection."""
    local_api.wait(ended := a_batch(local_api))

    def long_ago(call: Call) -> Reply:
        page = call.forward().json
        for batch in page["data"]:
            batch["completed_at"] -= 2 * 86_400
        return Reply.of(page)

    submit, collect = (DAY, [openai_batch.key]), (DAY, [summaries.key])
    with proxy(local_api.url, long_ago) as client:
        submitted(instance, ended, waiting=1, next_attempt_at=datetime.now(UTC))
        first = tick(instance, str(client.base_url))
        assert requested(first) == [submit, collect]
        a_run(instance, (first.run_requests or [])[1].tags[DEDUP_TAG], dg.DagsterRunStatus.SUCCESS)
        submitted(instance, ended, waiting=1, next_attempt_at=datetime.now(UTC))
        assert requested(tick(instance, str(client.base_url))) == [submit]


def test_the_collection_of_overdue_answers_is_repeated_after_a_failure_and_the_next_day(
    instance: dg.DagsterInstance,
) -> None:
    submitted(instance, "a", "b")
    now = datetime.now(UTC)
    today, tomorrow = (
        NextRun((read_days(instance)[0],), Step.COLLECT_PART, once_on=(now + timedelta(days=days)).date())
        for days in (0, 1)
    )
    a_run(instance, today.dedup_key, dg.DagsterRunStatus.FAILURE)
    later = now + timedelta(hours=1)
    assert len(request_runs(instance, [today], later)[0]) == 1
    a_run(instance, today.dedup_key, dg.DagsterRunStatus.SUCCESS)
    assert request_runs(instance, [today], later) == ([], [])
    assert len(request_runs(instance, [tomorrow], later)[0]) == 1


def test_a_success_ends_the_failures_of_the_collection_of_overdue_answers(instance: dg.DagsterInstance) -> None:
    submitted(instance, "a", "b")
    [day] = read_days(instance)
    now = datetime.now(UTC)
    tomorrow = NextRun((day,), Step.COLLECT_PART, once_on=(now + timedelta(days=1)).date())
    for _ in range(MAX_ATTEMPTS):
        a_run(instance, tomorrow.dedup_key, dg.DagsterRunStatus.FAILURE)
    assert request_runs(instance, [tomorrow], now)[1]
    a_run(instance, tomorrow.dedup_key, dg.DagsterRunStatus.SUCCESS)
    requests, failing = request_runs(instance, [tomorrow], now)
    assert len(requests) == 1
    assert not failing


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED])
def test_a_run_of_another_code_location_does_not_stop_the_collection_of_overdue_answers(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    submitted(instance, "a", "b")
    want = NextRun(tuple(read_days(instance)), Step.COLLECT_PART, once_on=datetime.now(UTC).date())
    a_run(instance, want.dedup_key, status, location="theirs")
    assert len(request_runs(instance, [want], datetime.now(UTC))[0]) == 1
    a_run(instance, want.dedup_key, status)
    assert not request_runs(instance, [want], datetime.now(UTC))[0]


def test_a_batch_without_capacity_is_submitted_again(instance: dg.DagsterInstance) -> None:
    submitted(instance, "batch_1")
    error = RemoteError("token_limit_exceeded", "Enqueued token limit reached for gpt-6-luna.")
    seen = {"batch_1": RemoteBatch("batch_1", "failed", errors=(error,))}
    assert next_step(read_days(instance)[0], seen, datetime.now(UTC)) is Step.SUBMIT
    seen = {"batch_1": RemoteBatch("batch_1", "failed", errors=(RemoteError("invalid_json_line", "", line=1),))}
    assert next_step(read_days(instance)[0], seen, datetime.now(UTC)) is Step.COLLECT


def test_another_round_uses_the_task_of_the_plan_not_the_configured_one(project: Project) -> None:
    project.materialize()
    [day] = read_days(project.instance)
    [request], _ = request_runs(project.instance, [NextRun((day,), Step.NEXT_ROUND)], datetime.now(UTC))
    changed = SummaryTask(model="gpt-4.1-nano", max_output_tokens=77, system_prompt="Be brief.")
    again = dg.materialize(
        UPSTREAM,
        selection=[batch_request_file],
        instance=project.instance,
        partition_key=DAY,
        resources={**project.resources, "task": changed},
        run_config={**QUIET, **request.run_config},
    )
    assert again.success
    assert project.metadata(batch_request_file)["model"] == project.model
    assert project.metadata(batch_request_file)["requests_in_new_files"] == 0


def planned_again_with_the_same_task(project: Project) -> dg.ExecuteInProcessResult:
    """Another round of a day whose ledger has no record of its plan, while the environment names another model."""
    with project.database.writing() as connection:
        connection.execute("DELETE FROM day_plan")
    return dg.materialize(
        UPSTREAM,
        selection=[batch_request_file],
        instance=project.instance,
        partition_key=DAY,
        resources={**project.resources, "task": SummaryTask(model="gpt-4.1-nano")},
        run_config={**QUIET, "ops": {"batch_request_file": {"config": {"same_task": True}}}},
        raise_on_error=False,
    )


def test_another_round_of_a_day_without_a_recorded_plan_sends_nothing(project: Project) -> None:
    project.materialize()
    assert not planned_again_with_the_same_task(project).success
    assert project.rows("SELECT DISTINCT model FROM batch_request_file") == [(project.model,)]


def test_the_plan_of_a_version_that_recorded_it_in_the_event_log_is_found_there(project: Project) -> None:
    project.materialize()
    recorded = dg.MetadataValue.json({"model": project.model, "max_output_tokens": 1024})
    project.instance.report_runless_asset_event(
        dg.AssetMaterialization(batch_request_file.key, partition=DAY, metadata={"task": recorded})
    )
    assert planned_again_with_the_same_task(project).success
    assert project.metadata(batch_request_file)["requests_in_new_files"] == 0


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


def test_a_missing_batch_is_collected_after_its_24_hours(instance: dg.DagsterInstance) -> None:
    """The key may be wrong, or the fault may pass: no run buys the requests at once."""
    submitted(instance, "batch_1")
    [day] = read_days(instance)
    seen = {"batch_1": RemoteBatch("batch_1", "missing")}
    for hours, is_overdue in ((24, False), (26, True)):
        moment = datetime.now(UTC) + timedelta(hours=hours)
        assert next_step(day, seen, moment) is Step.WAIT
        assert has_overdue_answers(day, seen, moment) is is_overdue


def test_a_missing_batch_is_named_with_the_account_as_the_likely_cause(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    missing = "batch_" + "0" * 32
    submitted(instance, missing)
    result = tick(instance, local_api.url)
    assert not result.run_requests
    assert f"does not find {missing} of {DAY} with the present key" in str(result.skip_reason)
    assert "Which organization and project does OPENAI_API_KEY belong to?" in str(result.skip_reason)


def test_a_batch_of_the_first_version_is_polled_and_collected(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    submitted_by_the_first_version(instance, batch := a_batch(local_api))
    local_api.wait(batch)
    assert requested(tick(instance, local_api.url)) == [(DAY, [summaries.key])]


def test_deferred_files_of_the_first_version_are_submitted_when_their_pause_is_over(
    instance: dg.DagsterInstance,
) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    submitted_by_the_first_version(instance, waiting=2, look_again_at=soon)
    [day] = read_days(instance)
    assert day.deferred == 2
    assert next_step(day, {}, datetime.now(UTC)) is Step.WAIT
    assert next_step(day, {}, soon + timedelta(seconds=1)) is Step.SUBMIT


def test_requests_owed_in_the_first_version_are_sent_in_another_round(instance: dg.DagsterInstance) -> None:
    submitted_by_the_first_version(instance)
    instance.report_runless_asset_event(
        dg.AssetMaterialization(summaries.key, partition=DAY, metadata={"requests_owed": 3})
    )
    [day] = read_days(instance)
    assert next_step(day, {}, datetime.now(UTC) + timedelta(hours=1)) is Step.NEXT_ROUND


def test_the_sensor_of_each_code_location_asks_for_its_own_days_only(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    local_api.wait(batch := a_batch(local_api))
    for location, day in (("ours", DAY), ("theirs", NEXT_DAY), ("theirs", DAY)):  # the newest of DAY is theirs
        metadata: dict[str, Any] = {"batch_ids": dg.MetadataValue.json([batch]), "code_location": location}
        instance.report_runless_asset_event(dg.AssetMaterialization(openai_batch.key, partition=day, metadata=metadata))
    collect = [summaries.key]
    assert requested(tick(instance, local_api.url, location="ours")) == [(DAY, collect)]
    assert sorted(requested(tick(instance, local_api.url, location="theirs"))) == [(DAY, collect), (NEXT_DAY, collect)]
    assert requested(tick(instance, local_api.url)) == []
    metadata = {"code_location": "theirs"}
    instance.report_runless_asset_event(dg.AssetMaterialization(summaries.key, partition=DAY, metadata=metadata))
    assert requested(tick(instance, local_api.url, location="ours")) == [(DAY, collect)]
    assert requested(tick(instance, local_api.url, location="theirs")) == [(NEXT_DAY, collect)]


def test_a_day_whose_batches_are_at_another_api_waits_and_says_so(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    local_api.wait(batch := a_batch(local_api))
    metadata: dict[str, Any] = {"batch_ids": dg.MetadataValue.json([batch]), "api": "https://api.openai.com/v1"}
    instance.report_runless_asset_event(dg.AssetMaterialization(openai_batch.key, partition=DAY, metadata=metadata))
    result = tick(instance, local_api.url)
    assert not result.run_requests
    assert f"{DAY} waits for https://api.openai.com/v1, where its batches are; the API is local." in str(
        result.skip_reason
    )


def test_the_real_pipeline_is_understood(project: Project) -> None:
    project.materialize(UPSTREAM)
    [(batch_id,)] = project.rows("SELECT batch_id FROM openai_batch")
    project.api.wait(batch_id)
    result = tick(project.instance, project.api.url)
    assert requested(result) == [(DAY, [summaries.key])]
    project.materialize([summaries], **(result.run_requests or [])[0].tags)
    assert not requested(tick(project.instance, project.api.url, result.cursor))


def test_the_next_round_waits_for_the_next_attempt_that_the_collection_named(instance: dg.DagsterInstance) -> None:
    now = datetime.now(UTC)
    submitted(instance)
    collected(instance, pending=3, next_attempt_at=now + timedelta(hours=2))
    [day] = read_days(instance)
    assert next_step(day, {}, now + timedelta(hours=1)) is Step.WAIT
    assert next_step(day, {}, now + timedelta(hours=2, seconds=1)) is Step.NEXT_ROUND
    submitted(instance)
    collected(instance, pending=3, next_attempt_at=now - timedelta(hours=2))  # it is over: the pause counts
    [day] = read_days(instance)
    assert next_step(day, {}, datetime.now(UTC)) is Step.WAIT
    assert next_step(day, {}, datetime.now(UTC) + TIMING.next_round_pause) is Step.NEXT_ROUND


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
        sizes.append(len(json.loads(cursor)["numbers"]["highest"]))
        collected(instance)
    assert sizes == [1] * 4
    assert json.loads(str(tick(instance, "http://127.0.0.1:9/v1", cursor).cursor))["numbers"]["highest"] == {}


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


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_day_at_an_api_without_a_list_is_collected(
    instance: dg.DagsterInstance, local_api: LocalApi, status: int
) -> None:
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)

    def answer(call: Call) -> Reply:
        return Reply.of({"error": {"message": "No."}}, status) if call.lists_batches else call.forward()

    with proxy(local_api.url, answer) as client:
        assert requested(tick(instance, str(client.base_url))) == [(DAY, [summaries.key])]


class MovesWhenRetrieved:
    """A server that advances a batch only when a client retrieves it; counts the retrievals."""

    def __init__(self) -> None:
        self.retrieved: list[str] = []

    def __call__(self, call: Call) -> Reply:
        if not call.lists_batches:
            self.retrieved.append(call.path.rsplit("/", 1)[1])
            return call.forward()
        page = call.forward().json
        for batch in page["data"]:
            if batch["id"] not in self.retrieved:
                batch.update(status="in_progress", completed_at=None, output_file_id=None)
                batch["request_counts"]["completed"] = 0
        return Reply.of(page)


def test_a_batch_that_moves_only_when_it_is_retrieved_is_collected(
    instance: dg.DagsterInstance, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)
    server = MovesWhenRetrieved()
    with proxy(local_api.url, server) as client:
        first = tick(instance, str(client.base_url))
        second = tick(instance, str(client.base_url), first.cursor)
        assert not requested(first)
        assert not requested(second)
        assert not server.retrieved  # a batch of which the list shows progress needs no call of its own
        later(monkeypatch, minutes=20)
        assert requested(tick(instance, str(client.base_url), second.cursor)) == [(DAY, [summaries.key])]
    assert server.retrieved == [batch]


def test_batches_that_do_not_move_are_retrieved_a_few_in_each_tick_and_all_in_turn(
    instance: dg.DagsterInstance, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [a_batch(local_api) for _ in range(5)]
    for number, batch in enumerate(batches):
        submitted(instance, batch, day=f"2026-01-{number + 10}")
        local_api.wait(batch)
    monkeypatch.setattr("batch_assets.day_progress.CHECKS_PER_TICK", 2)
    retrieved: list[str] = []

    def never_moves(call: Call) -> Reply:
        if not call.lists_batches:
            retrieved.append(call.path.rsplit("/", 1)[1])
        return still_running(call)

    with proxy(local_api.url, never_moves) as client:
        cursor: str | None = None
        for minute in (0, 20, 21, 22, 23):
            later(monkeypatch, minutes=minute)
            cursor = tick(instance, str(client.base_url), cursor).cursor
    assert sorted(retrieved) == sorted(batches)  # each once: the fifth tick had none left


def test_a_lost_cursor_delays_the_retrieval_of_a_batch_that_does_not_move(
    instance: dg.DagsterInstance, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)
    server = MovesWhenRetrieved()
    with proxy(local_api.url, server) as client:
        tick(instance, str(client.base_url))
        later(monkeypatch, minutes=20)
        lost = tick(instance, str(client.base_url))
        assert not requested(lost)
        later(monkeypatch, minutes=40)
        assert requested(tick(instance, str(client.base_url), lost.cursor)) == [(DAY, [summaries.key])]


def reason_of(instance: dg.DagsterInstance, url: str, cursor: str | None = None) -> str:
    return str(tick(instance, url, cursor).skip_reason)


def test_the_skip_reason_says_which_days_wait_for_what_and_since_when(
    instance: dg.DagsterInstance, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, other = a_batch(local_api), a_batch(local_api)
    local_api.wait(running)
    local_api.wait(other)
    moment = datetime.now(UTC)
    submitted(instance, running, day="2026-01-05")
    submitted(instance, day="2026-01-07")
    collected(instance, day="2026-01-07", pending=3, next_attempt_at=moment + timedelta(days=3))
    submitted(instance, other, day="2026-01-06", waiting=2, next_attempt_at=moment + timedelta(days=2))
    with proxy(local_api.url, still_running) as client:
        reason = reason_of(instance, str(client.base_url))
    assert "3 days wait." in reason
    assert re.search(r"2026-01-05: 0 of 1 batch ended, \d of 1 request done, since \d\d:\d\d UTC\.", reason)
    next_attempt = f"{moment + timedelta(days=2):%Y-%m-%d %H:%M} UTC"
    assert re.search(
        rf"2026-01-06: 2 files deferred since \d\d:\d\d UTC \(no capacity\), next attempt at {next_attempt}\.", reason
    )
    assert f"next round at {moment + timedelta(days=3):%Y-%m-%d %H:%M} UTC" in reason


def test_the_skip_reason_names_the_error_of_the_account(instance: dg.DagsterInstance, local_api: LocalApi) -> None:
    metadata: dict[str, Any] = {
        "batch_ids": dg.MetadataValue.json([]),
        "deferred_files": 1,
        "error": "Billing hard limit has been reached. " + "Check the billing. " * 30,
        "next_attempt_at": dg.MetadataValue.timestamp(datetime.now(UTC) + timedelta(hours=1)),
    }
    instance.report_runless_asset_event(dg.AssetMaterialization(openai_batch.key, partition=DAY, metadata=metadata))
    reason = reason_of(instance, local_api.url)
    assert "(Billing hard limit has been reached." in reason
    assert len(reason) < 600


def test_the_skip_reason_of_many_days_is_short_and_counts_the_others(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    for number in range(30):
        submitted(instance, f"batch_{number:032d}", day=f"2026-03-{number + 1:02d}")
    reason = reason_of(instance, local_api.url)
    assert len(reason) <= 600
    assert "30 days wait." in reason
    assert "does not find batch_00000000000000000000000000000000 of 2026-03-01" in reason
    shown = len(set(re.findall(r"2026-03-\d\d", reason)))
    assert f"And {30 - shown} more days." in reason


def test_an_api_that_is_down_still_names_the_days(instance: dg.DagsterInstance) -> None:
    submitted(instance, "batch_1", "batch_2")
    reason = reason_of(instance, "http://127.0.0.1:9/v1")
    assert re.search(rf"{DAY}: the state of 2 batches is not known, since \d\d:\d\d UTC", reason)


def test_a_day_whose_run_is_in_progress_says_so(instance: dg.DagsterInstance, local_api: LocalApi) -> None:
    submitted(instance)
    a_run(instance, ready_day(instance).dedup_key, dg.DagsterRunStatus.STARTED)
    assert f"{DAY}: a run of `summaries` is in progress." in reason_of(instance, local_api.url)


@pytest.mark.parametrize(
    ("status", "hours", "warns"),
    [
        ("in_progress", 24, False),
        ("in_progress", 26, True),
        ("validating", 100, True),
        ("finalizing", 1, False),
        ("finalizing", 4, True),
        ("cancelling", 4, True),
        ("paused", 1, False),
        ("paused", 4, True),
    ],
)
def test_a_batch_that_is_late_or_stuck_is_named_with_its_age_and_the_commands(
    instance: dg.DagsterInstance,
    local_api: LocalApi,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    status: str,
    hours: int,
    warns: bool,
) -> None:
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)

    def stuck(call: Call) -> Reply:
        shown = call.forward().json
        for one in shown.get("data", [shown]):
            one.update(status=status, completed_at=None, output_file_id=None)
        return Reply.of(shown)

    with proxy(local_api.url, stuck) as client:
        cursor = tick(instance, str(client.base_url)).cursor
        later(monkeypatch, hours=hours)
        result = tick(instance, str(client.base_url), cursor)
        again = tick(instance, str(client.base_url), result.cursor)  # after it was retrieved, too
    for reason in (str(result.skip_reason), str(again.skip_reason)):
        assert (f"`batch-assets abandon {batch}`" in reason) is warns
        assert (f"`batch-assets cancel {DAY}`" in reason) is warns
        age = f"{hours // 24} days" if hours >= 48 else f"{hours} hours"
        assert (f"{batch} of {DAY}, created {age} ago, is" in reason) is warns
        assert status in reason or not warns
    assert ("batch-assets abandon" in capfd.readouterr().err) is warns


def test_a_hostile_batch_id_is_no_command(instance: dg.DagsterInstance) -> None:
    day = Day(DAY, 1, datetime.now(UTC), batch_ids=("x`; rm -rf ~ #\n",))
    seen = {day.batch_ids[0]: RemoteBatch(day.batch_ids[0], "in_progress")}
    [sentence] = late_sentences([day], seen, {}, datetime.now(UTC) + timedelta(days=2), TIMING).values()
    assert "batch-assets abandon 'x" in sentence
    assert "\n" not in sentence


def test_a_batch_id_with_a_leading_dash_is_no_option_of_the_command() -> None:
    seen = {"-x": RemoteBatch("-x", "in_progress")}
    day = Day(DAY, 1, datetime.now(UTC), batch_ids=("-x",))
    [sentence] = late_sentences([day], seen, {}, datetime.now(UTC) + timedelta(days=2), TIMING).values()
    assert "`batch-assets abandon -- -x`" in sentence


@pytest.mark.parametrize("cursor", ["", "[]", "{}", '{"shown": {}, "poll": {}}', '{"days": 1}', "null"])
def test_a_cursor_that_cannot_be_read_is_replaced(
    instance: dg.DagsterInstance, local_api: LocalApi, cursor: str
) -> None:
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)
    assert requested(tick(instance, local_api.url, cursor)) == [(DAY, [summaries.key])]


def test_the_cursor_holds_only_days_in_flight(instance: dg.DagsterInstance, local_api: LocalApi) -> None:
    empty = tick(instance, local_api.url)
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)
    full = tick(instance, local_api.url, empty.cursor)
    collected(instance)
    after = tick(instance, local_api.url, full.cursor)
    assert DAY in str(full.cursor)
    assert DAY not in str(after.cursor)


def in_pages(instance: dg.DagsterInstance, page: int, known: CollectedDays) -> tuple[list[list[str]], CollectedDays]:
    """The days that each tick finds, until all events are read."""
    found: list[list[str]] = []
    while True:
        read = read_new_days(instance, "batch_assets", known, limit=page)
        found.append(sorted(day.day for day in read.days))
        known = read.collected
        if not read.unread:
            return found, known


def many_collected_days(instance: dg.DagsterInstance) -> None:
    """Ten days, the third and the ninth with pending requests."""
    for number in range(10):
        submitted(instance, day=f"2026-02-{number + 1:02d}")
        collected(instance, day=f"2026-02-{number + 1:02d}", pending=number in (2, 8))


@pytest.fixture
def without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_assets.days.OVERLAP", 0)


@pytest.mark.usefixtures("without_overlap")
def test_after_a_lost_cursor_the_collected_days_are_read_in_several_ticks(instance: dg.DagsterInstance) -> None:
    many_collected_days(instance)
    submitted(instance, day="2026-01-01")
    found, _ = in_pages(instance, 4, CollectedDays())
    assert found == [
        ["2026-01-01", "2026-02-03"],
        ["2026-01-01", "2026-02-03"],
        ["2026-01-01", "2026-02-03", "2026-02-09"],
    ]


@pytest.mark.usefixtures("without_overlap")
def test_a_day_with_pending_requests_is_remembered_until_it_is_submitted_again(instance: dg.DagsterInstance) -> None:
    many_collected_days(instance)
    _, known = in_pages(instance, 100, CollectedDays())
    found, known = in_pages(instance, 100, known)
    assert found == [["2026-02-03", "2026-02-09"]]
    submitted(instance, day="2026-02-03")
    collected(instance, day="2026-02-03")
    found, known = in_pages(instance, 100, known)
    assert found == [["2026-02-09"]]
    assert known.pending == ("2026-02-09",)


@pytest.mark.usefixtures("without_overlap")
def test_events_that_were_read_are_not_read_again(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_collected_days(instance)
    _, known = in_pages(instance, 100, CollectedDays())
    numbers: list[int] = []

    def counting(instance: dg.DagsterInstance, key: dg.AssetKey, storage_ids: list[int]) -> Iterator[DayEvent]:
        numbers.append(len(storage_ids))
        return read_events(instance, key, storage_ids)

    monkeypatch.setattr(days, "read_events", counting)
    in_pages(instance, 100, known)
    assert sum(numbers) == 2  # the days with pending requests


def test_an_event_that_becomes_visible_late_is_read(instance: dg.DagsterInstance) -> None:
    """Another process wrote it before the newest one that was read, and committed it later."""
    submitted(instance)
    collected(instance, pending=3)
    [day] = read_days(instance)
    known = CollectedDays(read_up_to=day.storage_id + 5)
    assert [one.day for one in read_new_days(instance, "batch_assets", known).days] == [DAY]


def test_a_lost_cursor_with_many_collected_days_says_how_many_are_unread(
    instance: dg.DagsterInstance, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        submitted(instance, day=f"2026-02-0{number + 1}")
        collected(instance, day=f"2026-02-0{number + 1}")
    monkeypatch.setattr("batch_assets.sensors.EVENTS_PER_TICK", 2)
    monkeypatch.setattr("batch_assets.days.OVERLAP", 0)
    first = tick(instance, local_api.url)
    assert "1 collected day is not read yet" in str(first.skip_reason)
    assert "not read yet" not in str(tick(instance, local_api.url, first.cursor).skip_reason)


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


@pytest.mark.parametrize(("running", "wanted"), [(1, 3), (3, 1), (2, 3)], ids=["grows", "splits", "grows by one"])
def test_no_second_run_for_a_day_whose_run_of_other_days_is_in_progress(
    instance: dg.DagsterInstance, running: int, wanted: int
) -> None:
    """Also after a lost cursor, and after a new event of the day."""
    three_days(instance)
    a_run(instance, collect(instance, *DAYS[:running]).dedup_key, dg.DagsterRunStatus.STARTED)
    assert request_runs(instance, [collect(instance, *DAYS[:wanted])], datetime.now(UTC)) == ([], [])
    submitted(instance, day=DAYS[0])
    assert request_runs(instance, [collect(instance, *DAYS[:wanted])], datetime.now(UTC)) == ([], [])
    [day] = [day for day in read_days(instance) if day.day == DAYS[0]]
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
    assert requested.failing[DAYS[1]].startswith(f"{DAYS[1]}: {MAX_ATTEMPTS} runs of")


def test_a_set_of_days_is_numbered_from_the_highest_number_ever_used(instance: dg.DagsterInstance) -> None:
    three_days(instance)
    numbers, now = RunNumbers(since=1), datetime.now(UTC)
    keys: set[str] = set()
    for _ in range(3):
        numbers = run_numbers(instance, collect(instance, *DAYS), numbers, now)
        numbers = read_cursor(write_cursor(Cursor(numbers)), now).numbers.of(read_days(instance))
        keys.add(numbers.run_key(collect(instance, *DAYS)))
        deleted = a_run(instance, collect(instance, *DAYS).dedup_key, dg.DagsterRunStatus.FAILURE)
        instance.delete_run(deleted.run_id)
    assert len(keys) == 3
    for day in DAYS:
        collected(instance, day=day)
    assert numbers.of(read_days(instance)) == RunNumbers(since=1)
