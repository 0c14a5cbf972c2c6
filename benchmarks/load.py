"""Result files → tables: our code, a loop of `json.loads` into Arrow tables, and only reading the files."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow

from batch_assets.batching.collection.day_results import write_results as write_day
from batch_assets.batching.collection.ended_batches import EndedBatch, in_groups
from batch_assets.batching.collection.load import Loaded, load_results
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.requests import RequestStateRules
from benchmarks.data import DAY, NO_LIMIT, RESULTS, TASK, write_results

ENDED_AT = datetime.fromisoformat("2026-01-06")  # as the tables have it: UTC, without zone
ROWS_AT_ONCE = 50_000
COMPLETION = pyarrow.schema(
    [
        *((name, pyarrow.string()) for name in ("custom_id", "text", "finish_reason", "model")),
        *((name, pyarrow.int64()) for name in ("input_tokens", "cached_input_tokens", "output_tokens")),
        ("reasoning_tokens", pyarrow.int64()),
        ("cost_usd", pyarrow.float64()),
        ("batch_id", pyarrow.string()),
        ("request_id", pyarrow.string()),
        ("completed_at", pyarrow.timestamp("us")),
    ]
)
FAILED = pyarrow.schema(
    [
        *((name, pyarrow.string()) for name in ("custom_id", "batch_id", "code", "message")),
        ("http_status", pyarrow.int32()),
        ("retryable", pyarrow.bool_()),
        ("superseded", pyarrow.bool_()),
        ("failed_at", pyarrow.timestamp("us")),
    ]
)
SUMMARIES = """
    INSERT INTO summaries (
        partition_date, article_id, title, url, published_at, summary, status, error_code, error_message, finish_reason,
        model, input_tokens, output_tokens, cost_usd, custom_id, batch_id, answered_at
    )
    SELECT
        article.partition_date, article.article_id, article.title, article.url, article.published_at, completion.text,
        CASE WHEN completion.custom_id IS NULL THEN 'pending' ELSE 'answered' END, code, message,
        finish_reason, model, completion.input_tokens, completion.output_tokens, completion.cost_usd, custom_id,
        completion.batch_id, completed_at
    FROM raw_articles AS article
    LEFT JOIN batch_request USING (partition_date, article_id)
    LEFT JOIN completion USING (custom_id)
    LEFT JOIN failed_request USING (custom_id)
    WHERE article.partition_date = CAST($day AS DATE)
"""


def make_results(database_path: str, folder: Path) -> list[tuple[str, list[Path]]]:
    """For each request file of a planned day: the id of its submission, and result files as of an ended batch."""
    folder.mkdir(parents=True, exist_ok=True)
    with Database(database_path).writing() as connection:
        keys = [key for (key,) in connection.execute("SELECT submission_id FROM openai_batch").fetchall()]
        connection.execute(
            """
            UPDATE openai_batch SET state = 'ended', batch_id = 'batch_' || submission_id, submitted_at = $ended_at
            """,
            {"ended_at": ENDED_AT},
        )
        return [(key, write_results(connection, key, folder / f"batch_{key}")) for key in keys]


def by_kind(paths: list[Path]) -> dict[str, Path]:
    return dict(zip(("output", "errors"), paths, strict=False))


def ours(database_path: str, results: list[tuple[str, list[Path]]]) -> int:
    """Load the batches and write the day's summaries, as the asset does; returns the answers."""
    database = Database(database_path)
    ended = [
        EndedBatch(key, f"batch_{key}", TASK.model, "completed", ENDED_AT, by_kind(paths)) for key, paths in results
    ]
    loaded: dict[str, Loaded] = {}
    for group in in_groups(ended):
        with database.writing() as connection, transaction(connection):
            loaded |= load_results(connection, group)
    write_day(database, RESULTS, DAY, RequestStateRules())
    return sum(batch.answered for batch in loaded.values())


def stdlib(database_path: str, results: list[tuple[str, list[Path]]]) -> int:
    """The same rows, in one transaction; without checks for unknown or repeated lines."""
    answered = 0
    with Database(database_path, memory_limit=NO_LIMIT).writing() as connection:
        connection.execute("BEGIN")
        for key, paths in results:
            completions: list[tuple[Any, ...]] = []
            failures: list[tuple[Any, ...]] = []
            for path in paths:
                with path.open("rb") as file:
                    for line in file:
                        _append_row(json.loads(line), f"batch_{key}", completions, failures)
                        if len(completions) == ROWS_AT_ONCE:
                            answered += _insert(connection, "completion", COMPLETION, completions)
            answered += _insert(connection, "completion", COMPLETION, completions)
            _insert(connection, "failed_request", FAILED, failures)
            connection.execute("DELETE FROM in_flight_request WHERE submission_id = $1", [key])
            connection.execute(
                "UPDATE openai_batch SET state = 'collected', collected_at = now() WHERE submission_id = $1", [key]
            )
        connection.execute(SUMMARIES, {"day": DAY})
        connection.execute("COMMIT")
    return answered


def _append_row(
    result: dict[str, Any], batch_id: str, completions: list[tuple[Any, ...]], failures: list[tuple[Any, ...]]
) -> None:
    response = result["response"]
    body, status = response["body"], response["status_code"]
    if status != 200:
        error = body["error"]
        code = error["code"] or error["type"]
        failures.append((result["custom_id"], batch_id, code, error["message"], status, status >= 500, False, ENDED_AT))
        return
    choice, usage = body["choices"][0], body["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    cost = (usage["prompt_tokens"] - cached) * 5e-8 + cached * 5e-9 + usage["completion_tokens"] * 25e-8
    completions.append(
        (
            result["custom_id"], choice["message"]["content"].strip(), choice["finish_reason"], body["model"],
            usage["prompt_tokens"], cached, usage["completion_tokens"],
            usage["completion_tokens_details"]["reasoning_tokens"], cost, batch_id, response["request_id"], ENDED_AT,
        )
    )  # fmt: skip


def _insert(
    connection: duckdb.DuckDBPyConnection, table: str, schema: pyarrow.Schema, rows: list[tuple[Any, ...]]
) -> int:
    if not rows:
        return 0
    columns = [pyarrow.array(values, field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)]
    connection.register("loaded", pyarrow.Table.from_arrays(columns, schema=schema))
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM loaded")
    connection.unregister("loaded")
    inserted = len(rows)
    rows.clear()
    return inserted


def raw(results: list[tuple[str, list[Path]]]) -> int:
    """Read the same bytes and do nothing else; returns their number."""
    read = 0
    for _, paths in results:
        for path in paths:
            with path.open("rb", buffering=0) as file:
                while block := file.read(1 << 20):
                    read += len(block)
    return read
