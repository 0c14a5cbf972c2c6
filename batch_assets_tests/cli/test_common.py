"""What the commands share: where there is no database they make none, and an API that is not there is named."""

import json
from pathlib import Path

import pytest

from batch_assets_tests.cli.conftest import NEXT_DAY, Finished, run
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY


@pytest.mark.parametrize(
    "arguments",
    [
        ("cancel", DAY),
        ("retry", DAY),
        ("abandon", "batch_x"),
        ("adopt", "batch_x"),
        ("prune",),
        ("move-api", "https://old.example/v1", "https://new.example/v1"),
        ("doctor", "--new-warehouse-id"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_where_there_is_no_database_a_command_says_so_and_makes_none(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "data-nwes"))
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"There is no database {tmp_path / 'data-nwes'}" in done.stderr
    assert not (tmp_path / "data-nwes").exists()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://127.0.0.1:9/v1", "Nothing listens at http://127.0.0.1:9. Start the server there"),
        ("nonsense", "The API did not answer: "),
    ],
)
def test_an_api_that_is_not_there_has_said_nothing(
    own_copy: Finished, monkeypatch: pytest.MonkeyPatch, url: str, sentence: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    done = run("adopt", "batch_x")
    assert (done.exit_code, done.stdout) == (1, "")
    assert sentence in done.stderr
    assert "OPENAI_BASE_URL" in done.stderr
    assert "says" not in done.stderr


@pytest.mark.parametrize("command", [("status",), ("costs",), ("cancel", NEXT_DAY), ("retry", NEXT_DAY)])
def test_a_misspelt_task_is_said(
    own_copy: Finished, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", local_api.url)
    done = run(*command, "--task", "sumaries")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "There is no task sumaries in `defs/`: it has summaries." in done.stderr


def test_the_total_of_no_costs_has_its_keys(finished: Finished) -> None:
    nothing = json.loads(run("costs", "2020-01-01", "--json").stdout)
    some = json.loads(run("costs", DAY, "--json").stdout)
    assert nothing["costs"] == []
    assert nothing["total"] == dict.fromkeys(some["total"], 0)
