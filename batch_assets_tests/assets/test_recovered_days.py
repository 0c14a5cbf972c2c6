"""A run of one day enters the batches of other days. The sensor reads an event of each of them, and collects it."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from batch_assets.batching.next_step import Day
from batch_assets.batching.submission.submit import submit_day
from batch_assets.batching.submission.submitter import make_submitter
from batch_assets.day_events import newest_event
from batch_assets.days import read_days
from batch_assets_tests.first_task import batch_request_file, openai_batch, raw_articles, summaries
from batch_assets_tests.project import DAY, UPSTREAM, Project, generated_articles, write_articles
from batch_assets_tests.task_days import of

pytestmark = pytest.mark.end_to_end

DAYS = ["2026-01-05", "2026-01-06", "2026-01-07"]


@pytest.fixture
def restored(project: Project) -> Project:
    """Three days that were submitted, with a database of before. The Dagster home is lost, too."""
    project.source = write_articles(project.folder / "three.jsonl", generated_articles(9, days=3))
    for day in DAYS:
        assert project.materialize([raw_articles, batch_request_file], day).success
    backup = project.folder / "backup.duckdb"
    shutil.copy(project.database.path, backup)
    for day in DAYS:
        assert project.materialize([openai_batch], day).success
    project.wait_for_batches()
    shutil.copy(backup, project.database.path)
    return replace(project, instance=dg.DagsterInstance.ephemeral())


def seen(project: Project) -> dict[str, Day]:
    return {day.day: day for day in read_days(project.instance)}


def collect_what_is_seen(project: Project) -> None:
    for day in seen(project):
        assert project.materialize([summaries], day).success


def test_the_sensor_collects_every_day_whose_batch_was_adopted(restored: Project) -> None:
    assert restored.materialize([openai_batch], DAYS[0]).success
    assert sorted(seen(restored)) == DAYS
    assert all(len(day.batch_ids) == 1 for day in seen(restored).values())
    collect_what_is_seen(restored)
    assert restored.rows("SELECT DISTINCT status FROM summaries") == [("answered",)]
    assert restored.rows("SELECT count(*) FROM summaries") == [(9,)]
    assert not seen(restored)
    assert restored.api.stats()["batches_created"] == 3


def test_a_day_is_announced_once(restored: Project) -> None:
    restored.materialize([openai_batch], DAYS[0])
    before = seen(restored)
    restored.materialize([openai_batch], DAYS[0])
    after = seen(restored)
    assert {day: after[day] for day in DAYS[1:]} == {day: before[day] for day in DAYS[1:]}


def test_a_later_run_announces_the_days_of_a_run_that_was_killed_before(
    restored: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise dg.Failure("killed", allow_retries=False)

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["batch_assets.assets.openai_batch"], "announce_days_without_event", fail)
        assert not restored.materialize([openai_batch], DAYS[0]).success
    assert DAYS[1] not in seen(restored)
    assert restored.materialize([openai_batch], DAYS[0]).success
    assert sorted(seen(restored)) == DAYS


def test_a_refused_submission_announces_the_days_too(restored: Project, tmp_path: Path) -> None:
    restored.source = write_articles(
        tmp_path / "more.jsonl", [*generated_articles(9, days=3), {"id": "expensive", "body": "More of it. " * 50}]
    )
    restored.materialize([raw_articles, batch_request_file], DAYS[0])
    restored.max_cost_usd = 0.0000001
    assert not restored.materialize([openai_batch], DAYS[0]).success
    restored.max_cost_usd = None
    assert restored.materialize([openai_batch], DAYS[0]).success
    assert sorted(seen(restored)) == DAYS


def test_a_day_that_was_collected_is_not_announced(restored: Project) -> None:
    restored.materialize([openai_batch], DAYS[0])
    collect_what_is_seen(restored)
    restored.materialize(UPSTREAM, DAYS[0])
    assert sorted(seen(restored)) == [DAYS[0]]


# --- days that no event names, or that only another database's event names


def test_a_lost_dagster_home_loses_no_day(project: Project) -> None:
    project.source = write_articles(project.folder / "three.jsonl", generated_articles(9, days=3))
    for day in DAYS:
        assert project.materialize(UPSTREAM, day).success
    project = replace(project, instance=dg.DagsterInstance.ephemeral())
    assert project.materialize([openai_batch], DAYS[0]).success
    assert sorted(seen(project)) == DAYS
    project.wait_for_batches()
    collect_what_is_seen(project)
    assert project.rows("SELECT status, count(*) FROM summaries GROUP BY ALL") == [("answered", 9)]
    assert project.api.stats()["batches_created"] == 3


def test_a_day_of_another_database_is_not_announced_over_its_event(restored: Project, tmp_path: Path) -> None:
    other = replace(restored, folder=tmp_path / "other")
    assert other.materialize(UPSTREAM, DAYS[1]).success
    assert restored.materialize([openai_batch], DAYS[0]).success
    event = newest_event(restored.instance, openai_batch.key, DAYS[1], "batch_assets")
    assert event is not None
    assert event.origin.warehouse_id == other.database.warehouse_id()
    assert sorted(seen(restored)) == DAYS


def submit_as_a_killed_run(project: Project) -> None:
    """Submit the day, and report nothing of it to Dagster."""
    submitter = make_submitter(project.database, project.api.client, project.folder / "data", "killed")
    submit_day(submitter, of(DAY), is_run_alive=lambda run_id: False)


def be_stopped_by_the_budget(project: Project) -> None:
    """Another article comes, and the budget has nothing left for it."""
    more = [*generated_articles(20), {"id": "expensive", "body": "More of it. " * 50}]
    project.source = write_articles(project.folder / "more.jsonl", more)
    project.materialize([raw_articles, batch_request_file])
    project.max_cost_usd = 0.0000001
    assert not project.materialize([openai_batch]).success


def test_a_day_whose_run_was_killed_before_its_event_is_seen_if_a_budget_stops_it(project: Project) -> None:
    project.materialize([raw_articles, batch_request_file])
    submit_as_a_killed_run(project)
    be_stopped_by_the_budget(project)
    [day] = seen(project).values()
    assert len(day.batch_ids) == 1
    assert project.api.stats()["batches_created"] == 1


def test_the_batch_of_an_earlier_claim_is_searched_if_a_budget_stops_the_day(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.materialize([raw_articles, batch_request_file])

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("batch_assets.batching.submission.submit._record_batch", fail)
        with pytest.raises(KeyboardInterrupt):
            submit_as_a_killed_run(project)
    be_stopped_by_the_budget(project)
    assert project.rows("SELECT state FROM openai_batch ORDER BY state") == [("planned",), ("submitted",)]
    assert len(seen(project)[DAY].batch_ids) == 1
