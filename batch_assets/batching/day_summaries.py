"""A day's tables into `summaries`: one row per article, with its answer or why there is none."""

import duckdb

from batch_assets.batching.database import Database, transaction
from batch_assets.batching.request_state import find_states, state_counts

# The articles without their texts, and what became of their requests. One that came after the last plan has no request
# yet, and is owed one.
DAY_ARTICLES = """
    CREATE OR REPLACE TEMP TABLE day_article AS
    SELECT
        article.partition_date, article.article_id, article.title, article.url, article.published_at, custom_id,
        coalesce(state, 'owed') AS state, code, reasons
    FROM raw_articles AS article
    LEFT JOIN batch_request USING (partition_date, article_id)
    LEFT JOIN request_state USING (custom_id)
    WHERE article.partition_date = getvariable('day')
"""
# The day's answers lie together in `completion`, as they came: the others, of months perhaps, need not be read.
WHERE_THE_ANSWERS_LIE = """
    SET VARIABLE answers = (
        SELECT {'first': min(completion.rowid), 'last': max(completion.rowid)}
        FROM completion SEMI JOIN (SELECT custom_id FROM day_article WHERE state = 'answered') USING (custom_id)
    )
"""
SUMMARISED = """
    INSERT INTO summaries
    SELECT
        partition_date, article_id, title, url, published_at, completion.text, 'summarised', NULL, NULL,
        finish_reason, model, input_tokens, output_tokens, cost_usd, custom_id, batch_id, completed_at
    FROM completion JOIN day_article USING (custom_id)
    WHERE state = 'answered'
        AND completion.rowid BETWEEN getvariable('answers').first AND getvariable('answers').last
"""
NOT_SUMMARISED = """
    INSERT INTO summaries
        (partition_date, article_id, title, url, published_at, status, error_code, error_message, custom_id)
    SELECT partition_date, article_id, title, url, published_at, state, code, reasons, custom_id
    FROM day_article WHERE state <> 'answered'
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
                for statement in (DAY_ARTICLES, WHERE_THE_ANSWERS_LIE, SUMMARISED, NOT_SUMMARISED):
                    connection.execute(statement)
        return state_counts(connection)


def _is_pruned(connection: duckdb.DuckDBPyConnection) -> bool:
    statement = "SELECT 1 FROM pruned_day WHERE partition_date = getvariable('day')"
    return connection.execute(statement).fetchone() is not None
