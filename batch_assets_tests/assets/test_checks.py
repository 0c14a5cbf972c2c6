"""The check of articles after `prune --tables`: a pruned day passes, and a real fault is still found."""

from datetime import date

import dagster as dg
import pytest

from batch_assets.assets import summaries
from batch_assets.batching.operations.prune import RetentionPolicy, prune
from batch_assets.checks import every_article_is_accounted_for
from batch_assets_tests.project import DAY, EVERYTHING, QUIET, Project, generated_articles, write_articles

NEXT_DAY = "2026-01-06"
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


def evaluation_of(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    return next(
        found for found in result.get_asset_check_evaluations() if found.check_name == "every_article_is_accounted_for"
    )


def check_of_day(project: Project, day: str) -> dg.AssetCheckEvaluation:
    """The check in a run of `summaries` of the day."""
    return evaluation_of(project.materialize([summaries], day))


def check_of_all_days(project: Project) -> dg.AssetCheckEvaluation:
    """The check in a run without a day."""
    return evaluation_of(
        dg.materialize(
            [*EVERYTHING, every_article_is_accounted_for],
            selection=dg.AssetSelection.checks(every_article_is_accounted_for),
            instance=project.instance,
            resources=project.resources,
            run_config=QUIET,
        )
    )


def test_a_pruned_day_passes_and_the_check_says_that_its_articles_were_pruned(pruned: Project) -> None:
    for found in (check_of_day(pruned, DAY), check_of_all_days(pruned)):
        assert found.passed
        assert found.description == "The articles of 1 day were pruned: its summaries are not compared with them."
    assert check_of_day(pruned, NEXT_DAY).passed
    assert check_of_day(pruned, NEXT_DAY).description is None


@pytest.mark.parametrize(
    ("damage", "count"),
    [
        ("DELETE FROM summaries WHERE partition_date = '2026-01-06' AND article_id = 'a1'", "without_row"),
        ("DELETE FROM raw_articles WHERE partition_date = '2026-01-06' AND article_id = 'a1'", "without_article"),
        ("INSERT INTO summaries SELECT * FROM summaries WHERE partition_date = '2026-01-05'", "duplicate_rows"),
        ("UPDATE summaries SET summary = NULL WHERE partition_date = '2026-01-05'", "without_summary"),
        ("UPDATE summaries SET status = 'failed' WHERE partition_date = '2026-01-05'", "without_reason"),
    ],
)
def test_a_fault_beside_a_pruned_day_or_in_its_summaries_is_found(pruned: Project, damage: str, count: str) -> None:
    execute(pruned, damage)
    found = check_of_all_days(pruned)
    assert not found.passed
    counts = {name: value.value for name, value in found.metadata.items() if name not in ("articles", "pruned_days")}
    assert [name for name, value in counts.items() if value] == [count]


def test_a_pruned_day_that_is_ingested_again_is_compared_again(pruned: Project) -> None:
    assert pruned.materialize(day=DAY).success
    found = check_of_day(pruned, DAY)
    assert found.passed
    assert found.description is None
    assert found.metadata["articles"].value == 2
    execute(pruned, "DELETE FROM summaries WHERE partition_date = '2026-01-05' AND article_id = 'a0'")
    assert check_of_all_days(pruned).metadata["without_row"].value == 1
