"""Which days the sensor finds in the event log, and which step comes next for each."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from batch_assets.batching.next_step import Step, last_end_of
from batch_assets.batching.provider.batches import RemoteBatch, RemoteError
from batch_assets.days import read_days
from batch_assets.run_requests import FIRST_PARTITION_TAG, LAST_PARTITION_TAG
from batch_assets_tests.conftest import serving
from batch_assets_tests.first_task import openai_batch, summaries
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY, UPSTREAM, Project
from batch_assets_tests.sensors.support import (
    NEXT_DAY,
    a_batch,
    collected,
    has_overdue_answers,
    next_step,
    requested,
    submitted,
    tick,
)


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


def test_a_batch_without_capacity_is_submitted_again(instance: dg.DagsterInstance) -> None:
    submitted(instance, "batch_1")
    error = RemoteError("token_limit_exceeded", "Enqueued token limit reached for gpt-6-luna.")
    seen = {"batch_1": RemoteBatch("batch_1", "failed", errors=(error,))}
    assert next_step(read_days(instance)[0], seen, datetime.now(UTC)) is Step.SUBMIT
    seen = {"batch_1": RemoteBatch("batch_1", "failed", errors=(RemoteError("invalid_json_line", "", line=1),))}
    assert next_step(read_days(instance)[0], seen, datetime.now(UTC)) is Step.COLLECT


def test_a_missing_batch_is_collected_after_its_24_hours(instance: dg.DagsterInstance) -> None:
    """The key may be wrong, or the fault may pass: no run buys the requests at once."""
    submitted(instance, "batch_1")
    [day] = read_days(instance)
    seen = {"batch_1": RemoteBatch("batch_1", "missing")}
    for hours, is_overdue in ((24, False), (26, True)):
        moment = datetime.now(UTC) + timedelta(hours=hours)
        assert next_step(day, seen, moment) is Step.WAIT
        assert has_overdue_answers(day, seen, moment) is is_overdue


def test_the_sensor_of_each_code_location_asks_for_its_own_days_only(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    local_api.wait(batch := a_batch(local_api))
    for location, day in (("ours", DAY), ("theirs", NEXT_DAY), ("theirs", DAY)):  # the newest of DAY is theirs
        metadata: dict[str, Any] = {"batch_ids": dg.MetadataValue.json([batch]), "code_location": location}
        instance.report_runless_asset_event(dg.AssetMaterialization(openai_batch.key, partition=day, metadata=metadata))
    collect = [summaries.key]
    assert requested(tick(instance, local_api.url, location="ours")) == [(DAY, collect)]
    [request] = tick(instance, local_api.url, location="theirs").run_requests or []
    assert (request.tags[FIRST_PARTITION_TAG], request.tags[LAST_PARTITION_TAG]) == (DAY, NEXT_DAY)
    assert request.asset_selection == collect
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
