"""The figures of days, by task: articles by status, requests, tokens, costs, and how long OpenAI took.

Everything that shows numbers of a day reads them here: the metadata of the assets, `batch-assets status`, the report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import duckdb

from batch_assets.batching.ledger.database import parsed
from batch_assets.batching.ledger.day_spending import AMOUNTS, COUNTED_SPENDING, TOKENS, spending_of_day
from batch_assets.batching.ledger.result_tables import create_view_of_results
from batch_assets.batching.ledger.states import OPEN, UNSENT, RequestState
from batch_assets.batching.task_day import TaskDay

# The status in the result table counts, unless a later plan has the request in an open submission. A day without
# results yet has the state of its requests. Also `reasons.py` reads these articles.
ARTICLE = """
    open_request AS (
        SELECT custom_id, bool_or(list_contains($sent_states, state)) AS is_sent
        FROM in_flight_request JOIN openai_batch USING (submission_id)
        WHERE list_contains($open_states, state) GROUP BY custom_id
    ),
    planned AS (
        SELECT task, partition_date, article_id, custom_id FROM batch_request
        WHERE partition_date BETWEEN $first AND $last
            AND ($only::DATE[] IS NULL OR list_contains($only::DATE[], partition_date))
    ),
    result AS (
        SELECT * FROM result_row
        WHERE partition_date BETWEEN $first AND $last
            AND ($only::DATE[] IS NULL OR list_contains($only::DATE[], partition_date))
    ),
    joined AS (
        SELECT
            task, partition_date, article_id, coalesce(planned.custom_id, result.custom_id) AS custom_id,
            planned.custom_id IS NULL OR planned.custom_id IS NOT DISTINCT FROM result.custom_id AS is_same,
            status AS was, finish_reason, error_code, error_message, batch_id, is_sent
        FROM planned FULL JOIN result USING (task, partition_date, article_id)
        LEFT JOIN open_request ON open_request.custom_id = planned.custom_id
    ),
    -- the table of all answers is large: the results of a finished day say which batch has answered
    bought AS (
        SELECT custom_id, batch_id AS answered_by FROM completion SEMI JOIN (
            SELECT custom_id FROM joined WHERE NOT is_same OR was IS NULL OR was = 'in_flight'
        ) USING (custom_id)
    ),
    article AS (
        SELECT
            task, partition_date, article_id, custom_id, finish_reason,
            CASE
                WHEN is_same AND was = 'answered' THEN 'answered'
                WHEN is_sent THEN 'in_flight'
                WHEN is_same AND was <> 'in_flight' THEN was
                WHEN is_sent IS NOT NULL THEN 'in_flight'
                WHEN answered_by IS NOT NULL THEN 'answered'
                ELSE 'pending'
            END AS status,
            is_same AND status = was AS is_as_written,
            CASE WHEN is_as_written THEN error_code END AS error_code,
            CASE WHEN is_as_written THEN error_message END AS error_message,
            coalesce(answered_by, batch_id) AS answered_by
        FROM joined LEFT JOIN bought USING (custom_id)
    )
"""
ARTICLES = f"""
    WITH {ARTICLE}
    SELECT
        task, partition_date,
        count(*) AS articles,
        count(*) FILTER (status = 'answered') AS answered,
        count(*) FILTER (status = 'in_flight') AS in_flight,
        count(*) FILTER (status = 'pending') AS pending,
        count(*) FILTER (status = 'blocked') AS blocked,
        count(*) FILTER (status = 'cancelled') AS cancelled,
        count(*) FILTER (status = 'failed') AS failed,
        count(DISTINCT custom_id) AS requests,
        -- answered, and no batch or call of this day and task was billed for it
        count(DISTINCT custom_id) FILTER (
            status = 'answered' AND (task, partition_date, answered_by) NOT IN (
                SELECT (task, partition_date, batch_id) FROM spending
            )
        ) AS requests_cached,
        count(*) FILTER (status = 'answered' AND finish_reason = 'length') AS cut
    FROM article GROUP BY task, partition_date
"""
SPENT = f"""
    SELECT task, partition_date, {TOKENS}, {AMOUNTS}
    FROM {COUNTED_SPENDING} WHERE partition_date BETWEEN $first AND $last GROUP BY task, partition_date
"""
TIMES = """
    SELECT
        task, partition_date,
        count(*) FILTER (batch_id IS NOT NULL) AS batches,
        count(*) FILTER (batch_id IS NOT NULL AND ended_at IS NULL AND list_contains($open_states, state))
            AS batches_running,
        min(submitted_at) AS submitted_at,
        CASE WHEN count(*) = count(ended_at) THEN max(ended_at) END AS ended_at,
        max(date_diff('millisecond', submitted_at, in_progress_at)) / 1000 AS seconds_queued,
        max(date_diff('millisecond', in_progress_at, ended_at)) / 1000 AS seconds_running,
        max(date_diff('millisecond', submitted_at, ended_at)) / 1000 AS seconds_at_api
    FROM openai_batch
    WHERE partition_date BETWEEN $first AND $last AND batch_id IS NOT NULL
    GROUP BY task, partition_date
"""
FIGURES = f"""
    WITH of_articles AS ({ARTICLES}), of_spending AS ({SPENT}), of_batches AS ({TIMES})
    SELECT
        task, partition_date::VARCHAR AS day,
        coalesce(articles, 0), coalesce(answered, 0), coalesce(in_flight, 0), coalesce(pending, 0),
        coalesce(blocked, 0), coalesce(cancelled, 0), coalesce(failed, 0), coalesce(requests, 0),
        coalesce(requests_cached, 0), coalesce(cut, 0),
        coalesce(input_tokens, 0), coalesce(cached_input_tokens, 0), coalesce(cache_write_tokens, 0),
        coalesce(output_tokens, 0), coalesce(reasoning_tokens, 0),
        CASE WHEN input_tokens IS NULL THEN 0.0 ELSE cost_usd END, coalesce(simulated_cost_usd, 0.0),
        CASE WHEN input_tokens IS NULL THEN 0.0 ELSE saving_usd END,
        coalesce(batches, 0), coalesce(batches_running, 0), submitted_at, ended_at,
        seconds_queued, seconds_running, seconds_at_api
    FROM of_articles FULL JOIN of_spending USING (task, partition_date)
    FULL JOIN of_batches USING (task, partition_date)
    WHERE ($task IS NULL OR task = $task)
        AND ($only::DATE[] IS NULL OR list_contains($only::DATE[], partition_date))
    ORDER BY partition_date, task
"""
# The same for a day that a run has just collected, in four small statements: a run of many days waits for each.
COLLECTED = """
    SELECT
        count(*), count(*) FILTER (status = 'answered'), count(*) FILTER (status = 'in_flight'),
        count(*) FILTER (status = 'pending'), count(*) FILTER (status = 'blocked'),
        count(*) FILTER (status = 'cancelled'), count(*) FILTER (status = 'failed'), count(DISTINCT custom_id),
        count(DISTINCT custom_id) FILTER (status = 'answered' AND batch_id NOT IN (
            SELECT batch_id FROM spending WHERE task = $task AND partition_date = $day
        )),
        count(*) FILTER (status = 'answered' AND finish_reason = 'length')
    FROM {table} WHERE partition_date = $day
"""
UNFINISHED = """
    SELECT partition_date FROM result_row WHERE status IN ('in_flight', 'pending', 'blocked')
    UNION SELECT partition_date FROM openai_batch WHERE list_contains($open_states, state)
    UNION SELECT partition_date FROM day_plan ANTI JOIN result_row USING (task, partition_date)
    ORDER BY partition_date
"""
LAST_DAYS = """
    FROM (
        SELECT partition_date FROM batch_request WHERE $task IS NULL OR task = $task
        UNION SELECT partition_date FROM result_row WHERE $task IS NULL OR task = $task
        UNION SELECT partition_date FROM spending WHERE $task IS NULL OR task = $task
        UNION SELECT partition_date FROM openai_batch WHERE batch_id IS NOT NULL AND ($task IS NULL OR task = $task)
        ORDER BY partition_date DESC LIMIT $count
    )
    ORDER BY partition_date
"""
# As users see them: what is done, what waits, what ended otherwise.
STATUSES = (
    RequestState.ANSWERED,
    *(RequestState.IN_FLIGHT, RequestState.PENDING, RequestState.BLOCKED),
    *(RequestState.CANCELLED, RequestState.FAILED),
)


@dataclass(frozen=True)
class DayFigures:
    """The figures of a day and task.

    articles: all of the day; the six after it are their states. requests: distinct ones: equal articles share one.
    requests_cached: answered ones that this day and task did not buy. cut: answered articles whose answer ended at the
    limit on output tokens.
    Tokens and USD: everything that was billed for the day, earlier prompts and refreshes included. cost_usd: None if
    the price of a model is not known. simulated_cost_usd: of the built-in engine, which bills nothing. saving_usd:
    of what was billed in batches, against the standard price; None if the cost is not known.
    submitted_at: of the first batch; ended_at: of the last one, None while one runs (UTC, without zone). The seconds
    are those of the slowest batch: before the API began with it, from then to its end, and both together; None if the
    API does not return the times.
    """

    task: str
    day: str
    articles: int = 0
    answered: int = 0
    in_flight: int = 0
    pending: int = 0
    blocked: int = 0
    cancelled: int = 0
    failed: int = 0
    requests: int = 0
    requests_cached: int = 0
    cut: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = 0.0
    simulated_cost_usd: float = 0.0
    saving_usd: float | None = 0.0
    batches: int = 0
    batches_running: int = 0
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    seconds_queued: float | None = None
    seconds_running: float | None = None
    seconds_at_api: float | None = None

    @property
    def is_finished(self) -> bool:
        """Whether no article waits for anything."""
        return not (self.in_flight or self.pending or self.blocked or self.batches_running)

    @property
    def by_status(self) -> dict[str, int]:
        """How many articles are in each state; without those in which none is."""
        return {str(state): number for state in RequestState if (number := getattr(self, state))}

    @property
    def cut_share(self) -> float:
        """The share of the answers that are cut, 0 … 1."""
        return self.cut / self.answered if self.answered else 0.0


def figures_of_days(
    connection: duckdb.DuckDBPyConnection,
    first: str,
    last: str,
    task: str | None = None,
    *,
    only: Sequence[str] | None = None,
) -> list[DayFigures]:
    """The figures of the days from `first` to `last`, of this task or of all, in the order of day and task.

    only: of these days only; the others cost no time. A day that no run has planned has no figures.
    """
    create_view_of_results(connection)
    parameters = {**parameters_of_articles(first, last, only), "task": task}
    return [DayFigures(*row) for row in connection.execute(FIGURES, parameters).fetchall()]


def parameters_of_articles(first: str, last: str, only: Sequence[str] | None = None) -> dict[str, object]:
    """The parameters of a statement with `ARTICLE`."""
    return {
        "first": date.fromisoformat(first),
        "last": date.fromisoformat(last),
        "only": None if only is None else [date.fromisoformat(day) for day in only],
        "open_states": list(OPEN),
        "sent_states": [state for state in OPEN if state not in UNSENT],
    }


def last_days(connection: duckdb.DuckDBPyConnection, count: int, task: str | None = None) -> list[str]:
    """The last `count` days that have figures, of this task or of all, the earliest first."""
    create_view_of_results(connection)
    rows = connection.execute(LAST_DAYS, {"count": count, "task": task}).fetchall()
    return [day.isoformat() for (day,) in rows]


def unfinished_days(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The days of which an article waits, or a batch runs, the earliest first."""
    create_view_of_results(connection)
    return [day.isoformat() for (day,) in connection.execute(UNFINISHED, {"open_states": list(OPEN)}).fetchall()]


def figures_of_collected_day(connection: duckdb.DuckDBPyConnection, day: TaskDay) -> DayFigures:
    """The same of a day whose results a run has just written: all figures of articles are of its result table."""
    of_day: dict[str, object] = {"task": day.task, "day": date.fromisoformat(day.day)}
    counts = connection.execute(parsed(COLLECTED.format(table=f'"{day.task}"')), of_day).fetchall()[0]
    spent = spending_of_day(connection, day)
    period = {"first": of_day["day"], "last": of_day["day"], "open_states": list(OPEN)}
    of_tasks = connection.execute(parsed(TIMES), period).fetchall()
    times = next((row[2:] for row in of_tasks if row[0] == day.task), (0, 0, None, None, None, None, None))
    row: tuple[Any, ...] = (
        *(*day, *counts),
        *(spent.input_tokens, spent.cached_input_tokens, spent.cache_write_tokens),
        *(spent.output_tokens, spent.reasoning_tokens),
        *(spent.cost_usd, spent.simulated_cost_usd, spent.saving_usd),
        *times,
    )
    return DayFigures(*row)
