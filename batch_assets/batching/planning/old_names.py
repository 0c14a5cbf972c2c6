"""Requests of an earlier version keep their custom_ids, so that no run buys them again.

In the first version, the limit of an answer was a part of the custom_id. `keep_old_names` computes the id of each
article as that version did. If the day's row in `batch_request` has this id, the request keeps it.
"""

import duckdb

from batch_assets.batching.ledger.aliases import days_of_old_names, limits_of_old_plans, record_aliases
from batch_assets.batching.planning.request_lines import custom_id_sql
from batch_assets.batching.planning.task import Task
from batch_assets.batching.task_day import FIRST_SOURCE, FIRST_TASK


def keep_old_names(connection: duckdb.DuckDBPyConnection, task: Task, day: str) -> None:
    """Find the old custom_ids of the day's requests, once. Call it before the day's rows in `batch_request` change."""
    if task.name != FIRST_TASK or day not in days_of_old_names(connection):
        return
    new_id, new_parameters = custom_id_sql(task, task.question_tail)
    connection.execute("CREATE OR REPLACE TEMP TABLE found_alias (old VARCHAR, new VARCHAR)")
    for limit in sorted({task.max_output_tokens, *limits_of_old_plans(connection)}):
        old_id, old_parameters = custom_id_sql(task, task.question_tail_of_the_first_version(limit))
        connection.execute(
            f"""
            INSERT INTO found_alias (old, new)
            SELECT DISTINCT custom_id, {new_id}
            FROM raw_articles JOIN batch_request USING (partition_date, article_id)
            WHERE source = ? AND task = ? AND partition_date = CAST(? AS DATE) AND custom_id = {old_id}
            """,
            [*new_parameters, FIRST_SOURCE, *task.on(day), *old_parameters],
        )
    record_aliases(connection, task.on(day))
