"""A day's tables into `summaries`: one row per article, with its answer or why there is none."""

import duckdb

from batch_assets.batching.database import Database, joins_as_written, transaction
from batch_assets.batching.request_state import find_states, state_counts

# The articles without their texts. One that came after the last plan has no request yet.
DAY_ARTICLES = """
    CREATE OR REPLACE TEMP VIEW day_article AS
    SELECT article_id, title, url, published_at, custom_id
    FROM raw_articles LEFT JOIN day_request USING (article_id)
    WHERE partition_date = getvariable('day')
"""
SUMMARISED = """
    INSERT INTO summaries
    SELECT
        getvariable('day'), article_id, title, url, published_at, completion.text, 'summarised', NULL, NULL,
        finish_reason, model, input_tokens, output_tokens, cost_usd, custom_id, batch_id, completed_at
    FROM completion JOIN day_article USING (custom_id)
    WHERE completion.rowid BETWEEN getvariable('answers').first AND getvariable('answers').last
"""
NOT_SUMMARISED = """
    INSERT INTO summaries
        (partition_date, article_id, title, url, published_at, status, error_code, error_message, custom_id)
    SELECT
        getvariable('day'), article_id, title, url, published_at, coalesce(state, 'owed'), code, reasons, custom_id
    FROM day_article LEFT JOIN unanswered_request USING (custom_id) LEFT JOIN failure USING (custom_id)
    WHERE state IS NOT NULL OR custom_id IS NULL
"""


def write_summaries(database: Database, day: str, max_rounds: int) -> dict[str, int]:
    """Replace the day in `summaries`; returns how many of its distinct requests are in which state.

    A day whose articles were pruned keeps what it has.
    """
    with database.writing() as connection:
        with transaction(connection):
            find_states(connection, day, max_rounds)
            if not _is_pruned(connection):
                connection.execute("DELETE FROM summaries WHERE partition_date = getvariable('day')")
                connection.execute(DAY_ARTICLES)
                with joins_as_written(connection):
                    connection.execute(SUMMARISED)
                connection.execute(NOT_SUMMARISED)
        return state_counts(connection)


def _is_pruned(connection: duckdb.DuckDBPyConnection) -> bool:
    statement = "SELECT 1 FROM pruned_day WHERE partition_date = getvariable('day')"
    return connection.execute(statement).fetchone() is not None
