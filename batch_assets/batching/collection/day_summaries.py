"""A day's tables into `summaries`: one row per article, with its answer or why there is none."""

import duckdb

from batch_assets.batching.ledger.database import Database, fixed_join_order, transaction
from batch_assets.batching.ledger.requests import Question, find_states, state_counts

# The articles without their texts. One that came after the last plan has no request yet.
DAY_ARTICLES = """
    CREATE OR REPLACE TEMP VIEW day_article AS
    SELECT article_id, title, url, published_at, custom_id
    FROM raw_articles LEFT JOIN day_request USING (article_id)
    WHERE partition_date = getvariable('day')
"""
ANSWERED = """
    INSERT INTO summaries (
        partition_date, article_id, title, url, published_at, summary, status, finish_reason, model, api, input_tokens,
        output_tokens, cost_usd, custom_id, batch_id, answered_at
    )
    SELECT
        getvariable('day'), article_id, title, url, published_at, valid_completion.text, 'answered', finish_reason,
        model, api, input_tokens, output_tokens, cost_usd, custom_id, batch_id, completed_at
    FROM valid_completion JOIN day_article USING (custom_id)
    WHERE place BETWEEN getvariable('answers').first AND getvariable('answers').last
"""
# An answer that is being replaced stays until its replacement is loaded.
NOT_ANSWERED = """
    INSERT INTO summaries
        (partition_date, article_id, title, url, published_at, status, error_code, error_message, custom_id)
    SELECT
        getvariable('day'), article_id, title, url, published_at, coalesce(state, 'pending'), code, reasons,
        day_article.custom_id
    FROM day_article LEFT JOIN unanswered_request USING (custom_id) LEFT JOIN failure USING (custom_id)
    ANTI JOIN (
        SELECT custom_id FROM valid_completion SEMI JOIN unanswered_request USING (custom_id)
        WHERE place BETWEEN getvariable('answers').first AND getvariable('answers').last
    ) AS replaced_later ON replaced_later.custom_id = day_article.custom_id
    WHERE state IS NOT NULL OR day_article.custom_id IS NULL
"""


def write_summaries(database: Database, day: str, question: Question) -> dict[str, int]:
    """Replace the day in `summaries`; returns how many of its distinct requests are in which state.

    A day whose articles were pruned keeps what it has.
    """
    with database.writing() as connection:
        with transaction(connection):
            find_states(connection, day, question)
            if not _is_pruned(connection):
                connection.execute("DELETE FROM summaries WHERE partition_date = getvariable('day')")
                connection.execute(DAY_ARTICLES)
                with fixed_join_order(connection):
                    connection.execute(ANSWERED)
                connection.execute(NOT_ANSWERED)
        return state_counts(connection)


def _is_pruned(connection: duckdb.DuckDBPyConnection) -> bool:
    statement = "SELECT 1 FROM pruned_day WHERE partition_date = getvariable('day')"
    return connection.execute(statement).fetchone() is not None
