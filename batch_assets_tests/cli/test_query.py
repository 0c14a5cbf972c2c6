"""`batch-assets query` reads the tables, and nothing else. Its output has no effect on a terminal."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from batch_assets_tests.cli.conftest import FORMULA, NASTY, Finished, has_no_effect, run


def test_rows_are_printed_as_a_table_as_json_and_as_csv(finished: Finished) -> None:
    sql = (
        f"SELECT title, article_id, 1.5 AS cost, [1, 2] AS list, NULL AS cost FROM summaries WHERE title = '{FORMULA}'"
    )
    done = run("query", sql)
    assert done.exit_code == 0, done.output
    for text in (FORMULA, "a9", "1.5", "[1, 2]", "NULL"):
        assert text in done.stdout
    report = json.loads(run("query", sql, "--json").stdout)
    assert [column["name"] for column in report["columns"]] == ["title", "article_id", "cost", "list", "cost_1"]
    [row] = report["rows"]
    assert (row["title"], row["list"], row["cost_1"], report["is_cut"]) == (FORMULA, [1, 2], None, False)
    [_, cells] = csv.reader(io.StringIO(run("query", sql, "--csv").stdout))
    assert cells == [f"'{FORMULA}", "a9", "1.5", "[1, 2]", ""]
    hidden = csv.reader(io.StringIO(run("query", f"SELECT chr(8203) || '{FORMULA}', -1", "--csv").stdout))
    assert list(hidden)[1] == [f"'{FORMULA}", "-1"]


def test_texts_of_others_have_no_effect(finished: Finished) -> None:
    sql = "SELECT error_message FROM summaries WHERE error_code = 'server_error'"
    for option in ([], ["--csv"], ["--json"]):
        done = run("query", sql, *option)
        assert "before" in done.stdout
        assert has_no_effect(done.stdout), option


@pytest.mark.parametrize(
    "sql",
    [
        "FROM read_text('{folder}/articles.jsonl')",
        "FROM '{folder}/articles.jsonl'",
        "ATTACH '{folder}/other.duckdb' AS other",
        "COPY summaries TO '{folder}/stolen.csv'",
        "COPY (SELECT 1) TO '{database}' (USE_TMP_FILE false)",
        "COPY (SELECT 1) TO '{database}.wal'",
        "COPY (PIVOT summaries ON status USING count(*)) TO '{database}' (USE_TMP_FILE false)",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{database}' (USE_TMP_FILE false)",
        "PREPARE written AS COPY (SELECT 1) TO '{database}' (USE_TMP_FILE false)",
        "EXPORT DATABASE '{database}.tmp'",
        "ATTACH '{database}.tmp/other.duckdb' AS other",
        "FROM enable_logging('QueryLog', storage := 'file', storage_path := '{database}.tmp')",
        "CALL enable_logging('QueryLog', storage := 'file', storage_path := '{database}.tmp')",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "DELETE FROM summaries",
        "CREATE TABLE batch_assets.main.mine (i INTEGER)",
        "SELECT 1; SELECT 2",
        "SELEC 1",
    ],
)
def test_it_changes_nothing_and_reads_no_other_file(finished: Finished, sql: str) -> None:
    [database] = finished.data.glob("*.duckdb")
    before = {path: path.stat().st_mtime_ns for path in finished.data.rglob("*.duckdb*")}
    done = run("query", sql.format(folder=finished.data.parent, database=database))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert {path: path.stat().st_mtime_ns for path in finished.data.rglob("*.duckdb*")} == before
    assert not (finished.data.parent / "stolen.csv").exists()
    assert finished.rows("SELECT count(*) FROM summaries") == [(10,)]  # and later connections are as before


def test_more_rows_than_the_limit_are_said(finished: Finished) -> None:
    done = run("query", "FROM range(2000)", "--csv", "--limit", "1500")
    assert len(done.stdout.splitlines()) == 1501
    assert "The first 1,500 rows" in done.stderr
    everything = run("query", "FROM range(2000)", "--json", "--limit", "0")
    assert len(json.loads(everything.stdout)["rows"]) == 2000
    assert everything.stderr == ""


def test_a_pipe_gets_no_colours_and_ctrl_c_ends_a_long_query(finished: Finished) -> None:
    command = [sys.executable, "-m", "batch_assets.cli.main", "query"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    endless = "SELECT count(*) FROM range(100000000) AS a, range(1000000) AS b WHERE hash(a.range) > hash(b.range)"
    done = subprocess.run([*command, "SELECT NULL AS n"], env=environment, capture_output=True, timeout=60)
    assert b"NULL" in done.stdout
    assert b"\x1b" not in done.stdout
    with subprocess.Popen([*command, endless], env=environment, stderr=subprocess.PIPE) as process:
        timer = threading.Timer(3, process.send_signal, [signal.SIGINT])
        timer.start()
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors.strip()) == (1, b"Aborted!")


def test_mistakes_are_sentences(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("query", "SELECT 1", "--json", "--csv").exit_code == 2
    assert "DuckDB says" in run("query", "SELECT nothing FROM summaries").stderr
    monkeypatch.setenv("BATCH_ASSETS_DUCKDB", str(tmp_path / "none.duckdb"))
    assert "There is no database" in run("query", "SELECT 1").stderr
    assert not (tmp_path / "none.duckdb").exists()
    assert NASTY not in run("query", NASTY).stderr
