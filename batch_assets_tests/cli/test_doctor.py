"""`batch-assets doctor` finds what keeps a run from working, says what to do, and changes nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_assets.batching.ledger.migrations import MIGRATIONS
from batch_assets_tests.batching.conftest import Call, Reply, proxy
from batch_assets_tests.cli.conftest import KEY, Finished, has_no_effect, run
from batch_assets_tests.local_api_client import LocalApi


def checks(*, exit_code: int) -> dict[str, list[dict[str, Any]]]:
    done = run("doctor", "--json")
    assert done.exit_code == exit_code, done.output
    report = json.loads(done.stdout)
    assert report["is_ok"] == (exit_code == 0)
    found: dict[str, list[dict[str, Any]]] = {}
    for check in report["checks"]:
        found.setdefault(check["name"], []).append(check)
    return found


def names_of_migrations(day: Finished) -> list[Any]:
    """Without a migration, which `Database` may begin with."""
    with duckdb.connect(day.database.path, read_only=True) as connection:
        return connection.execute("SELECT name FROM schema_version ORDER BY name").fetchall()


def test_all_is_well(own_copy: Finished, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", local_api.url)
    before = own_copy.database.path, Path(own_copy.database.path).read_bytes()
    found = checks(exit_code=0)
    assert set(found) == {
        "versions", "settings", "data folder", "disk", "database", "api", "models", "source", "dagster", "local api",
    }  # fmt: skip
    [database] = found["database"]
    assert own_copy.rows("SELECT id FROM warehouse")[0][0] in database["message"]
    assert "accepts the key" in found["api"][0]["message"]
    assert (before[0], Path(before[0]).read_bytes()) == before
    done = run("doctor")
    assert "✓ database:" in done.stdout
    assert has_no_effect(done.stdout)


def test_each_failure_is_named_and_stops_no_other_check(
    own_copy: Finished, local_api: LocalApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(call: Call) -> Reply:
        return Reply.of({"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}, 401)

    own_copy.execute(f"UPDATE schema_version SET name = 'of a later version' WHERE name = '{list(MIGRATIONS)[-1]}'")
    applied = names_of_migrations(own_copy)
    before = own_copy.data.stat().st_mode
    own_copy.data.chmod(0o755)
    Path(own_copy.source).rename(tmp_path / "moved.jsonl")
    try:
        with proxy(local_api.url, refuse) as client:
            monkeypatch.setenv("OPENAI_BASE_URL", str(client.base_url))
            found = checks(exit_code=1)
    finally:
        (tmp_path / "moved.jsonl").rename(own_copy.source)
        own_copy.data.chmod(before)
    assert {name for name in found if found[name][0]["status"] == "failed"} == {"api", "source"}
    assert "refuses the key" in found["api"][0]["message"]
    assert KEY not in json.dumps(found)
    assert found["data folder"][0]["what_to_do"] == f"chmod 700 {own_copy.data}"
    messages = " ".join(check["message"] for check in found["database"])
    assert "a later version" in messages
    assert "1 migration of" in messages
    assert names_of_migrations(own_copy) == applied
    assert "price of gpt-6-luna" in found["models"][0]["message"]


def test_the_process_that_has_the_database_is_named_and_no_failure(
    own_copy: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    program = "import duckdb, sys; opened = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, own_copy.database.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        [database] = checks(exit_code=0)["database"]  # a run would wait, and not fail
        shell.communicate("")
    assert f"PID {shell.pid}" in database["message"]
    assert database["status"] == "warning"


def test_a_database_that_cannot_be_opened_is_named_without_its_password(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("BATCH_ASSETS_DUCKDB", "postgres://me:pass-word-of-mine@db.example/ours?token=pass-word-of-mine")
    for option in ([], ["--json"]):
        done = run("doctor", *option)
        assert done.exit_code == 1
        assert "pass-word-of-mine" not in done.output
    assert json.loads(done.stdout)["checks"][4]["status"] == "failed"


def test_a_wrong_setting_is_a_failed_check(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_ASSETS_MAX_COST_USD", "much")
    [setting] = checks(exit_code=1)["settings"]
    assert "BATCH_ASSETS_MAX_COST_USD is 'much'" in setting["message"]
