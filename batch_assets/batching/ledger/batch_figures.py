"""The batches of days, for users: also those of earlier rounds, and attempts that failed as a whole."""

from dataclasses import dataclass
from datetime import date, datetime

import duckdb

# The ledger keeps of an earlier attempt its id, and the events by which it began and ended.
BATCHES = """
    WITH of_days AS (
        SELECT * FROM openai_batch WHERE partition_date BETWEEN $first AND $last AND ($task IS NULL OR task = $task)
    ),
    cost AS (
        SELECT
            submission_id, batch_id, sum(cost_usd) AS cost_usd, sum(simulated_cost_usd) AS simulated_cost_usd,
            bool_or(cost_usd IS NULL AND simulated_cost_usd IS NULL) AS is_unpriced
        FROM spending GROUP BY submission_id, batch_id
    ),
    earlier AS (
        SELECT submission_id, unnest(earlier_batch_ids) AS earlier_id FROM of_days
    ),
    event AS (
        SELECT
            submission_id, batch_id, min(moved_at) AS began_at, max(moved_at) AS left_at, arg_max(message, moved_at)
                AS message
        FROM submission_event WHERE batch_id IS NOT NULL GROUP BY submission_id, batch_id
    ),
    batch AS (
        SELECT
            submission_id, task, partition_date, batch_id, api, state, status, round, shard, submitted_at,
            in_progress_at, ended_at, requests_total, requests_completed, requests_failed, message
        FROM of_days WHERE batch_id IS NOT NULL
        UNION ALL
        SELECT
            of_days.submission_id, task, partition_date, earlier_id, api, 'requeued', 'failed', round, shard,
            began_at, NULL, left_at, NULL, NULL, NULL, event.message
        FROM of_days JOIN earlier USING (submission_id)
        LEFT JOIN event ON event.submission_id = of_days.submission_id AND event.batch_id = earlier_id
    )
    SELECT
        batch.task, batch.partition_date::VARCHAR, batch.batch_id, api, batch_request_file.model, state, status,
        batch.round, batch_request_file.step, submitted_at, in_progress_at, ended_at,
        coalesce(requests_total, batch_request_file.requests), requests_completed, requests_failed,
        CASE WHEN NOT coalesce(is_unpriced, false) THEN cost_usd END, simulated_cost_usd, message
    FROM batch JOIN batch_request_file USING (submission_id)
    LEFT JOIN cost ON cost.submission_id = batch.submission_id AND cost.batch_id = batch.batch_id
    ORDER BY batch.partition_date, batch.task, submitted_at NULLS FIRST, batch.shard, batch.batch_id
"""


@dataclass(frozen=True)
class BatchFigures:
    """A batch as the ledger knows it. Times are UTC without zone; a figure that the API did not return is None.

    state: of its submission; `requeued` of an attempt that failed as a whole and was sent again. status: of the API.
    cost_usd: None if it is not collected yet or the price is not known. message: the API's last one about it.
    """

    task: str
    day: str
    batch_id: str
    api: str | None
    model: str
    state: str
    status: str | None
    round: int
    step: int
    submitted_at: datetime | None
    in_progress_at: datetime | None
    ended_at: datetime | None
    requests_total: int
    requests_completed: int | None
    requests_failed: int | None
    cost_usd: float | None
    simulated_cost_usd: float | None
    message: str | None


def batches_of_days(
    connection: duckdb.DuckDBPyConnection, first: str, last: str, task: str | None = None
) -> list[BatchFigures]:
    """All batches of the days from `first` to `last`, of this task or of all, in the order of their submission."""
    parameters = {"first": date.fromisoformat(first), "last": date.fromisoformat(last), "task": task}
    return [BatchFigures(*row) for row in connection.execute(BATCHES, parameters).fetchall()]
