"""What each step of a task billed for a day."""

from typing import NamedTuple

import duckdb

from batch_assets.batching.ledger.database import parsed
from batch_assets.batching.task_day import TaskDay

SPENDING_BY_STEP = """
    SELECT
        coalesce(step, 0) AS step, spending.model, sum(spending.requests)::BIGINT,
        coalesce(sum(spending.requests) FILTER (kind = 'answered'), 0)::BIGINT, sum(input_tokens)::BIGINT,
        sum(output_tokens)::BIGINT, sum(cost_usd), sum(simulated_cost_usd)
    FROM spending LEFT JOIN batch_request_file USING (submission_id)  -- a synchronous call has no file
    WHERE spending.task = $task AND spending.partition_date = CAST($day AS DATE)
    GROUP BY ALL ORDER BY ALL
"""


class StepSpending(NamedTuple):
    """What the requests of a step of a task billed for a day. An amount is None if no price was known, or none was
    billed."""

    step: int
    model: str
    requests: int
    answered: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    simulated_cost_usd: float | None


def spending_by_step(connection: duckdb.DuckDBPyConnection, day: TaskDay) -> list[StepSpending]:
    """What each step of the task billed for the day, by step and model."""
    rows = connection.execute(parsed(SPENDING_BY_STEP), day._asdict()).fetchall()
    return [StepSpending(*row) for row in rows]
