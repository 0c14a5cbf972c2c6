"""Several tasks on the same days: one run takes them all, and a task that fails fails alone."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from batch_assets.asset_keys import TaskKeys
from batch_assets.batching.next_step import Step
from batch_assets.batching.planning.task import Task
from batch_assets.days import read_days
from batch_assets.sensors import build_sensor
from batch_assets.task_set import DeclaredTask, TaskSet
from batch_assets_tests.first_task import assets_of, first_task
from batch_assets_tests.project import QUIET, Project, generated_articles, write_articles

DAYS = ["2026-01-05", "2026-01-06", "2026-01-07"]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"topics": {"type": "array", "items": {"type": "string"}}},
    "required": ["topics"],
    "additionalProperties": False,
}


def of_name(first: DeclaredTask, name: str, **changes: Any) -> DeclaredTask:
    task: Task = replace(first.task, **{"name": name, "answer_column": "answer", **changes})
    return replace(first, task=task, key_prefix=(name,), group_name=name)


def three_tasks(source: str) -> TaskSet:
    """`summaries`, a twin with the same question, and topics with an output schema."""
    tasks = first_task(source)
    [first] = tasks.tasks
    return replace(tasks, tasks=(first, of_name(first, "twin"), of_name(first, "topics", output_schema=SCHEMA)))


@pytest.fixture
def several(project: Project) -> Project:
    write_articles(project.folder / "articles.jsonl", generated_articles(6, days=3))
    project.other_tasks = three_tasks(project.source)
    return project


def keys_of(project: Project, names: Iterable[str] = ("summaries", "twin", "topics")) -> list[TaskKeys]:
    return [project.tasks.keys[name] for name in names]


def submission_of(project: Project, **options: Any) -> dg.ExecuteInProcessResult:
    """A run of all tasks for all days, from the source to the batches."""
    submitted = [key for keys in project.tasks.keys.values() for key in keys[:2]]
    return dg.materialize(
        project.assets,
        selection=[project.tasks.feeds[0].key, *submitted],
        instance=project.instance,
        resources=project.resources,
        tags={"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[-1]},
        run_config=QUIET,
        raise_on_error=False,
        **options,
    )


def tick(project: Project) -> list[dg.RunRequest]:
    sensor = build_sensor(project.tasks, 30)
    definitions = dg.Definitions(assets_of(project.tasks), resources=project.resources, sensors=[sensor])
    with dg.build_sensor_context(
        instance=project.instance, resources=project.resources, definitions=definitions
    ) as context:
        return list(sensor.evaluate_tick(context).run_requests or [])


def execute(project: Project, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        project.assets,
        selection=list(request.asset_selection or []),
        instance=project.instance,
        resources=project.resources,
        partition_key=request.partition_key,
        tags=dict(request.tags),
        run_config={**QUIET, **(request.run_config or {})},
    )


def test_one_run_submits_all_tasks_and_the_sensor_collects_each(several: Project) -> None:
    assert submission_of(several).success
    several.wait_for_batches()
    requests = tick(several)
    collected = [key for request in requests for key in request.asset_selection or []]
    assert sorted(collected) == sorted(keys.results for keys in keys_of(several))
    for request in requests:
        assert execute(several, request).success
    for table in ("summaries", "twin", "topics"):
        rows = several.rows(f"SELECT count(*), count(*) FILTER (status = 'answered') FROM {table}")
        assert rows == [(6, 6)]
    assert several.rows("SELECT task, sum(requests) FROM spending GROUP BY task ORDER BY task") == [
        ("summaries", 6),
        ("topics", 6),
    ]
    assert tick(several) == []
    for keys in keys_of(several):
        assert set(several.instance.get_materialized_partitions(keys.results)) == set(DAYS)


def test_a_run_key_names_its_task(several: Project) -> None:
    submission_of(several)
    several.wait_for_batches()
    assert sorted((request.run_key or "").split("/")[0] for request in tick(several)) == [
        "collect", "topics:collect", "twin:collect",
    ]  # fmt: skip


def test_a_task_that_fails_fails_alone(several: Project) -> None:
    """The plan of a day of one task cannot be read any more."""
    submission_of(several)
    with several.database.writing() as connection:
        connection.execute("DELETE FROM day_plan WHERE task = 'twin' AND partition_date = CAST(? AS DATE)", [DAYS[1]])
    config = {"ops": {"submission": {"config": {"same_task": True}}}}
    result = dg.materialize(
        several.assets,
        selection=[keys.batch_request_file for keys in keys_of(several)],
        instance=several.instance,
        resources=several.resources,
        tags={"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[-1]},
        run_config={**QUIET, **config},
        raise_on_error=False,
    )
    assert not result.success
    [failure] = result.get_step_failure_events()
    data = failure.step_failure_data
    assert data.user_failure_data is not None
    assert DAYS[1] in (data.user_failure_data.description or "")
    assert {name for name in ("summaries", "twin", "topics") if is_made_by(several, name, result)} == {
        "summaries",
        "topics",
    }


def is_made_by(project: Project, task: str, run: dg.ExecuteInProcessResult) -> bool:
    """Whether the run has materialized the request files of the second day."""
    of_day = dg.AssetRecordsFilter(project.tasks.keys[task].batch_request_file, asset_partitions=[DAYS[1]])
    [newest] = project.instance.fetch_materializations(of_day, limit=1).records
    return newest.run_id == run.run_id


def test_the_next_round_of_a_task_asks_for_its_assets_only(several: Project) -> None:
    submission_of(several)
    keys = several.tasks.keys["topics"]
    several.instance.report_runless_asset_event(
        dg.AssetMaterialization(keys.results, partition=DAYS[0], metadata={"requests_pending": 3})
    )
    [day] = [day for day in read_days(several.instance, task="topics", keys=keys) if day.needs_next_round]
    assert (day.day, day.task, day.arguments) == (DAYS[0], "topics", f"{DAYS[0]} --task topics")
    assert Step.NEXT_ROUND
    assert datetime.now(UTC) >= day.at


def test_a_request_is_taken_from_step_to_step(several: Project) -> None:
    """The engine ends an answer at the limit: of one token, then of thousands."""
    first = first_task(several.source, max_output_tokens=1, escalation=({"max_output_tokens": 4000, "after": ["cut"]},))
    several.other_tasks = first
    runs = []
    for _ in range(2):
        submission_of(several)
        several.wait_for_batches()
        for request in tick(several):
            runs.append((request.run_key or "").split("/")[0])
            assert execute(several, request).success
    assert runs == ["collect", "collect"]
    assert several.rows("SELECT DISTINCT status, finish_reason FROM summaries") == [("answered", "stop")]
    assert several.rows("SELECT step, sum(requests) FROM batch_request_file GROUP BY step ORDER BY step") == [
        (0, 6),
        (1, 6),
    ]
    record = several.instance.get_latest_materialization_event(dg.AssetKey("summaries"))
    assert record is not None
    assert record.asset_materialization is not None
    metadata = record.asset_materialization.metadata
    assert metadata["requests_of_later_steps"].value == 2
    table: Any = metadata["spending_by_step"].value
    assert [(row.data["step"], row.data["requests"]) for row in table.records] == [(0, 2), (1, 2)]
