"""What was billed, grouped by what the user wants to know: the rows of `spending`, summed."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

import duckdb

from batch_assets.batching.ledger.day_spending import (
    COUNTED_SPENDING,
    KNOWN_COST,
    KNOWN_SAVING,
    SIMULATED_COST,
    TOKENS,
)
from batch_assets.batching.ledger.synchronous_calls import CALL_PREFIX


class CostGroup(StrEnum):
    """What costs are summed by. A month is the UTC month of the submission, as for budgets."""

    DAY = "day"
    MONTH = "month"
    TASK = "task"
    MODEL = "model"
    KIND = "kind"
    API = "api"


# One expression for each group; its value is the name of the group in the answer.
EXPRESSION = {
    CostGroup.DAY: "partition_date::VARCHAR",
    CostGroup.MONTH: "strftime(submitted_at, '%Y-%m')",
    CostGroup.TASK: "task",
    CostGroup.MODEL: "model",
    # what a batch bills beyond the requests' lines, what failed, and what was asked outside of a batch are apart
    CostGroup.KIND: f"CASE WHEN starts_with(batch_id, '{CALL_PREFIX}') THEN 'synchronous ' ELSE '' END || kind",
    CostGroup.API: "coalesce(api, 'unknown')",
}
COSTS = f"""
    SELECT
        {{groups}},
        sum(requests)::BIGINT, {TOKENS}, {KNOWN_COST}, {SIMULATED_COST}, {KNOWN_SAVING},
        coalesce(sum(input_tokens + output_tokens) FILTER (is_unpriced), 0)::BIGINT
    FROM {COUNTED_SPENDING}
    WHERE partition_date BETWEEN $first AND $last AND ($task IS NULL OR task = $task)
    GROUP BY ALL ORDER BY ALL
"""


@dataclass(frozen=True)
class Cost:
    """What was billed for a group. cost_usd: what is known; unpriced_tokens: those whose price is not known.

    simulated_cost_usd: of the built-in engine, which bills nothing; on a day that a model has answered, it does not
    count, and neither do its requests and tokens. saving_usd: of what was billed in batches, against
    the standard price.
    """

    group: tuple[str, ...]
    requests: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cost_usd: float
    simulated_cost_usd: float
    saving_usd: float
    unpriced_tokens: int


def costs(
    connection: duckdb.DuckDBPyConnection,
    first: str,
    last: str,
    by: tuple[CostGroup, ...],
    task: str | None = None,
) -> list[Cost]:
    """What was billed for the days from `first` to `last`, of this task or of all, by these groups, in their order."""
    statement = COSTS.format(groups=", ".join(EXPRESSION[group] for group in by))
    parameters = {"first": date.fromisoformat(first), "last": date.fromisoformat(last), "task": task}
    rows = connection.execute(statement, parameters).fetchall()
    return [Cost(tuple(row[: len(by)]), *row[len(by) :]) for row in rows]
