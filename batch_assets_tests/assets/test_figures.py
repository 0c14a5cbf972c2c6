"""What Dagster shows of a day: figures that plot, the batches, stale days, and checks that find what they are for."""

from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CODE_VERSION_TAG

from batch_assets import figure_checks
from batch_assets.batching.next_step import Step
from batch_assets.run_requests import TaskRuns
from batch_assets_tests.first_task import DECLARED, RESULTS, TASKS, assets_of, openai_batch, raw_articles, summaries
from batch_assets_tests.project import DAY, EVERYTHING, Project, write_articles

pytestmark = pytest.mark.end_to_end
ARTICLE = {"published_at": f"{DAY}T08:00:00Z"}


def metadata_of(project: Project, key: dg.AssetKey) -> dict[str, Any]:
    event = project.instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {found.check_name: found for found in result.get_asset_check_evaluations()}


def test_a_finished_day_shows_its_figures_and_its_batches(project: Project) -> None:
    assert project.materialize().success
    [batch] = metadata_of(project, openai_batch.key)["batches_of_the_day"].records
    assert (batch.data["requests"], batch.data["cost_usd"], batch.data["page"]) == (20, "", "")
    done = project.finish()
    assert all(found.passed for found in evaluations(done).values())
    assert set(figure_checks.RESULTS_CHECKS) <= set(evaluations(done))
    shown = metadata_of(project, summaries.key)
    [(input_tokens, simulated)] = project.rows("SELECT sum(input_tokens), sum(simulated_cost_usd) FROM spending")
    assert (shown["articles"], shown["answered"], shown["requests"], shown["requests_cached"]) == (20, 20, 20, 0)
    assert (shown["input_tokens"], shown["cost_usd"]) == (input_tokens, 0)
    assert shown["simulated_cost_usd"] == pytest.approx(simulated, abs=1e-6)
    assert {"seconds_queued", "seconds_running", "seconds_at_api", "share_of_cut_answers"} <= shown.keys()
    [batch] = shown["batches_of_the_day"].records
    assert (batch.data["status"], batch.data["completed"]) == ("completed", 20)
    assert str(batch.data["cost_usd"]).endswith(" simulated")
    assert {record.data["status"] for record in shown["preview"].records} == {"answered"}


def test_a_day_has_the_version_of_what_was_asked_so_that_a_changed_prompt_makes_it_stale(project: Project) -> None:
    assert project.materialize().success
    assert project.finish().success
    event = project.instance.get_latest_materialization_event(summaries.key)
    assert event is not None
    assert event.asset_materialization is not None
    tags = event.asset_materialization.tags or {}
    assert tags[CODE_VERSION_TAG] == RESULTS.version == summaries.code_version
    assert project.rows("SELECT DISTINCT task_version FROM summaries") == [(RESULTS.version,)]


def test_the_checks_of_a_source_find_unusable_rows_and_repeated_ids(project: Project) -> None:
    rows = [
        {"id": "a", "body": "One.", **ARTICLE},
        {"id": "a", "body": "One.", **ARTICLE},
        {"id": "b", "body": "", **ARTICLE},
    ]
    write_articles(project.folder / "articles.jsonl", rows)
    found = evaluations(project.materialize([raw_articles]))
    usable, unique = found[figure_checks.USABLE], found[figure_checks.UNIQUE]
    assert not usable.passed
    assert (usable.severity, usable.metadata["unusable_rows"].value) == (dg.AssetCheckSeverity.WARN, 1)
    assert not unique.passed
    assert (unique.severity, unique.metadata["duplicate_rows"].value) == (dg.AssetCheckSeverity.WARN, 1)
    write_articles(project.folder / "articles.jsonl", [])
    assert evaluations(project.materialize([raw_articles]))[figure_checks.USABLE].description == (
        "The source has no article for the day."
    )


def test_the_checks_of_results_find_cut_answers_missing_ones_and_costs_above_the_estimate(project: Project) -> None:
    assert project.materialize().success
    assert project.finish().success
    with project.database.writing() as connection:
        connection.execute("UPDATE summaries SET finish_reason = 'length' WHERE article_id = 'a1'")
        connection.execute("UPDATE summaries SET status = 'failed', error_code = 'x' WHERE article_id = 'a2'")
        connection.execute("UPDATE spending SET simulated_cost_usd = 1.0")
        connection.execute("UPDATE openai_batch SET status = 'expired'")
    for name, figure, value in (
        (figure_checks.NOT_CUT, "cut", 1),
        (figure_checks.ANSWERED, "failed", 1),
        (figure_checks.COST, "cost_usd", 1.0),
        (figure_checks.COMPLETED, "batches", 1),
    ):
        spec = next(spec for spec in figure_checks.results_checks(project.tasks.tasks[0]) if spec.name == name)
        found = project.check(spec)
        assert not found.passed, name
        assert (found.severity, found.metadata[figure].value) == (dg.AssetCheckSeverity.WARN, value)
        assert found.partition == DAY


def test_batches_of_an_earlier_prompt_do_not_fail_the_check_of_the_last_plan(project: Project) -> None:
    """The earlier prompt needed a second round, which expired; the present one needed one."""
    assert project.materialize().success
    assert project.finish().success
    with project.database.writing() as connection:
        for table in ("openai_batch", "batch_request_file"):
            connection.execute(f"INSERT INTO {table} SELECT * REPLACE ('of before' AS submission_id) FROM {table}")
        connection.execute("""
            UPDATE openai_batch SET status = 'expired', round = 2, batch_id = 'batch_of_before'
            WHERE submission_id = 'of before';
            UPDATE openai_batch SET plan = plan + 2 WHERE submission_id <> 'of before'
        """)
    specs = figure_checks.results_checks(project.tasks.tasks[0])
    found = project.check(next(spec for spec in specs if spec.name == figure_checks.COMPLETED))
    assert (found.passed, found.metadata["batches"].value, found.metadata["rounds"].value) == (True, 1, 1)


def test_each_asset_has_a_description_columns_with_comments_and_a_lineage() -> None:
    from batch_assets.definitions import defs

    specs = {spec.key: spec for spec in defs().resolve_all_asset_specs()}
    for asset in EVERYTHING:
        spec = specs[asset.key]
        assert spec.description
        assert (list(spec.owners), spec.tags["domain"], spec.group_name) == (["team:data"], "news", "articles")
        assert spec.kinds
        schema = spec.metadata["dagster/column_schema"]
        assert any(column.description for column in schema.columns)
        assert spec.metadata["dagster/storage_kind"] == "duckdb"
    lineage = specs[summaries.key].metadata["dagster/column_lineage"].deps_by_column
    assert {dep.column_name for dep in lineage["summary"]} >= {"body"}
    assert [dep.asset_key for dep in lineage["title"]] == [raw_articles.key]


def test_runs_of_the_sensor_evaluate_all_checks_of_their_steps_and_no_other() -> None:
    """A check of another step, such as that of freshness, would be skipped, and would lose its result."""
    runs, [submission, results] = TaskRuns(DECLARED.keys, DECLARED.feed.step), assets_of(TASKS)
    assert set(runs.checks(Step.COLLECT)) == set(results.check_keys)
    of_articles = {dg.AssetCheckKey(raw_articles.key, name) for name in figure_checks.ARTICLES_CHECKS}
    assert set(runs.checks(Step.NEXT_ROUND)) | of_articles == set(submission.check_keys)
    assert runs.checks(Step.SUBMIT) == []
