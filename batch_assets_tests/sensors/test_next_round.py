"""Another round: when the sensor requests it, and that it uses the task of the day's plan."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from batch_assets.batching.next_step import Step
from batch_assets.days import read_days
from batch_assets.run_keys import NextRun
from batch_assets_tests.first_task import assets_of, batch_request_file, first_task, openai_batch
from batch_assets_tests.project import DAY, QUIET, Project
from batch_assets_tests.sensors.support import TIMING, collected, next_step, request_runs, submitted


def test_pending_requests_need_another_round_after_a_pause(instance: dg.DagsterInstance) -> None:
    submitted(instance)
    collected(instance, pending=3)
    [day] = read_days(instance)
    assert next_step(day, {}, datetime.now(UTC)) is Step.WAIT
    assert next_step(day, {}, datetime.now(UTC) + timedelta(hours=1)) is Step.NEXT_ROUND
    [request], _ = request_runs(instance, [NextRun((day,), Step.NEXT_ROUND)], datetime.now(UTC))
    assert list(request.asset_selection or []) == [batch_request_file.key, openai_batch.key]
    # the sensor does not send what the user has cancelled
    config = request.run_config["ops"]["submission"]["config"]
    assert config["resume_cancelled"] is False
    assert config["same_task"] is True


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


def test_another_round_uses_the_task_of_the_plan_not_the_configured_one(project: Project) -> None:
    project.materialize()
    [day] = read_days(project.instance)
    [request], _ = request_runs(project.instance, [NextRun((day,), Step.NEXT_ROUND)], datetime.now(UTC))
    changed = first_task(project.source, model="gpt-4.1-nano", max_output_tokens=77, system_prompt="Be brief.")
    again = dg.materialize(
        assets_of(changed),
        selection=[batch_request_file.key],
        instance=project.instance,
        partition_key=DAY,
        resources=project.resources,
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
        assets_of(first_task(project.source, model="gpt-4.1-nano")),
        selection=[batch_request_file.key],
        instance=project.instance,
        partition_key=DAY,
        resources=project.resources,
        run_config={**QUIET, "ops": {"submission": {"config": {"same_task": True}}}},
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
