"""`batch-assets prune --runs` shows first, deletes with `--yes`, and says in one sentence why it cannot."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from batch_assets.batching.ledger.database import Database
from batch_assets.cli import prune as command
from batch_assets.cli.dagster_home.home import make_dagster_home
from batch_assets.cli.main import main
from batch_assets.settings import read_settings
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import Project, generated_articles, write_articles

pytestmark = pytest.mark.end_to_end


class Later(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "Later":
        return cls.fromtimestamp(time.time() + timedelta(days=100).total_seconds(), tz)


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the command, and its clock, which is a hundred days ahead."""
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setattr(command, "datetime", Later)


@pytest.fixture
def done(tmp_path: Path, local_api: LocalApi) -> Iterator[Project]:
    """A finished day in the data folder and the Dagster home that the command reads."""
    source = write_articles(tmp_path / "articles.jsonl", generated_articles(4))
    with dg.DagsterInstance.from_config(str(make_dagster_home(read_settings()))) as instance:
        project = Project(tmp_path, local_api, instance, source)
        assert project.materialize().success
        assert project.finish().success
        yield project


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["prune", *arguments])


def lines_of(done: Result) -> list[str]:
    assert done.exit_code == 0, done.output
    return [line.strip() for line in done.output.splitlines()]


def test_runs_are_shown_and_deleted_only_if_the_user_asks_for_both(done: Project) -> None:
    heading, *shown = lines_of(run("--runs"))
    assert heading.startswith("Would be deleted")
    assert shown[-1].startswith("2 runs in Dagster with all logs, 0.")
    assert not [line for line in lines_of(run("--yes")) if "Dagster" in line]
    assert len(done.instance.get_runs()) == 2
    assert lines_of(run("--runs"))[1:] == shown[-1:]  # the files are deleted now
    assert len(done.instance.get_runs()) == 2
    assert lines_of(run("--runs", "--yes")) == ["Deleted or compressed, of finished days:", *shown[-1:]]
    assert not done.instance.get_runs()
    assert lines_of(run("--runs", "--yes"))[0].startswith("Nothing to delete")
    assert not done.days_seen_from("batch_assets")


def test_young_runs_of_an_old_day_are_kept(done: Project) -> None:
    assert not [line for line in lines_of(run("--runs", "--yes", "--keep-days", "100")) if "Dagster" in line]
    assert len(done.instance.get_runs()) == 2
    assert lines_of(run("--runs", "--keep-days", "99"))[1].startswith("2 runs in Dagster")


def test_runs_of_days_whose_articles_are_deleted_with_them_are_deleted(done: Project) -> None:
    lines = lines_of(run("--runs", "--tables", "--answers", "--yes"))
    assert lines[-1].startswith("2 runs in Dagster")
    assert not done.instance.get_runs()
    assert len(done.rows("FROM summaries")) == 4


@pytest.mark.parametrize("dagster_home", ["", "elsewhere"])
def test_without_a_dagster_home_nothing_is_created_or_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dagster_home: str
) -> None:
    Database(read_settings().database).warehouse_id()  # creates it
    expected = tmp_path / dagster_home if dagster_home else read_settings().dagster_home
    monkeypatch.setenv("DAGSTER_HOME", str(expected) if dagster_home else "")
    for arguments in (["--runs"], ["--runs", "--yes"]):
        refused = run(*arguments)
        assert refused.exit_code == 1
        assert refused.output.startswith(f"Error: There is no Dagster home in {expected}: it has no `dagster.yaml`.")
        assert not expected.exists()


def test_a_storage_that_cannot_be_read_is_named_in_a_sentence(done: Project) -> None:
    runs = done.folder / "data" / "dagster_home" / "history" / "runs.db"
    runs.write_bytes(b"no database" * 1000)
    refused = run("--runs", "--yes")
    assert refused.exit_code == 1
    assert isinstance(refused.exception, SystemExit)
    assert refused.output.startswith("Error: The storage of the Dagster home ")
    assert "file is not a database" in refused.output
    assert refused.output.rstrip("\n").isprintable()  # and so it is one line
