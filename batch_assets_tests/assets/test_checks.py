"""Each day keeps its own results of the checks. A day whose articles were pruned passes; its real faults are found."""

import subprocess
import sys
from datetime import date

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from batch_assets.batching.operations.prune import RetentionPolicy, prune
from batch_assets_tests.first_task import day_is_within_budget, every_article_is_accounted_for, summaries
from batch_assets_tests.project import DAY, Project, generated_articles, write_articles

pytestmark = pytest.mark.end_to_end
NEXT_DAY = "2026-01-06"
ACCOUNTED_FOR, BUDGET = every_article_is_accounted_for.key, day_is_within_budget.key
SUCCEEDED = AssetCheckExecutionRecordStatus.SUCCEEDED
BEFORE_NEXT_DAY = date(2026, 1, 7)  # with `keep_days=1`, only DAY is old enough


@pytest.fixture
def pruned(project: Project) -> Project:
    """A project with two finished days of two articles; the articles of the first are pruned."""
    write_articles(project.folder / "articles.jsonl", generated_articles(4, days=2))
    for day in (DAY, NEXT_DAY):
        assert project.materialize(day=day).success
        assert project.finish(day).success
    policy = RetentionPolicy(keep_days=1, tables=True)
    found = prune(project.database, data_folder=project.folder / "data", policy=policy, today=BEFORE_NEXT_DAY)
    assert found.days == [DAY]
    return project


def execute(project: Project, statement: str) -> None:
    with project.database.writing() as connection:
        connection.execute(statement)


def faults(found: dg.AssetCheckEvaluation) -> dict[str, object]:
    """The counts of the check that are not zero, without that of the articles."""
    return {name: value.value for name, value in found.metadata.items() if name != "articles" and value.value}


def test_a_pruned_day_passes_and_the_check_says_that_its_articles_were_pruned(pruned: Project) -> None:
    of_a_run_of_summaries = {
        found.check_name: found for found in pruned.materialize([summaries]).get_asset_check_evaluations()
    }
    for found in (of_a_run_of_summaries[ACCOUNTED_FOR.name], pruned.check(every_article_is_accounted_for)):
        assert found.passed
        assert found.description == "The articles of the day were pruned: its results are not compared with them."
    of_the_next_day = pruned.check(every_article_is_accounted_for, NEXT_DAY)
    assert of_the_next_day.passed
    assert of_the_next_day.description is None


@pytest.mark.parametrize(
    ("day", "damage", "fault"),
    [
        (NEXT_DAY, "DELETE FROM summaries WHERE article_id = 'a1'", "without_row"),
        (NEXT_DAY, "DELETE FROM raw_articles WHERE article_id = 'a1'", "without_article"),
        (DAY, "INSERT INTO summaries SELECT * FROM summaries WHERE article_id = 'a0'", "duplicate_rows"),
        (DAY, "UPDATE summaries SET summary = NULL WHERE article_id = 'a0'", "without_answer"),
        (DAY, "UPDATE summaries SET status = 'failed' WHERE article_id = 'a0'", "without_reason"),
    ],
)
def test_a_fault_beside_a_pruned_day_or_in_its_summaries_is_found(
    pruned: Project, day: str, damage: str, fault: str
) -> None:
    execute(pruned, damage)
    assert faults(pruned.check(every_article_is_accounted_for, day)) == {fault: 1}
    assert pruned.check(every_article_is_accounted_for, NEXT_DAY if day == DAY else DAY).passed


def test_a_pruned_day_that_is_ingested_again_is_compared_again(pruned: Project) -> None:
    assert pruned.materialize().success
    found = pruned.check(every_article_is_accounted_for)
    assert found.passed
    assert found.description is None
    assert found.metadata["articles"].value == 2
    execute(pruned, "DELETE FROM summaries WHERE article_id = 'a0'")
    assert faults(pruned.check(every_article_is_accounted_for)) == {"without_row": 1}


def results(project: Project, key: dg.AssetCheckKey) -> dict[str | None, bool]:
    """day → whether the newest result of its check passed, as Dagster's UI shows it."""
    storage = project.instance.event_log_storage
    records = storage.get_asset_check_execution_history(key, limit=100)
    return {record.partition: record.status is SUCCEEDED for record in reversed(records)}


def test_two_blocked_days_keep_two_results_and_one_of_them_can_be_released(project: Project) -> None:
    write_articles(project.folder / "articles.jsonl", generated_articles(4, days=2))
    project.max_cost_usd = 0.000_001
    assert not project.materialize(day=DAY).success
    assert not project.materialize(day=NEXT_DAY).success
    assert results(project, BUDGET) == {DAY: False, NEXT_DAY: False}
    assert project.api.stats()["files_created"] == 0
    project.max_cost_usd = None
    assert project.materialize(day=NEXT_DAY).success
    assert results(project, BUDGET) == {DAY: False, NEXT_DAY: True}
    assert project.rows("SELECT DISTINCT partition_date::VARCHAR FROM openai_batch WHERE batch_id IS NOT NULL") == [
        (NEXT_DAY,)
    ]


def test_a_blocked_day_blocks_no_other_day(project: Project) -> None:
    """A budget between the costs of the days: the first is submitted, the second is not."""
    articles = [*generated_articles(1), *generated_articles(60, first_day=NEXT_DAY)[1:]]
    write_articles(project.folder / "articles.jsonl", articles)
    project.max_cost_usd = 0.001
    assert project.materialize(day=DAY).success
    assert not project.materialize(day=NEXT_DAY).success
    assert project.finish().success
    assert results(project, BUDGET) == {DAY: True, NEXT_DAY: False}
    assert results(project, ACCOUNTED_FOR) == {DAY: True}


def test_an_article_that_is_lost_on_one_day_fails_the_check_of_that_day_only(pruned: Project) -> None:
    execute(pruned, "DELETE FROM summaries WHERE article_id = 'a1'")
    pruned.check(every_article_is_accounted_for, NEXT_DAY)
    pruned.check(every_article_is_accounted_for, DAY)
    assert results(pruned, ACCOUNTED_FOR) == {DAY: True, NEXT_DAY: False}


def test_loading_prints_no_warning() -> None:
    """Dagster warns of a preview that the checks use; `dev` starts several processes that load them."""
    program = "from batch_assets.definitions import defs; defs().get_repository_def()"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stderr == ""
