"""`batch-assets abandon` asks before it acts, and no event keeps a day waiting for the batch that it gave up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.next_step import Day, Step, next_step
from batch_assets.batching.timing import Timing
from batch_assets.cli.dagster_home.home import make_dagster_home
from batch_assets.cli.main import main
from batch_assets.settings import read_settings
from batch_assets_tests.batching.conftest import ELSEWHERE, hiding_batches, proxy, with_api_name, with_batches
from batch_assets_tests.first_task import batch_request_file, openai_batch, raw_articles, summaries
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY, UPSTREAM, Project, api_at, generated_articles, write_articles

pytestmark = pytest.mark.end_to_end

NEXT_DAY = "2026-01-06"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the command. They have no address of the API: the command does not call it."""
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DAGSTER_HOME", "")


@pytest.fixture
def project(tmp_path: Path, local_api: LocalApi) -> Iterator[Project]:
    """A project in the data folder and the Dagster home that the command reads."""
    source = write_articles(tmp_path / "articles.jsonl", generated_articles(4))
    with dg.DagsterInstance.from_config(str(make_dagster_home(read_settings()))) as instance:
        yield Project(tmp_path, local_api, instance, source)


@contextmanager
def stuck(project: Project) -> Iterator[Project]:
    """The project at the same API, whose batches are `finalizing` and do not end."""
    with proxy(project.api.url, with_api_name("local", with_batches(status="finalizing"))) as client:
        yield replace(project, openai=api_at(str(client.base_url).rstrip("/")))


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, ["abandon", *arguments], input=answer)


def only_batch(project: Project) -> str:
    [(batch_id,)] = project.rows("SELECT batch_id FROM openai_batch WHERE batch_id IS NOT NULL")
    return str(batch_id)


def seen(project: Project, location: str = "batch_assets") -> dict[str, Day]:
    return {day.day: day for day in project.days_seen_from(location)}


def step_of(day: Day) -> Step:
    return next_step(day, {}, datetime.now(UTC), None, Timing())


def states(project: Project) -> list[str]:
    return [state for (state,) in project.rows("SELECT state FROM openai_batch ORDER BY partition_date, plan")]


def test_a_day_that_is_stuck_is_done_after_its_batch_was_abandoned(project: Project) -> None:
    with stuck(project) as at_work:
        assert at_work.materialize().success
        batch_id = only_batch(project)
        assert step_of(seen(project)[DAY]) is Step.WAIT
        done = run(batch_id, "--yes")
        assert done.exit_code == 0, done.output
        assert f"{batch_id} of {DAY} is given up." in done.output
        [day] = seen(project).values()
        assert (day.batch_ids, step_of(day)) == ((), Step.COLLECT)
        assert at_work.materialize([summaries]).success
        assert seen(project)[DAY].needs_next_round
        assert at_work.materialize([batch_request_file, openai_batch]).success
    assert project.finish().success
    assert project.rows("SELECT status, count(*) FROM summaries GROUP BY ALL") == [("answered", 4)]
    assert not seen(project)
    assert project.api.stats()["requests_executed"] == 8  # the first batch was billed, as the command said


def test_the_command_says_what_it_may_cost_and_asks(project: Project) -> None:
    with stuck(project) as at_work:
        at_work.materialize()
    batch_id = only_batch(project)
    events = len(project.rows("FROM submission_event"))
    for answer in ("n\n", "\n", ""):
        refused = run(batch_id, answer=answer)
        assert refused.exit_code == 1
        assert "may still run" in refused.output
        assert "A run buys its 4 requests again" in refused.output
        assert (states(project), len(project.rows("FROM submission_event"))) == (["submitted"], events)
        assert seen(project)[DAY].batch_ids == (batch_id,)
    assert run(batch_id, answer="y\n").exit_code == 0
    assert states(project) == ["abandoned"]


def test_a_command_that_was_killed_before_its_event_is_run_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.materialize()
    batch_id = only_batch(project)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("batch_assets.runless_events.announce_abandoned_batch", killed)
        assert run(batch_id, "--yes").exit_code == 1
    assert (states(project), seen(project)[DAY].batch_ids) == (["abandoned"], (batch_id,))
    again = run(batch_id)  # nothing changes, so it does not ask
    assert again.exit_code == 0
    assert "was given up before. Nothing changed." in again.output
    assert seen(project)[DAY].batch_ids == ()
    before = seen(project)
    assert run(batch_id).exit_code == 0
    assert seen(project) == before


def with_an_equal_article(project: Project, *, is_edited: bool) -> None:
    """The article of the next day is one of this day. It may be edited after its day was submitted."""
    articles = generated_articles(4)
    later = {**articles[0], "id": "later", "published_at": f"{NEXT_DAY}T12:00:00Z"}
    project.source = write_articles(project.folder / "two.jsonl", [*articles, later])
    for day in (DAY, NEXT_DAY):
        assert project.materialize(day=day).success
    if is_edited:
        edited = {**later, "body": "Another text. It was edited."}
        project.source = write_articles(project.folder / "two.jsonl", [*articles, edited])
        assert project.materialize([raw_articles, batch_request_file], NEXT_DAY).success


@pytest.mark.parametrize("is_edited", [False, True])
def test_another_day_that_waits_for_the_batch_is_reported_too(project: Project, is_edited: bool) -> None:
    with_an_equal_article(project, is_edited=is_edited)
    batch_id = only_batch(project)
    assert {day.batch_ids for day in seen(project).values()} == {(batch_id,)}
    assert run(batch_id, "--yes").exit_code == 0
    assert {day.batch_ids for day in seen(project).values()} == {()}
    assert seen(project)[NEXT_DAY].deferred == is_edited
    assert step_of(seen(project)[NEXT_DAY]) is (Step.SUBMIT if is_edited else Step.COLLECT)


def test_the_other_batches_of_the_day_are_still_waited_for(project: Project) -> None:
    project.materialize()
    first = only_batch(project)
    project.source = write_articles(project.folder / "more.jsonl", generated_articles(5))
    project.materialize()
    [(second,)] = project.rows("SELECT batch_id FROM openai_batch WHERE batch_id <> ?", first)
    assert run(first, "--yes").exit_code == 0
    [day] = seen(project).values()
    assert day.batch_ids == (second,)
    assert day.api is not None


def test_a_day_of_another_code_location_is_reported_to_that_location(project: Project) -> None:
    assert project.materialize_from("theirs").is_success
    assert run(only_batch(project), "--yes").exit_code == 0
    assert seen(project, "theirs")[DAY].batch_ids == ()
    assert not seen(project)


def test_a_day_that_another_database_has_submitted_since_is_left_alone(project: Project, tmp_path: Path) -> None:
    project.materialize()
    batch_id = only_batch(project)
    other = replace(project, folder=tmp_path / "other")
    # Another database on the same Dagster home: its run replaces the event, so the first database is refused there.
    project.instance.wipe_assets([openai_batch.key])
    assert other.materialize().success
    theirs = seen(project)
    assert run(batch_id, "--yes").exit_code == 0
    assert (states(project), seen(project)) == (["abandoned"], theirs)


def test_a_day_without_an_event_is_reported(project: Project) -> None:
    """The Dagster home was lost."""
    project.materialize()
    project.instance.wipe_assets([openai_batch.key])
    assert not seen(project)
    assert run(only_batch(project), "--yes").exit_code == 0
    assert step_of(seen(project)[DAY]) is Step.COLLECT


def test_a_batch_at_an_api_that_no_longer_exists_keeps_no_day_waiting(project: Project) -> None:
    """The sensor leaves out a day whose event names another API."""
    project.materialize()
    with project.database.writing() as connection:
        connection.execute("UPDATE openai_batch SET api = ?", [ELSEWHERE])
    assert run(only_batch(project), "--yes").exit_code == 0
    assert seen(project)[DAY].api is None
    assert project.materialize([summaries]).success
    assert project.materialize([batch_request_file, openai_batch]).success
    assert project.finish().success
    assert project.rows("SELECT DISTINCT status FROM summaries") == [("answered",)]


def test_a_missing_batch_that_was_abandoned_is_collected_when_it_is_seen_again(project: Project) -> None:
    project.materialize()
    batch_id = only_batch(project)
    with proxy(project.api.url, with_api_name("local", hiding_batches(batch_id))) as client:
        blind = replace(project, openai=api_at(str(client.base_url).rstrip("/")))
        blind.materialize([summaries])
        assert states(project) == ["missing"]
        assert run(batch_id, "--yes").exit_code == 0
        assert blind.materialize([summaries]).success
    assert project.materialize(UPSTREAM).success
    assert seen(project)[DAY].batch_ids == (batch_id,)
    assert project.finish().success
    assert project.rows("SELECT status, batch_id, count(*) FROM summaries GROUP BY ALL") == [("answered", batch_id, 4)]
    assert project.api.stats()["batches_created"] == 1


def sentence_of(done: Result) -> str:
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert done.output.startswith("Error: ")
    assert done.output.rstrip("\n").isprintable()  # and so it is one line
    return done.output


def test_a_batch_that_is_collected_is_not_abandoned(project: Project) -> None:
    project.materialize()
    project.finish()
    assert "its answers and its cost are in the tables" in sentence_of(run(only_batch(project), "--yes"))
    assert "The ledger knows no batch batch_none." in sentence_of(run("batch_none", "--yes"))
    assert (states(project), seen(project)) == (["collected"], {})


@pytest.mark.parametrize(
    "batch_id", ["batch_none", "../../escaped", "/etc/passwd", "\x1b[2Jbatch", "a\nb", "\u202ebatch"]
)
def test_an_unknown_id_is_printed_without_effect(batch_id: str) -> None:
    Database(read_settings().database).warehouse_id()  # creates it
    assert "The ledger knows no batch" in sentence_of(run(batch_id, "--yes"))


def test_a_batch_with_an_odd_id_is_abandoned_and_printed_without_effect(project: Project, tmp_path: Path) -> None:
    project.materialize()
    batch_id = "../../escaped\x1b[2J\nbatch"
    with project.database.writing() as connection:
        connection.execute("UPDATE openai_batch SET batch_id = ?", [batch_id])
    done = run(batch_id, "--yes")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert lines[1].startswith("../../escaped[2J batch of")
    assert states(project) == ["abandoned"]
    assert not list(tmp_path.rglob("*escaped*"))
