"""What was billed for days: the one rule by which rows of `spending` count in figures, costs and reports."""

from dataclasses import dataclass
from typing import NamedTuple

import duckdb

from batch_assets.batching.counting import USD_DECIMALS
from batch_assets.batching.ledger.synchronous_calls import CALL_PREFIX
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.provider.prices import STANDARD_PER_BATCH_PRICE
from batch_assets.batching.task_day import TaskDay

# A row without tokens costs nothing at any price.
IS_UNPRICED = "cost_usd IS NULL AND simulated_cost_usd IS NULL AND input_tokens + output_tokens > 0"
# Rows of the built-in engine count only if no model has answered for the day and task. A synchronous call has the
# standard price, and saves nothing.
COUNTED_SPENDING = f"""(
    SELECT
        *, {IS_UNPRICED} AS is_unpriced,
        CASE WHEN starts_with(batch_id, '{CALL_PREFIX}') THEN 0 ELSE cost_usd END
            * {STANDARD_PER_BATCH_PRICE - 1} AS saving_usd
    FROM spending
    WHERE api IS DISTINCT FROM '{BUILT_IN_ENGINE}' OR (task, partition_date) NOT IN (
        SELECT (task, partition_date) FROM spending WHERE api IS DISTINCT FROM '{BUILT_IN_ENGINE}'
    )
)"""
# The sums of such rows. The known amounts leave out what has no price; `AMOUNTS` has NULL if there is any.
TOKENS = """
    sum(input_tokens)::BIGINT AS input_tokens, sum(cached_input_tokens)::BIGINT AS cached_input_tokens,
    sum(cache_write_tokens)::BIGINT AS cache_write_tokens, sum(output_tokens)::BIGINT AS output_tokens,
    sum(reasoning_tokens)::BIGINT AS reasoning_tokens
"""
KNOWN_COST, SIMULATED_COST, KNOWN_SAVING = (
    f"round(coalesce(sum({column}), 0), {USD_DECIMALS})" for column in ("cost_usd", "simulated_cost_usd", "saving_usd")
)
AMOUNTS = f"""
    CASE WHEN NOT bool_or(is_unpriced) THEN {KNOWN_COST} END AS cost_usd,
    {SIMULATED_COST} AS simulated_cost_usd,
    CASE WHEN NOT bool_or(is_unpriced) THEN {KNOWN_SAVING} END AS saving_usd
"""
SPENDING_OF_DAY = f"""
    SELECT
        sum(requests)::BIGINT, {TOKENS},
        coalesce(sum(input_tokens + output_tokens) FILTER (kind = 'unattributed'), 0)::BIGINT, {AMOUNTS}
    FROM {COUNTED_SPENDING} WHERE task = $task AND partition_date = CAST($day AS DATE)
"""


@dataclass(frozen=True)
class DaySpending:
    """What all batches of a task's day billed.

    Requests and tokens are those of models. Those of the built-in engine count only if no model has answered on the
    day.
    cost_usd: None if the price of a model is not known.
    simulated_cost_usd: of the built-in engine, which bills nothing.
    saving_usd: of batches, against the standard price; None like `cost_usd`. A synchronous call has the standard price.
    unattributed_tokens: billed tokens that belong to no request: usage that batches report beyond their lines, and
        lines beside the one that counts for a request.
    """

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    unattributed_tokens: int = 0
    cost_usd: float | None = 0.0
    simulated_cost_usd: float = 0.0
    saving_usd: float | None = 0.0


def spending_of_day(connection: duckdb.DuckDBPyConnection, day: TaskDay) -> DaySpending:
    """The sum of the day's rows of `spending`."""
    row = connection.execute(SPENDING_OF_DAY, day._asdict()).fetchone()
    return DaySpending() if row is None or row[0] is None else DaySpending(*row)


class UnattributedTokens(NamedTuple):
    """The tokens that a batch billed beyond the lines that count for its requests."""

    batch_id: str
    input_tokens: int
    output_tokens: int


def unattributed_batches(connection: duckdb.DuckDBPyConnection, day: TaskDay) -> list[UnattributedTokens]:
    """The batches of the day that billed more than the lines that count for their requests."""
    rows = connection.execute(
        """
        SELECT batch_id, input_tokens, output_tokens FROM spending
        WHERE kind = 'unattributed' AND task = $task AND partition_date = CAST($day AS DATE) ORDER BY batch_id
        """,
        day._asdict(),
    ).fetchall()
    return [UnattributedTokens(*row) for row in rows]
