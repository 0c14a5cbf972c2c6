"""`batch-assets report`: a page or JSON, of a range of days or of the last ones."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from batch_assets.batching.ledger.database import Database
from batch_assets.cli.main import main


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", *arguments])


def test_the_page_is_in_the_data_folder_or_in_the_file_that_is_named(data: Path) -> None:
    Database(str(data / "batch_assets.duckdb")).warehouse_id()
    named = data.parent / "named.html"
    for arguments, path, sentence in (
        ((), data / "report.html", "No day has figures yet."),
        (("--out", str(named)), named, "No day has figures yet."),
        (("2026-01-05..2026-01-09", "--out", str(named)), named, "No day from 2026-01-05 to 2026-01-09 has figures."),
        (("2026-01-05", "--out", str(named)), named, "No day from 2026-01-05 to 2026-01-05 has figures."),
    ):
        done = run(*arguments)
        assert (done.exit_code, done.stdout) == (0, f"{path} has the report.\n"), done.output
        assert sentence in path.read_text(encoding="utf-8")


def test_json_is_printed_and_no_page_is_written(data: Path) -> None:
    Database(str(data / "batch_assets.duckdb")).warehouse_id()
    done = run("--json")
    assert json.loads(done.stdout)["articles"] == 0
    assert not (data / "report.html").exists()


def test_mistakes_are_sentences(data: Path) -> None:
    assert "There is no database" in run().stderr
    assert "is no day and no range of days" in run("january").stderr
    assert "is no day and no range of days" in run("2026-01-05..").stderr
    assert "ends before it begins" in run("2026-01-05..2026-01-01").stderr
    assert run("--json", "--out", "x").exit_code == 2
