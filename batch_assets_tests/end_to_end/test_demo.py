"""`batch-assets demo`, as `make demo` runs it: whole processes, and no request is paid for twice."""

import json
import shutil
import subprocess
from pathlib import Path

import duckdb
import pytest

from batch_assets_tests.conftest import serving
from batch_assets_tests.end_to_end.processes import DEMO, run_command
from batch_assets_tests.local_api_client import LocalApi

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def first_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """The data folder of a demo without a key, and what the demo printed. Tests work on a copy of the folder."""
    data = tmp_path_factory.mktemp("first_demo")
    demo = run_command(data, *DEMO)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    return data, demo


def batches_made(data: Path) -> int:
    with serving(data / "local_api") as api:
        return api.stats()["batches_created"]


def summaries_in(data: Path) -> list[tuple[str, str, str]]:
    with duckdb.connect(str(data / "batch_assets.duckdb"), read_only=True) as connection:
        return connection.execute("SELECT article_id, status, summary FROM summaries ORDER BY article_id").fetchall()


def test_the_demo_summarizes_its_day_and_a_second_one_sends_no_request(
    tmp_path: Path, first_demo: tuple[Path, "subprocess.CompletedProcess[str]"]
) -> None:
    data, first = first_demo
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    assert "9 articles: 9 answered. 2 rows of the source were set aside." in first.stdout
    rows = summaries_in(tmp_path)
    assert len(rows) == 9
    assert all(status == "answered" and summary for _, status, summary in rows)
    assert batches_made(tmp_path) == 1

    second = run_command(tmp_path, *DEMO)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "9 of 9 already answered, nothing sent." in second.stdout
    assert "openai_batch" not in second.stdout
    assert second.stderr == ""
    assert summaries_in(tmp_path) == rows
    assert batches_made(tmp_path) == 1
    table = [line for line in first.stdout.splitlines() if "│" in line]
    assert table == [line for line in second.stdout.splitlines() if "│" in line]
    assert len(table) > 9


def test_a_demo_with_a_key_sends_the_day_of_a_demo_without_a_key_to_the_api_and_only_once(
    tmp_path: Path, first_demo: tuple[Path, "subprocess.CompletedProcess[str]"]
) -> None:
    """The order of the README. Once, the extracts of the built-in engine counted as answers of the model."""
    shutil.copytree(first_demo[0], tmp_path, dirs_exist_ok=True)
    extracts = summaries_in(tmp_path)
    with serving(tmp_path / "model", engine="instant", api_key="the-key") as model:
        key = {"OPENAI_API_KEY": "the-key", "OPENAI_BASE_URL": model.url}
        for _ in range(2):
            done = run_command(tmp_path, *DEMO, "--yes", **key)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "9 articles: 9 answered." in done.stdout
        assert created(model) == (1, 9)
    answers = summaries_in(tmp_path)
    assert [row[:2] for row in answers] == [row[:2] for row in extracts]
    assert {text for _, _, text in answers}.isdisjoint(text for _, _, text in extracts)
    with duckdb.connect(str(tmp_path / "batch_assets.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT DISTINCT api FROM summaries").fetchall() == [("local+instant",)]
    assert batches_made(tmp_path) == 1


def created(api: LocalApi) -> tuple[int, int]:
    """The batches, and their completed requests, at an API that needs a key."""
    batches = api.client.batches.list().data
    return len(batches), sum(batch.request_counts.completed for batch in batches if batch.request_counts)


def test_two_data_folders_have_separate_batches(tmp_path: Path) -> None:
    for name in ("one", "other"):
        done = run_command(tmp_path / name, "demo", "--day", "2026-01-06")
        assert done.returncode == 0, done.stdout + done.stderr
    assert batches_made(tmp_path / "one") == batches_made(tmp_path / "other") == 1


def test_the_demo_reads_the_users_own_articles(tmp_path: Path) -> None:
    source = tmp_path / "mine.jsonl"
    article = {"body": "The bridge opened. It took nine years. Boats pass again.", "published_at": "2026-02-03"}
    source.write_text(json.dumps(article))
    done = run_command(tmp_path, "demo", BATCH_ASSETS_SOURCE=str(source), BATCH_ASSETS_START_DATE="2026-02-03")
    assert "1 article: 1 answered. 0 rows of the source were set aside." in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "sentence"),
    [
        (["demo", "--day", "1999-01-01"], {}, "There is no day"),
        (["demo"], {"BATCH_ASSETS_POLL_SECONDS": "soon"}, "BATCH_ASSETS_POLL_SECONDS is 'soon'"),
        (["demo"], {"BATCH_ASSETS_SOURCE": "/nowhere/*.csv"}, "there is no file"),
        (["cancel", "1999-01-01"], {}, "There is no day"),
        (["adopt", "batch_unknown"], {}, "There is no database"),
        ([*DEMO], {"BATCH_ASSETS_MAX_COST_USD": "0.0001"}, "The budget check stopped 2026-01-05: $0.00 is spent, the"),
        (["demo", "--yes"], {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}, "Nothing listens at http://127.0.0.1:9."),
    ],
)
def test_a_command_that_cannot_run_prints_one_sentence(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], sentence: str
) -> None:
    done = run_command(tmp_path, *arguments, **variables)
    assert done.returncode == 1
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
