"""What a run says about its source; and scheduled runs, which read earlier days again for late articles."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from batch_assets.resources import ArticleSource
from batch_assets.schedules import requests_of_night
from batch_assets.task_set import Feed
from batch_assets_tests.first_task import DECLARED, raw_articles, summaries
from batch_assets_tests.project import DAY, UPSTREAM, Project, generated_articles, write_articles

NIGHT = datetime(2026, 1, 7, 2, tzinfo=UTC)  # the newest day is the 6th


def requests_at_night(project: Project, *, look_back_days: int = 2, night: datetime = NIGHT) -> list[dg.RunRequest]:
    source = ArticleSource(project.source, look_back_days=look_back_days)
    return list(requests_of_night(project.instance, replace(DECLARED, feed=Feed(source)), night))


def run_again(project: Project) -> dg.ExecuteInProcessResult:
    """The run of the schedule that reads DAY again."""
    [request] = [request for request in requests_at_night(project) if request.partition_key == DAY]
    return project.materialize(UPSTREAM, DAY, config=request.run_config, **request.tags)


def articles_and_batches(project: Project) -> list[tuple[int, int]]:
    return project.rows(
        "SELECT (SELECT count(*) FROM raw_articles), (SELECT count(*) FROM openai_batch WHERE state <> 'withdrawn')"
    )


def test_a_day_that_loses_all_its_articles_is_a_warning_with_both_numbers(project: Project) -> None:
    assert project.materialize([raw_articles]).success
    Path(project.source).write_text("")
    run = project.materialize([raw_articles])
    assert run.success
    [warning] = project.warnings(run.run_id)
    assert f"has no article for {DAY}: 0 articles now, 20 before" in warning
    assert project.rows("SELECT count(*) FROM raw_articles") == [(0,)]


def test_a_run_says_which_rows_are_no_article(project: Project) -> None:
    rows = [*generated_articles(3), {"id": "a0", "body": "A correction."}, {"id": "x", "body": " "}]
    undated = {"id": "y", "body": "text", "published_at": "01/05/26"}
    write_articles(Path(project.source), [*rows, undated])
    run = project.materialize([raw_articles])
    assert run.success
    assert project.warnings(run.run_id) == [
        "Rejected, and stored in `rejected_article`: 1 row (empty_body), 1 row (older_version).",
        "1 row of the source without a day: the time cannot be read, is ambiguous, or is before 1900 or after "
        "tomorrow. `rejected_article` has the first ones, with the reason `undated`.",
    ]
    metadata = project.metadata(raw_articles)
    assert (metadata["older_versions"], metadata["rejected_rows"], metadata["undated_rows"]) == (1, 2, 1)


def test_ids_that_several_files_have_are_named_with_a_remedy(project: Project) -> None:
    folder = Path(project.source).parent
    for name in ("one", "two"):
        write_articles(folder / f"feed_{name}.jsonl", [{"id": "1", "body": f"Text of {name}."}])
    project.source = str(folder / "feed_*.jsonl")
    run = project.materialize([raw_articles])
    rejected, remedy = project.warnings(run.run_id)
    assert "1 row (older_version)" in rejected
    assert remedy.startswith("1 id in several files")
    assert "SELECT filename || '#' || id AS id" in remedy
    rows = f"read_json('{project.source}')"
    project.source = f"SELECT parse_filename(filename) || '#' || id AS id, * EXCLUDE (id) FROM {rows}"
    assert project.materialize([raw_articles]).success
    assert project.rows("SELECT article_id FROM raw_articles ORDER BY ALL") == [
        ("feed_one.jsonl#1",),
        ("feed_two.jsonl#1",),
    ]


def test_a_table_that_an_upstream_asset_fills_is_a_source(project: Project) -> None:
    with project.database.writing() as connection:
        connection.execute("CREATE TABLE feed (id INTEGER, body VARCHAR, published_at TIMESTAMP)")
        connection.execute(f"INSERT INTO feed VALUES (7, 'text', '{DAY} 08:00:00'), (8, 'text', '2026-01-09')")
    project.source = "table:feed"
    assert project.materialize([raw_articles]).success
    assert project.rows("SELECT article_id, body FROM raw_articles") == [("7", "text")]


@pytest.mark.end_to_end
def test_a_scheduled_run_submits_only_articles_that_came_late(project: Project) -> None:
    assert project.materialize().success
    assert project.finish().success
    write_articles(Path(project.source), generated_articles(22))
    assert run_again(project).success
    assert articles_and_batches(project) == [(22, 2)]
    assert project.finish().success
    assert project.rows("SELECT requests_total FROM openai_batch ORDER BY plan") == [(20,), (2,)]
    assert project.rows("SELECT status, count(*) FROM summaries GROUP BY ALL") == [("answered", 22)]
    assert run_again(project).success
    assert articles_and_batches(project) == [(22, 2)]


@pytest.mark.end_to_end
def test_a_scheduled_run_submits_a_day_whose_articles_all_came_late(project: Project) -> None:
    articles = Path(project.source).read_text()
    Path(project.source).write_text("")
    assert project.materialize().success
    Path(project.source).write_text(articles)
    assert run_again(project).success
    assert articles_and_batches(project) == [(20, 1)]


@pytest.mark.end_to_end
def test_a_scheduled_run_asks_with_the_task_of_the_day_and_sends_nothing_that_was_cancelled(project: Project) -> None:
    assert project.materialize().success
    assert project.finish().success
    project.model = "gpt-6.1-sol"
    assert run_again(project).success
    assert articles_and_batches(project) == [(20, 1)]


def test_a_scheduled_run_keeps_a_day_that_the_source_no_longer_has(project: Project) -> None:
    assert project.materialize().success
    Path(project.source).write_text("")
    run = run_again(project)
    assert run.success
    assert "the day has 20 articles: they were kept" in project.warnings(run.run_id)[0]
    assert articles_and_batches(project) == [(20, 1)]
    assert project.metadata(raw_articles)["dagster/partition_row_count"] == 20


def test_the_schedule_reads_only_days_again_that_were_submitted(project: Project) -> None:
    assert [request.partition_key for request in requests_at_night(project)] == ["2026-01-06"]
    assert project.materialize().success
    first, again = requests_at_night(project)
    assert (first.partition_key, again.partition_key) == ("2026-01-06", DAY)
    [_, a_night_later] = requests_at_night(project, night=datetime(2026, 1, 8, 2, tzinfo=UTC))
    assert len({first.run_key, again.run_key, a_night_later.run_key}) == 3
    assert len(requests_at_night(project, look_back_days=0)) == 1
    assert len(requests_at_night(project, night=datetime(2026, 1, 9, 2, tzinfo=UTC))) == 1


def test_a_scheduled_run_submits_no_day_that_this_warehouse_has_not_planned(project: Project) -> None:
    assert project.materialize([raw_articles]).success
    run = project.materialize(UPSTREAM, DAY, **{"batch_assets/look_back": "true"})
    assert not run.success
    assert "this warehouse has not planned it" in str(run.failure_data_for_node("submission"))
    assert articles_and_batches(project) == [(20, 0)]
    assert project.materialize([summaries]).success
