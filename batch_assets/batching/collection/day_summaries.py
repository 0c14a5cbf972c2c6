"""Writes a day's `summaries`: one row for each article, with its answer or the reason why there is none."""

from datetime import datetime
from typing import NamedTuple

import duckdb

from batch_assets.batching.ledger.database import Database, fixed_join_order, parsed, transaction
from batch_assets.batching.ledger.requests import DayStates, RequestStateRules, find_states

# The articles without their bodies. An article that is newer than the last plan has no request yet.
DAY_ARTICLES = """
    CREATE OR REPLACE TEMP MACRO day_article(day) AS TABLE
    SELECT article_id, title, url, published_at, custom_id
    FROM raw_articles LEFT JOIN day_request(day) USING (article_id)
    WHERE partition_date = day::DATE
"""
ANSWERED = """
    INSERT INTO summaries (
        partition_date, article_id, title, url, published_at, summary, status, finish_reason, model, api, input_tokens,
        output_tokens, cost_usd, custom_id, batch_id, answered_at
    )
    SELECT
        CAST($day AS DATE), article_id, title, url, published_at, completion.text, 'answered', finish_reason,
        model, api, input_tokens, output_tokens, cost_usd, custom_id, batch_id, completed_at
    FROM valid_completion($api) AS completion JOIN day_article($day) USING (custom_id)
    WHERE place BETWEEN $first AND $last
"""
FIND_UNANSWERED_ARTICLES = """
    CREATE OR REPLACE TEMP TABLE unanswered_article AS
    SELECT article_id FROM day_article($day) LEFT JOIN unanswered_request USING (custom_id)
    WHERE state IS NOT NULL OR custom_id IS NULL
"""
# The last text of an article stays until its replacement is loaded, also if the prompt or the article has changed: a
# budget may keep a run from sending the new request.
KEEP_TEXTS = """
    CREATE OR REPLACE TEMP TABLE kept_summary AS
    SELECT article_id, summary, finish_reason, model, api, input_tokens, output_tokens, cost_usd, batch_id, answered_at
    FROM summaries SEMI JOIN unanswered_article USING (article_id)
    WHERE partition_date = CAST($day AS DATE) AND summary IS NOT NULL AND counts_at(api, $api)
"""
# A refresh has an answer, which stays, too.
NOT_ANSWERED = """
    INSERT INTO summaries (
        partition_date, article_id, title, url, published_at, summary, status, error_code, error_message, finish_reason,
        model, api, input_tokens, output_tokens, cost_usd, custom_id, batch_id, answered_at
    )
    SELECT
        CAST($day AS DATE), article_id, title, url, published_at, kept.summary, coalesce(state, 'pending'),
        coalesce(blocked_request.code, failure.code), coalesce(blocked_request.message, reasons), finish_reason,
        model, api, input_tokens, output_tokens, cost_usd, article.custom_id, batch_id, answered_at
    FROM day_article($day) AS article SEMI JOIN unanswered_article USING (article_id)
    LEFT JOIN unanswered_request USING (custom_id) LEFT JOIN failure USING (custom_id)
    LEFT JOIN blocked_request USING (custom_id) LEFT JOIN kept_summary AS kept USING (article_id)
    ANTI JOIN (
        SELECT custom_id FROM valid_completion($api) SEMI JOIN unanswered_request USING (custom_id)
        WHERE place BETWEEN $first AND $last
    ) AS replaced_later ON replaced_later.custom_id = article.custom_id
"""


class WrittenDay(NamedTuple):
    """How many of the day's distinct requests are in each state, and when the pending ones may be sent.

    blocked: how many are blocked by what, see `BlockedBy`. next_attempt_at: UTC, without zone; None: at once, or none
    is pending.
    """

    requests: dict[str, int]
    blocked: dict[str, int]
    next_attempt_at: datetime | None


def write_summaries(database: Database, day: str, rules: RequestStateRules) -> WrittenDay:
    """Replace the day in `summaries`. A day whose articles were pruned keeps what it has."""
    with database.writing() as connection:
        with transaction(connection):
            states = find_states(connection, day, rules)
            if not is_pruned_day(connection, day):
                _replace(connection, states)
        return WrittenDay(states.counts(connection), states.blocked(connection), states.next_attempt_at(connection))


def _replace(connection: duckdb.DuckDBPyConnection, states: DayStates) -> None:
    connection.execute(parsed(DAY_ARTICLES))
    (unanswered,) = connection.execute(parsed(FIND_UNANSWERED_ARTICLES), {"day": states.day}).fetchone() or (0,)
    if unanswered:
        connection.execute(parsed(KEEP_TEXTS), {"day": states.day, "api": states.rules.api})
    connection.execute("DELETE FROM summaries WHERE partition_date = CAST(? AS DATE)", [states.day])
    parameters = {"day": states.day, **states.answer_range}
    with fixed_join_order(connection):
        connection.execute(parsed(ANSWERED), parameters)
    if unanswered:
        connection.execute(parsed(NOT_ANSWERED), parameters)


def is_pruned_day(connection: duckdb.DuckDBPyConnection, day: str) -> bool:
    """Whether `prune` deleted the articles of the day, and none were ingested since."""
    statement = "SELECT 1 FROM pruned_day WHERE partition_date = CAST(? AS DATE)"
    return connection.execute(statement, [day]).fetchone() is not None
