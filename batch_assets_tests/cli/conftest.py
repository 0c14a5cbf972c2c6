"""A data folder with a finished day, which is made once for all modules that read it."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from batch_assets.batching.ledger.database import Database
from batch_assets.cli.dagster_home.home import make_dagster_home
from batch_assets.cli.main import main
from batch_assets.settings import read_settings
from batch_assets.task_set import TaskSet
from batch_assets_tests.batching.conftest import changed_lines, proxy
from batch_assets_tests.batching.synchronous.support import at_openai
from batch_assets_tests.conftest import serving
from batch_assets_tests.first_task import first_task
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.nasty_texts import ESCAPES, MARKUP
from batch_assets_tests.project import DAY, Project, api_at, generated_articles, write_articles

KEY = "sk-proj-0123456789"
NEXT_DAY = "2026-01-06"
NASTY = f"{MARKUP[0]} before{ESCAPES}after {KEY}"
FORMULA = "=HYPERLINK(0)"


@dataclass(frozen=True)
class Finished:
    """A data folder whose first day was answered at OpenAI, as far as the prices know, except for five of its articles.

    Of these, one was refused, one was cut, one failed for good, one is pending after an error, and one has no line.

    batch_id: of the one batch. result: its output file.
    """

    data: Path
    source: str
    batch_id: str

    @property
    def database(self) -> Database:
        return Database(str(self.data / "batch_assets.duckdb"))

    @property
    def result(self) -> Path:
        [path] = (self.data / "results").iterdir()
        return path

    @property
    def tasks(self) -> TaskSet:
        return first_task(self.source)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self.database.reading() as connection:
            return connection.execute(statement).fetchall()

    def execute(self, statement: str) -> None:
        with self.database.writing() as connection:
            connection.execute(statement)


def spoil() -> Callable[[dict[str, Any]], None]:
    """Changes the first five lines."""
    numbers = itertools.count()

    def change(line: dict[str, Any]) -> None:
        number, body = next(numbers), line["response"]["body"]
        body["system_fingerprint"] = "fp_of_a_model"
        if number == 0:
            body["choices"][0]["message"] |= {"content": None, "refusal": "I cannot do that."}
        elif number == 1:
            body["choices"][0]["finish_reason"] = "length"
        elif number in (2, 3):
            status, code = ((400, "context_length_exceeded"), (500, "server_error"))[number - 2]
            line["response"] |= {"status_code": status, "body": {"error": {"message": NASTY, "code": code}}}
        elif number == 4:
            line["custom_id"] = "of-no-request"

    return change


@pytest.fixture(scope="session")
def finished_day(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Only for reading."""
    folder = tmp_path_factory.mktemp("finished")
    articles = generated_articles(14)
    for number, article in enumerate(articles):
        article["published_at"] = f"{DAY if number < 10 else NEXT_DAY}T12:00:00Z"
    articles[9]["title"] = FORMULA
    source = write_articles(folder / "articles.jsonl", [*articles, {"id": "empty", "title": NASTY, "body": ""}])
    with serving(folder / "api") as api, dg.DagsterInstance.ephemeral(tempdir=str(folder)) as instance:
        with proxy(api.url, at_openai(changed_lines(spoil()))) as client:
            project = Project(folder, api, instance, source, openai=api_at(str(client.base_url).rstrip("/")))
            assert project.materialize().success
            assert project.finish().success
        [(batch_id,)] = project.rows("SELECT batch_id FROM openai_batch")
    return Finished(folder / "data", source, batch_id)


@pytest.fixture
def finished(finished_day: Finished, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """The finished day, whose settings and tasks the commands read."""
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(finished_day.data))
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("batch_assets.project_tasks.read_tasks", lambda _: finished_day.tasks)
    return finished_day


@pytest.fixture
def own_copy(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """A copy of it, which a test may change."""
    shutil.copytree(finished.data, tmp_path / "data")
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "data"))
    return Finished(tmp_path / "data", finished.source, finished.batch_id)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env={"COLUMNS": "200"})


def has_no_effect(output: str) -> bool:
    """Whether the output has neither a control character nor the key."""
    return not set(output) & set("\x1b\x07\x9b\u202e\x00") and KEY not in output


@pytest.fixture
def project(tmp_path: Path, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project in the data folder, the Dagster home and at the API that a command uses."""
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("OPENAI_BASE_URL", local_api.url)
    source = write_articles(tmp_path / "articles.jsonl", generated_articles(4))
    with dg.DagsterInstance.from_config(str(make_dagster_home(read_settings()))) as instance:
        yield Project(tmp_path, local_api, instance, source)
