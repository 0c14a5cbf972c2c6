"""`batch-assets export` writes the rows of a day, no formula in CSV, and only whole answers for fine-tuning."""

import csv
import gzip
import json
import os
from pathlib import Path

import duckdb
import pytest

from batch_assets_tests.cli.conftest import FORMULA, NEXT_DAY, Finished, run
from batch_assets_tests.project import DAY


@pytest.mark.parametrize(("form", "reader"), [("parquet", "read_parquet"), ("jsonl", "read_json")])
def test_a_file_has_the_rows_of_the_table(finished: Finished, tmp_path: Path, form: str, reader: str) -> None:
    out = tmp_path / "it's.out"
    done = run("export", DAY, "--format", form, "--out", str(out))
    assert done.exit_code == 0, done.output
    columns = "article_id, status, title, summary, error_message, input_tokens"
    with duckdb.connect() as connection:
        written = connection.execute(f"SELECT {columns} FROM {reader}(?, format = 'nd')" if form == "jsonl" else
                                     f"SELECT {columns} FROM {reader}(?)", [str(out)]).fetchall()  # fmt: skip
    assert sorted(written) == finished.rows(f"SELECT {columns} FROM summaries ORDER BY article_id")
    assert list(tmp_path.iterdir()) == [out]


def test_a_csv_file_has_no_formula(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "day.csv.gz"
    report = json.loads(run("export", DAY, "--format", "csv", "--out", str(out), "--answered-only", "--json").stdout)
    assert (report["rows"], report["by_built_in_engine"]) == (6, 0)
    with gzip.open(out, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["status"] for row in rows} == {"answered"}
    assert f"'{FORMULA}" in [row["title"] for row in rows]
    assert float(rows[0]["cost_usd"]) > 0
    assert rows[0]["input_tokens"].isdecimal()


def test_examples_for_fine_tuning_are_whole_answers_to_what_was_asked(own_copy: Finished, tmp_path: Path) -> None:
    out = tmp_path / "examples.jsonl"
    own_copy.execute("UPDATE raw_articles SET body = 'Another text.' WHERE article_id = 'a9'")
    done = run("export", f"{DAY}..{NEXT_DAY}", "--format", "finetune", "--out", str(out))
    assert done.exit_code == 0, done.output
    examples = [json.loads(line)["messages"] for line in out.read_text(encoding="utf-8").splitlines()]
    [(request_path,)] = own_copy.rows("SELECT path FROM batch_request_file")
    lines = [json.loads(line) for line in (own_copy.data / request_path).read_text(encoding="utf-8").splitlines()]
    asked = {json.dumps(line["body"]["messages"]): line["custom_id"] for line in lines}
    answers = dict(own_copy.rows("SELECT custom_id, text FROM completion"))
    assert len(examples) == 4  # ten, without four that have no answer, one that was cut, and one that has changed
    for *question, answer in examples:
        assert answer == {"role": "assistant", "content": answers[asked[json.dumps(question)]]}
    assert "4 without an answer (refused ones too), 1 with an answer that was cut, 1 whose article" in done.stdout
    assert "at least 10 examples" in done.stdout


def test_an_existing_file_stays_unless_the_user_wants_it_replaced(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "day.csv"
    out.write_text("mine")
    refused = run("export", DAY, "--format", "csv", "--out", str(out))
    assert (refused.exit_code, out.read_text()) == (1, "mine")
    nothing = run("export", NEXT_DAY, "--format", "csv", "--out", str(out), "--force")
    assert (nothing.exit_code, out.read_text()) == (1, "mine")
    assert "has no results of 2026-01-06" in nothing.stderr
    assert run("export", DAY, "--format", "csv", "--out", str(out), "--force").exit_code == 0
    assert out.read_text().startswith("partition_date,")
    assert run("export", "2026-01-09..2026-01-05", "--format", "csv", "--out", str(out)).exit_code == 2


@pytest.mark.parametrize("command", [("export", DAY, "--format", "csv", "--force"), ("report",)])
def test_a_file_that_cannot_be_written_is_named_and_a_pipe_stays_a_pipe(
    finished: Finished, tmp_path: Path, command: tuple[str, ...]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for out, what in (("pipe", "is no ordinary file"), ("missing/file", "There is no folder")):
        done = run(*command, "--out", str(tmp_path / out))
        assert (done.exit_code, done.stdout) == (1, "")
        assert what in done.stderr
        assert str(tmp_path / out).removesuffix("/file") in done.stderr
    assert (tmp_path / "pipe").is_fifo()
