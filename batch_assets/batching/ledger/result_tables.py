"""The result tables: one for each task that a run has planned or collected, with the name of the task."""

import re

import duckdb

from batch_assets.batching.ledger.schema import TABLES
from batch_assets.batching.task_day import FIRST_TASK

TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
# Before and after the columns of the answer; key: partition_date, article_id.
KEY_COLUMNS = {"partition_date": "DATE NOT NULL", "article_id": "VARCHAR NOT NULL"}
# Of the article. With an output schema, they have this prefix: a field of an answer may well be a title.
ARTICLE_COLUMNS = {"title": "VARCHAR", "url": "VARCHAR", "published_at": "TIMESTAMP"}
ARTICLE_PREFIX = "article_"
COLUMNS_AFTER = {
    "status": "VARCHAR NOT NULL",  # answered, in_flight, pending, blocked, failed, cancelled
    "error_code": "VARCHAR",
    "error_message": "VARCHAR",
    "finish_reason": "VARCHAR",
    "model": "VARCHAR",
    "api": "VARCHAR",  # that answered
    "input_tokens": "BIGINT",
    "output_tokens": "BIGINT",
    "cost_usd": "DOUBLE",  # of the request, which equal articles share
    "custom_id": "VARCHAR",
    "batch_id": "VARCHAR",
    "answered_at": "TIMESTAMP",
    "task_version": "VARCHAR",  # of the task that the answer is of; NULL: an earlier version did not record it
}
FIXED_COLUMNS = (*KEY_COLUMNS, *COLUMNS_AFTER)
ADDED_LATER = ("task_version",)  # a table of an earlier version lacks it

FIND_TASKS = """
    SELECT task FROM (
        SELECT task FROM day_plan UNION SELECT task FROM openai_batch UNION SELECT $first_task
    )
    WHERE task IN (SELECT table_name FROM duckdb_tables() WHERE database_name = current_database())
    ORDER BY task
"""


def why_not_a_name(table: str) -> str | None:
    """Why no task may have this name, as a sentence; None if it may."""
    if not TABLE_NAME.fullmatch(table):
        return (
            f"A task cannot have the name {table!r}: its table of results has the same name. Use up to 63 letters a to "
            "z, digits and underscores, with a letter first."
        )
    if table in TABLES and table != FIRST_TASK:  # the ledger had a table of the only task
        return f"A task cannot have the name {table}: the database has another table of this name."
    return None


def article_columns(*, has_schema: bool) -> dict[str, str]:
    """The columns of the article in the table of a task, and their types."""
    prefix = ARTICLE_PREFIX if has_schema else ""
    return {f"{prefix}{name}": kind for name, kind in ARTICLE_COLUMNS.items()}


def reserved_columns(*, has_schema: bool) -> tuple[str, ...]:
    """The columns of the table of a task beside those of the answers, by name."""
    return (*FIXED_COLUMNS, *article_columns(has_schema=has_schema))


def tasks_with_results(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The tasks that have a result table."""
    return [task for (task,) in connection.execute(FIND_TASKS, {"first_task": FIRST_TASK}).fetchall()]


def create_view_of_results(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the temp view `result_row` of all result tables: task, partition_date, article_id, custom_id, status,
    error_code, error_message, finish_reason, batch_id.
    """
    rows = " UNION ALL ".join(
        f"SELECT '{task}' AS task, partition_date, article_id, custom_id, status, error_code, error_message, "
        f'finish_reason, batch_id FROM "{task}"'
        for task in tasks_with_results(connection)
    )
    connection.execute(f"CREATE OR REPLACE TEMP VIEW result_row AS {rows}")
