"""Why articles have no answer, over days: those that failed and those that are blocked, by code."""

from dataclasses import dataclass

import duckdb

from batch_assets.batching.ledger.day_figures import ARTICLE, parameters_of_articles
from batch_assets.batching.ledger.outcomes import REMEDY
from batch_assets.batching.ledger.result_tables import create_view_of_results

# The articles are those that `figures_of_days` counts. Their code is that of the result table; the ledger has the
# message and the HTTP status of the last failure with this code.
REASONS = f"""
    WITH {ARTICLE},
    unanswered AS (
        SELECT task, partition_date, status, custom_id, error_code AS code
        FROM article WHERE status IN ('failed', 'blocked') AND ($task IS NULL OR task = $task)
    ),
    failure AS (
        SELECT custom_id, code, unnest(arg_max({{'message': message, 'http_status': http_status}}, failed_at))
        FROM failed_request SEMI JOIN unanswered USING (custom_id, code) GROUP BY custom_id, code
    )
    SELECT
        task, partition_date::VARCHAR AS day, status, code, count(*) AS articles, min(message) AS message,
        {REMEDY} AS remedy
    FROM unanswered LEFT JOIN failure USING (custom_id, code)
    GROUP BY task, partition_date, status, code, remedy
    ORDER BY partition_date, task, status, articles DESC, code, remedy
"""


@dataclass(frozen=True)
class Reason:
    """Why articles of a day and task have no answer.

    status: `failed` or `blocked`. code: of the result table; None: of blocked articles that a process asks outside of
    a batch now. message: that of one of them, as the API or the run wrote it. remedy: what the user can do about such a
    failure, in a sentence of `outcomes.py`.
    """

    task: str
    day: str
    status: str
    code: str | None
    articles: int
    message: str | None
    remedy: str


def reasons_of_days(
    connection: duckdb.DuckDBPyConnection, first: str, last: str, task: str | None = None
) -> list[Reason]:
    """The reasons of the days from `first` to `last`, of this task or of all, in the order of day and task.

    The numbers of failed and of blocked articles of a day and task are those of `figures_of_days`.
    """
    create_view_of_results(connection)
    parameters = {**parameters_of_articles(first, last), "task": task}
    return [Reason(*row) for row in connection.execute(REASONS, parameters).fetchall()]
