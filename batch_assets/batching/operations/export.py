"""Writes the results of days to a file: the rows of a task's table, or examples for OpenAI's fine-tuning.

DuckDB writes the file: no text becomes an object of Python. A file is written under another name first, and then
renamed: a program that reads it finds all of it, or the earlier one.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import duckdb

from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.aliases import create_view_of_names
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.result_tables import tasks_with_results
from batch_assets.batching.planning.plan import planned_task
from batch_assets.batching.planning.request_lines import custom_id_sql, user_message_sql
from batch_assets.batching.planning.steps import steps_of
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.safety.formulas import without_formula_sql
from batch_assets.batching.sql_text import literal
from batch_assets.batching.task_day import TaskDay
from batch_assets.output_schema.columns import quoted

PARTIAL_PREFIX = ".batch_assets-export-"


class Format(StrEnum):
    """What is written."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"
    FINETUNE = "finetune"


COPY_OPTIONS = {
    Format.PARQUET: "FORMAT parquet, COMPRESSION zstd",
    Format.CSV: "FORMAT csv, HEADER",
    Format.JSONL: "FORMAT json",
    Format.FINETUNE: "FORMAT json",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}  # of CSV and JSON lines, by the name of the file
COUNT_ROWS = """
    SELECT count(*), count(*) FILTER (api = $built_in_engine)
    FROM {table} WHERE partition_date BETWEEN CAST($first AS DATE) AND CAST($last AS DATE) {answered}
"""
# In any order: a CSV or JSON file of a million texts in their order needs more memory than `memory_limit`.
ROWS = """
    SELECT {columns} FROM {table} WHERE partition_date BETWEEN CAST($first AS DATE) AND CAST($last AS DATE) {answered}
"""
# One row for each distinct request: equal articles share it.
FIND_EXAMPLES = """
    INSERT INTO example (partition_date, custom_id, step, status, api, finish_reason, article_id)
    SELECT
        CAST({day} AS DATE), custom_id, any_value(step), any_value(result.status), any_value(result.api),
        any_value(result.finish_reason), min(result.article_id)
    FROM {table} AS result JOIN batch_request USING (partition_date, article_id, custom_id)
    WHERE task = ? AND partition_date = CAST({day} AS DATE) GROUP BY custom_id
"""
CREATE_EXAMPLES = """
    CREATE OR REPLACE TEMP TABLE example (
        partition_date DATE, custom_id VARCHAR, step INTEGER, status VARCHAR, api VARCHAR, finish_reason VARCHAR,
        article_id VARCHAR
    );
    CREATE OR REPLACE TEMP TABLE fine_tuning (messages STRUCT(role VARCHAR, content VARCHAR)[]);
"""
FILL_EXAMPLES = """
    INSERT INTO fine_tuning (messages)
    SELECT [
        {{'role': 'system', 'content': CAST(? AS VARCHAR)}},
        {{'role': 'user', 'content': {message}}},
        {{'role': 'assistant', 'content': text}}
    ]
    FROM (
        SELECT raw_articles.*, example.custom_id AS asked, text, coalesce(old, {custom_id}) AS present
        FROM raw_articles JOIN example USING (partition_date, article_id)
        JOIN completion ON completion.custom_id = example.custom_id
        LEFT JOIN name_of_request ON new = {custom_id}
        WHERE source = ? AND partition_date = CAST(? AS DATE) AND step = ? AND example.status = 'answered'
            AND example.finish_reason IS DISTINCT FROM 'length'
    ) WHERE present = asked
"""


class ExportError(Exception):
    """Nothing was written; the message says why and what to do."""


@dataclass(frozen=True)
class Exported:
    """What was written. rows: of the table, or examples.

    left_out: how many distinct requests became no example, by the reason. by_built_in_engine: answers that no model
    gave.
    """

    rows: int
    by_built_in_engine: int
    left_out: dict[str, int] = field(default_factory=dict)


def export_days(
    database: Database,
    task: str,
    days: Sequence[str],
    target: Path,
    form: Format,
    *,
    source: str,
    answered_only: bool = False,
) -> Exported:
    """Write the results that the task has of these days to a file. source: whose articles it reads.

    Raises ExportError, and OSError.
    """
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=target.parent)) / "rows"
    try:
        exported = _write(database, task, days, partial, _options(form, target), form, source, answered_only)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
        partial.parent.rmdir()
    return exported


def _options(form: Format, target: Path) -> str:
    compression = COMPRESSIONS.get(target.suffix)
    if form is Format.PARQUET or compression is None:
        return COPY_OPTIONS[form]
    return f"{COPY_OPTIONS[form]}, COMPRESSION {compression}"


def _write(
    database: Database,
    task: str,
    days: Sequence[str],
    partial: Path,
    options: str,
    form: Format,
    source: str,
    answered_only: bool,
) -> Exported:
    period = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    nothing = ExportError(f"{task} has no results of {period}: materialize `{task}` first.")
    planned = {day: planned_task(database, TaskDay(task, day)) for day in days} if form is Format.FINETUNE else {}
    with database.reading() as connection:
        if task not in tasks_with_results(connection):
            raise nothing
        if form is Format.FINETUNE:
            return _write_examples(connection, task, planned, partial, options, source, nothing)
        names = {"table": quoted(task), "answered": "AND status = 'answered'" if answered_only else ""}
        of_days = {"first": days[0], "last": days[-1]}
        number, simulated = connection.execute(
            COUNT_ROWS.format(**names), {**of_days, "built_in_engine": BUILT_IN_ENGINE}
        ).fetchall()[0]
        if not number:
            raise nothing
        columns = "*" if form is not Format.CSV else ", ".join(_csv_columns(connection, task))
        _copy(connection, ROWS.format(columns=columns, **names), partial, options, of_days)
        return Exported(number, simulated)


def _csv_columns(connection: duckdb.DuckDBPyConnection, task: str) -> list[str]:
    """The columns as a CSV file has them: no text is a formula, and lists and objects are JSON."""
    described = connection.execute(f"DESCRIBE {quoted(task)}").fetchall()
    return [f"{_csv_column(quoted(name), kind)} AS {quoted(name)}" for name, kind, *_ in described]


def _csv_column(name: str, kind: str) -> str:
    if kind == "VARCHAR":
        return without_formula_sql(name)
    is_nested = kind.endswith("]") or kind.startswith(("STRUCT", "MAP"))
    return f"CASE WHEN {name} IS NOT NULL THEN to_json({name})::VARCHAR END" if is_nested else name


def _write_examples(
    connection: duckdb.DuckDBPyConnection,
    task: str,
    planned: dict[str, Task | None],
    partial: Path,
    options: str,
    source: str,
    nothing: ExportError,
) -> Exported:
    connection.execute(CREATE_EXAMPLES)
    create_view_of_names(connection)
    for day, asked in planned.items():
        if asked is None:
            continue
        _check_can_be_tuned(asked)
        connection.execute(FIND_EXAMPLES.format(table=quoted(task), day=f"'{day}'"), [task])
        for step in steps_of(asked):
            message, of_message = user_message_sql(step.task)
            custom_id, of_id = custom_id_sql(step.task, step.task.question_tail)
            statement = FILL_EXAMPLES.format(message=message, custom_id=custom_id)
            connection.execute(
                statement, [step.task.system_prompt, *of_message, *of_id, *of_id, source, day, step.number]
            )
    counts = """
        SELECT
            count(*), count(*) FILTER (status = 'answered' AND finish_reason = 'length'),
            count(*) FILTER (status = 'answered'), (SELECT count(*) FROM fine_tuning), count(*) FILTER (api = ?)
        FROM example
    """
    requests, cut, answered, examples, simulated = connection.execute(counts, [BUILT_IN_ENGINE]).fetchall()[0]
    if not requests:
        raise nothing
    left_out = {
        "not_answered": requests - answered,
        "cut": cut,
        "article_changed": answered - cut - examples,
    }
    if not examples:
        raise ExportError(f"None of {counted(requests, 'request')} is an example: {left_out_text(left_out)}.")
    _copy(connection, "SELECT messages FROM fine_tuning", partial, options, {})
    return Exported(examples, simulated, {reason: number for reason, number in left_out.items() if number})


def left_out_text(left_out: dict[str, int]) -> str:
    """The reasons in words."""
    words = {
        "not_answered": "without an answer (refused ones too)",
        "cut": "with an answer that was cut",
        "article_changed": "whose article has changed or was deleted",
    }
    return ", ".join(f"{number:,} {words[reason]}" for reason, number in left_out.items() if number) or "none left out"


def _check_can_be_tuned(task: Task) -> None:
    if task.is_vector:
        raise ExportError(f"The answers of {task.name} are vectors: there is nothing to tune a model with.")
    if task.image is not None:
        raise ExportError(f"{task.name} asks about images, which `--format finetune` does not write.")


def _copy(
    connection: duckdb.DuckDBPyConnection, statement: str, path: Path, options: str, parameters: dict[str, str]
) -> None:
    connection.execute("SET preserve_insertion_order = false")
    try:
        connection.execute(f"COPY ({statement}) TO {literal(str(path))} ({options})", parameters)
    finally:  # the instance is used again
        connection.execute("RESET preserve_insertion_order")
