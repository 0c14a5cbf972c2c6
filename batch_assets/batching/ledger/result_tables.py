"""The result tables: one for each task that a run has planned or collected, with the name of the task."""

import duckdb

from batch_assets.batching.task_day import FIRST_TASK

FIND_TASKS = """
    SELECT task FROM (
        SELECT task FROM day_plan UNION SELECT task FROM openai_batch UNION SELECT $first_task
    )
    WHERE task IN (SELECT table_name FROM duckdb_tables() WHERE database_name = current_database())
    ORDER BY task
"""


def tasks_with_results(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The tasks that have a result table."""
    return [task for (task,) in connection.execute(FIND_TASKS, {"first_task": FIRST_TASK}).fetchall()]


def create_view_of_results(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the temp view `result_row` (task, partition_date, article_id, custom_id, status) of all result tables."""
    rows = " UNION ALL ".join(
        f"SELECT '{task}' AS task, partition_date, article_id, custom_id, status FROM \"{task}\""
        for task in tasks_with_results(connection)
    )
    connection.execute(f"CREATE OR REPLACE TEMP VIEW result_row AS {rows}")
