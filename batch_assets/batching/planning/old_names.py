"""Requests that an earlier version named otherwise keep their names, so that nothing of them is bought again.

The first edition made the limit of an answer a part of the name. Such a request is known by its day's row in
`batch_request`: computed as it was then, from the article as it is now, the name is the same.
"""

import duckdb

from batch_assets.batching.ledger.aliases import days_of_old_names, enter_aliases, limits_of_old_plans
from batch_assets.batching.planning.request_lines import custom_id_sql
from batch_assets.batching.planning.task import Task


def keep_old_names(connection: duckdb.DuckDBPyConnection, task: Task, day: str) -> None:
    """Find the old names of the day's requests, once; before its rows in `batch_request` are replaced."""
    if day not in days_of_old_names(connection):
        return
    new, new_parameters = custom_id_sql(task, task.question_tail)
    connection.execute("CREATE OR REPLACE TEMP TABLE found_alias (old VARCHAR, new VARCHAR)")
    for limit in sorted({task.max_output_tokens, *limits_of_old_plans(connection)}):
        old, old_parameters = custom_id_sql(task, task.question_tail_of_the_first_edition(limit))
        connection.execute(
            f"""
            INSERT INTO found_alias (old, new)
            SELECT DISTINCT custom_id, {new}
            FROM raw_articles JOIN batch_request USING (partition_date, article_id)
            WHERE partition_date = CAST(? AS DATE) AND custom_id = {old}
            """,
            [*new_parameters, day, *old_parameters],
        )
    enter_aliases(connection, day)
