"""`batch-assets reload` gives back what the tables lack, and never takes an answer away or records a cost twice."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from batch_assets.batching.provider.prices import batch_rates
from batch_assets_tests.cli.conftest import Finished, run

TABLES = ("completion", "failed_request", "spending", "quarantined_line", "openai_batch", "summaries")
STATES = "SELECT status, count(*) FROM summaries GROUP BY ALL ORDER BY ALL"


def contents(day: Finished) -> dict[str, list[Any]]:
    """All rows, but for the order, the times of recording, and messages, in which the key is hidden if it is known."""
    columns = {"spending": "* EXCLUDE (recorded_at)", "failed_request": "* EXCLUDE (message)"}
    return {table: sorted(map(str, day.rows(f"SELECT {columns.get(table, '*')} FROM {table}"))) for table in TABLES}


def reload(*arguments: str | Path) -> dict[str, Any]:
    done = run("reload", *map(str, arguments), "--json")
    assert done.exit_code == 0, done.output
    [one] = json.loads(done.stdout)["batches"]
    return dict(one)


def test_a_file_whose_results_are_in_the_tables_changes_nothing(own_copy: Finished) -> None:
    before = contents(own_copy)
    one = reload(own_copy.result)
    assert (one["batch_id"], one["answers"], one["answers_present"]) == (own_copy.batch_id, 0, 6)
    assert (one["failures"], one["quarantined"], one["is_billing_added"]) == (0, 0, False)
    assert contents(own_copy) == before


@pytest.mark.parametrize("table", ["completion", "failed_request", "spending", "quarantined_line"])
def test_deleted_rows_are_there_again(own_copy: Finished, tmp_path: Path, table: str) -> None:
    before = contents(own_copy)
    own_copy.execute(f"DELETE FROM {table}")
    packed = tmp_path / "downloaded.jsonl.gz"  # found by its requests: its name says nothing
    packed.write_bytes(gzip.compress(own_copy.result.read_bytes()))
    one = reload(packed)
    added = {
        "completion": one["answers"], "failed_request": one["failures"], "spending": 3 * one["is_billing_added"],
        "quarantined_line": one["quarantined"],
    }  # fmt: skip
    after = contents(own_copy)
    without_line = table == "failed_request"  # a request without a line: the file may be one of two
    assert len(after[table]) == len(before[table]) - without_line
    assert added[table] == len(after[table])
    if table != "quarantined_line":  # which has the path of the file that was given
        assert set(after[table]) <= set(before[table])
    assert {**after, table: []} == {**before, table: []}
    assert reload(packed)["answers"] == 0
    assert contents(own_copy) == after


def test_answers_that_were_missing_are_billed_once(own_copy: Finished, tmp_path: Path) -> None:
    """As after a result file that was cut: the batch is collected, with half of its spending."""
    lines = own_copy.result.read_bytes().splitlines(keepends=True)
    bodies = [json.loads(line)["response"]["body"] for line in lines]
    usages = [body["usage"] for body in bodies if "usage" in body]
    rates = batch_rates("gpt-6-luna")
    assert rates is not None
    inputs, outputs = (sum(usage[name] for usage in usages) for name in ("prompt_tokens", "completion_tokens"))
    own_copy.execute("DELETE FROM completion; DELETE FROM spending; DELETE FROM failed_request")
    own_copy.execute("UPDATE openai_batch SET input_tokens = NULL, output_tokens = NULL")
    half = tmp_path / f"{own_copy.batch_id}_output.jsonl"
    half.write_bytes(b"".join(lines[:7]))
    assert reload(half)["is_billing_added"]
    assert reload(own_copy.result)["is_billing_added"]
    assert not reload(own_copy.result)["is_billing_added"]
    sums = own_copy.rows("SELECT sum(input_tokens), sum(output_tokens), sum(cost_usd) FROM spending")[0]
    assert sums == (inputs, outputs, pytest.approx(inputs * rates.input_usd + outputs * rates.output_usd))


def test_an_answer_stays_and_one_of_the_built_in_engine_does_not(own_copy: Finished) -> None:
    own_copy.execute("UPDATE completion SET text = 'Newer.', batch_id = 'batch_later', request_id = NULL")
    own_copy.execute("""
        UPDATE completion SET api = 'local', finish_reason = 'stop' WHERE custom_id = (
            SELECT min(custom_id) FROM completion WHERE finish_reason <> 'length'
        )
    """)
    assert reload(own_copy.result)["answers"] == 1
    assert own_copy.rows("SELECT count(*) FROM completion WHERE text = 'Newer.'") == [(5,)]
    assert own_copy.rows("SELECT count(*) FROM completion WHERE api = 'local'") == [(0,)]


def test_the_results_of_a_batch_that_is_not_collected_are_answers_and_cost_later(own_copy: Finished) -> None:
    own_copy.execute("DELETE FROM completion; DELETE FROM failed_request; DELETE FROM spending")
    own_copy.execute("UPDATE openai_batch SET state = 'missing'")
    done = run("reload", str(own_copy.result))
    assert "6 answers added" in done.stdout
    assert "The batch is still missing: its cost is recorded when it is collected." in done.stdout
    assert own_copy.rows("SELECT count(*) FROM spending") == [(0,)]
    assert own_copy.rows("SELECT count(*) FROM failed_request") == [(0,)]
    assert own_copy.rows("SELECT state FROM openai_batch") == [("missing",)]


def test_a_request_file_that_was_not_sent_does_not_buy_an_answer_again(own_copy: Finished) -> None:
    own_copy.execute("DELETE FROM completion")
    own_copy.execute("""
        INSERT INTO openai_batch (submission_id, partition_date, plan, round, shard, state, attempt)
        VALUES ('s2', '2026-01-05', 2, 1, 0, 'planned', 1);
        INSERT INTO batch_request_file BY NAME
            SELECT * REPLACE ('s2' AS submission_id, 'requests/s2.jsonl' AS path) FROM batch_request_file;
        INSERT INTO in_flight_request (custom_id, submission_id) SELECT custom_id, 's2' FROM batch_request
    """)
    unsent = own_copy.data / "requests" / "s2.jsonl"
    unsent.write_text("{}\n")
    assert reload(own_copy.result)["withdrawn_files"] == 1
    assert own_copy.rows("SELECT state FROM openai_batch WHERE submission_id = 's2'") == [("withdrawn",)]
    assert not unsent.exists()


def test_a_file_of_another_api_or_batch_is_refused(own_copy: Finished, tmp_path: Path) -> None:
    before = contents(own_copy)
    lines = [json.loads(line) for line in own_copy.result.read_bytes().splitlines()]

    def refused(file: Path, *options: str) -> str:
        done = run("reload", str(file), *options)
        assert done.exit_code == 1
        assert contents(own_copy) == before
        return done.stderr

    assert "There is no file" in refused(tmp_path / "none.jsonl")
    page = tmp_path / "page.jsonl"
    page.write_text("<html>Sign in</html>")
    assert "is not a file of JSON lines" in refused(page)
    foreign = tmp_path / f"{own_copy.batch_id}_output.jsonl"
    foreign.write_text(json.dumps({**lines[9], "custom_id": "x"}))
    assert "is of no batch of this database" in refused(foreign)
    local = tmp_path / "local.jsonl"
    lines[9]["response"]["body"]["system_fingerprint"] = "fp_local_template"
    local.write_text(json.dumps(lines[9]))
    assert "its answers are of the local Batch API" in refused(local, "--batch", own_copy.batch_id)
    old = tmp_path / "old.jsonl"
    lines[9]["response"]["body"] |= {"system_fingerprint": None, "created": 1_600_000_000}
    old.write_text(json.dumps(lines[9]))
    assert "ran at another time" in refused(old, "--batch", own_copy.batch_id)
    assert "The ledger knows no batch batch_none" in refused(own_copy.result, "--batch", "batch_none")


def test_a_cut_gzip_file_is_refused_in_a_sentence(own_copy: Finished, tmp_path: Path) -> None:
    before, cut = contents(own_copy), tmp_path / "cut_output.jsonl.gz"
    cut.write_bytes(gzip.compress(own_copy.result.read_bytes())[:-20])
    done = run("reload", str(cut), "--batch", own_copy.batch_id)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "cut_output.jsonl.gz is not a whole gzip file" in done.stderr
    assert contents(own_copy) == before
