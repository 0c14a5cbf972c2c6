"""What was billed, what is reserved, and what a budget still allows.

`spending` is the record: a row for each batch and kind, added in the transaction that collects the batch, and never
changed. Budgets, reports and estimates read it and nothing else. A budget is checked in the transaction that claims,
so that runs at the same time cannot exceed it together.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import duckdb

from batch_assets.batching.api_identity import BUILT_IN_ENGINE
from batch_assets.batching.ledger.states import RESERVED
from batch_assets.batching.prices import BYTES_PER_TOKEN, BatchRates
from batch_assets.batching.remote import now_utc

TASK = "summaries"  # who pays, beside the day

# `billed_line` has a row for each line of the files of the batches in `ended_batch`, with its tokens and cost.
RECORD_LINES = """
    INSERT INTO spending (
        batch_id, submission_id, partition_date, task, kind, api, model, submitted_at, requests,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        cost_usd, simulated_cost_usd, recorded_at
    )
    SELECT
        ended_batch.batch_id, submission_id, partition_date, $task, kind, any_value(openai_batch.api),
        any_value(ended_batch.model), any_value(coalesce(submitted_at, claimed_at, $now)), count(*),
        coalesce(sum(billed_line.input_tokens), 0), coalesce(sum(billed_line.cached_input_tokens), 0),
        coalesce(sum(billed_line.cache_write_tokens), 0), coalesce(sum(billed_line.output_tokens), 0),
        coalesce(sum(billed_line.reasoning_tokens), 0),
        CASE WHEN NOT any_value(is_simulated) THEN sum(cost) END, CASE WHEN any_value(is_simulated) THEN sum(cost) END,
        $now
    FROM billed_line JOIN ended_batch USING (batch) JOIN openai_batch USING (submission_id)
    WHERE ended_batch.batch_id NOT IN (SELECT batch_id FROM spending)
    GROUP BY ended_batch.batch_id, submission_id, partition_date, kind
"""
# What the batch says that it used, and no line does: lines that could not be read, or that the API did not write.
RECORD_UNATTRIBUTED = """
    INSERT INTO spending (
        batch_id, submission_id, partition_date, task, kind, api, model, submitted_at, requests,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        cost_usd, simulated_cost_usd, recorded_at
    )
    WITH line AS (
        SELECT
            batch_id, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
            sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens
        FROM spending SEMI JOIN ended_batch USING (batch_id) GROUP BY batch_id
    ),
    rest AS (
        SELECT
            ended_batch.batch_id, submission_id, ended_batch.model, is_simulated, openai_batch.partition_date,
            openai_batch.api, coalesce(openai_batch.submitted_at, openai_batch.claimed_at, $now) AS submitted_at,
            input_usd, cached_input_usd, output_usd,
            greatest(coalesce(openai_batch.input_tokens, 0) - coalesce(line.input_tokens, 0), 0) AS more_input,
            greatest(
                coalesce(openai_batch.cached_input_tokens, 0) - coalesce(line.cached_input_tokens, 0), 0
            ) AS more_cached,
            greatest(coalesce(openai_batch.output_tokens, 0) - coalesce(line.output_tokens, 0), 0) AS more_output,
            greatest(
                coalesce(openai_batch.reasoning_tokens, 0) - coalesce(line.reasoning_tokens, 0), 0
            ) AS more_reasoning
        FROM ended_batch JOIN openai_batch USING (submission_id)
        LEFT JOIN line ON line.batch_id = ended_batch.batch_id
    ),
    priced AS (
        SELECT
            *, least(more_cached, more_input) AS cached,
            (more_input - cached) * input_usd + cached * cached_input_usd + more_output * output_usd AS cost
        FROM rest
    )
    SELECT
        batch_id, submission_id, partition_date, $task, 'unattributed', api, model, submitted_at, 0,
        more_input, cached, 0, more_output, more_reasoning,
        CASE WHEN NOT is_simulated THEN cost END, CASE WHEN is_simulated THEN cost END, $now
    FROM priced
    WHERE more_input + more_output > 0
        AND batch_id NOT IN (SELECT batch_id FROM spending WHERE kind = 'unattributed')
"""
# What an earlier version did not record counts for every API. Of the built-in engine, the simulated cost counts.
SPENT = """
    SELECT coalesce(sum(coalesce(cost_usd, simulated_cost_usd)), 0)
    FROM spending WHERE (api = $api OR api IS NULL)
"""
RESERVED_COST = """
    SELECT coalesce(sum(expected_cost_usd), 0)
    FROM openai_batch WHERE api = $api AND list_contains($reserved, state)
"""


def record_spending(connection: duckdb.DuckDBPyConnection) -> None:
    """Add what the batches in the temp table `ended_batch` billed; adds nothing for a batch that was recorded before.

    Call it in the transaction that collects these batches, with the temp table `billed_line`.
    """
    parameters = {"task": TASK, "now": now_utc()}
    connection.execute(RECORD_LINES, parameters)
    connection.execute(RECORD_UNATTRIBUTED, parameters)


@dataclass(frozen=True)
class DaySpending:
    """What was billed for a day, by all batches that were submitted for it.

    cost_usd: None where the price of a model is not known. simulated_cost_usd: of the built-in engine, which bills
        nothing. unattributed_tokens: what batches reported beyond their lines.
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

    @property
    def reasoning_share(self) -> float:
        """Of the output tokens, how many the model used for thinking."""
        return self.reasoning_tokens / self.output_tokens if self.output_tokens else 0.0


def spending_of_day(connection: duckdb.DuckDBPyConnection, day: str) -> DaySpending:
    """The day's rows of `spending`, added up."""
    row = connection.execute(
        """
        SELECT
            sum(requests)::BIGINT, sum(input_tokens)::BIGINT, sum(cached_input_tokens)::BIGINT,
            sum(cache_write_tokens)::BIGINT, sum(output_tokens)::BIGINT, sum(reasoning_tokens)::BIGINT,
            coalesce(sum(input_tokens + output_tokens) FILTER (kind = 'unattributed'), 0)::BIGINT,
            CASE WHEN bool_and(cost_usd IS NOT NULL OR simulated_cost_usd IS NOT NULL)
                THEN coalesce(sum(cost_usd), 0) END,
            coalesce(sum(simulated_cost_usd), 0)
        FROM spending WHERE partition_date = CAST(? AS DATE)
        """,
        [day],
    ).fetchone()
    return DaySpending() if row is None or row[0] is None else DaySpending(*row)


class Unattributed(NamedTuple):
    """What a batch reported beyond its lines."""

    batch_id: str
    input_tokens: int
    output_tokens: int


def unattributed_batches(connection: duckdb.DuckDBPyConnection, day: str | None) -> list[Unattributed]:
    """The batches of the day, or of all days, that reported more than their lines."""
    rows = connection.execute(
        """
        SELECT batch_id, input_tokens, output_tokens FROM spending
        WHERE kind = 'unattributed' AND ($day IS NULL OR partition_date = CAST($day AS DATE)) ORDER BY batch_id
        """,
        {"day": day},
    ).fetchall()
    return [Unattributed(*row) for row in rows]


@dataclass(frozen=True)
class Budget:
    """What may be spent, in USD; None: no limit. A month is a UTC month of submission."""

    max_cost_usd_per_day: float | None = None
    max_cost_usd_per_month: float | None = None

    @property
    def is_set(self) -> bool:
        return self.max_cost_usd_per_day is not None or self.max_cost_usd_per_month is not None


@dataclass(frozen=True)
class Used:
    """USD: what was billed, and what the submissions between claim and end are expected to cost."""

    spent_usd: float
    reserved_usd: float

    @property
    def total_usd(self) -> float:
        return self.spent_usd + self.reserved_usd


def used_on_day(connection: duckdb.DuckDBPyConnection, day: str, api: str) -> Used:
    """Everything that was spent on the day at this API, earlier prompts and refreshes included."""
    return _used(connection, "partition_date = CAST($day AS DATE)", "partition_date = CAST($day AS DATE)", api, day=day)


def used_in_month(connection: duckdb.DuckDBPyConnection, moment: datetime, api: str) -> Used:
    """What was submitted to this API in the UTC month of `moment` (UTC, without zone)."""
    return _used(
        connection,
        "date_trunc('month', submitted_at) = date_trunc('month', CAST($moment AS TIMESTAMP))",
        "date_trunc('month', claimed_at) = date_trunc('month', CAST($moment AS TIMESTAMP))",
        api,
        moment=moment,
    )


def _used(connection: duckdb.DuckDBPyConnection, spent_when: str, reserved_when: str, api: str, **when: object) -> Used:
    spent = connection.execute(f"{SPENT} AND {spent_when}", {"api": api, **when}).fetchone()
    parameters = {"api": api, "reserved": list(RESERVED), **when}
    reserved = connection.execute(f"{RESERVED_COST} AND {reserved_when}", parameters).fetchone()
    assert spent is not None
    assert reserved is not None
    return Used(float(spent[0]), float(reserved[0]))


def why_over_budget(
    connection: duckdb.DuckDBPyConnection,
    budget: Budget,
    *,
    day: str,
    api: str,
    moment: datetime,
    expected_usd: float | None,
    model: str,
) -> str | None:
    """The sentence that says which limit another `expected_usd` would exceed; None if it exceeds none."""
    if not budget.is_set:
        return None
    if expected_usd is None:
        return (
            f"The price of {model} in batches at {api} is not known, so no budget can hold. Give it in `prices` of the "
            "task, choose another model, or set no budget."
        )
    limits = (
        (f"{day}", "BATCH_ASSETS_MAX_COST_USD", budget.max_cost_usd_per_day, used_on_day(connection, day, api)),
        (
            f"{moment:%Y-%m}",
            "BATCH_ASSETS_MAX_COST_USD_PER_MONTH",
            budget.max_cost_usd_per_month,
            used_in_month(connection, moment, api),
        ),
    )
    for period, setting, limit, used in limits:
        if limit is not None and used.total_usd + expected_usd > limit:
            return (
                f"Another ${expected_usd:.4f} (expected) would exceed the ${limit:.4f} that {setting} allows for "
                f"{period}: ${used.spent_usd:.4f} is spent and ${used.reserved_usd:.4f} is in flight. Raise the limit, "
                "choose another model, or have fewer articles."
            )
    return None


@dataclass(frozen=True)
class Calibration:
    """How many tokens requests of a model really had: of input per byte of the request file, of output per request."""

    input_tokens_per_byte: float
    output_tokens_per_request: float


def calibration(connection: duckdb.DuckDBPyConnection, model: str) -> Calibration | None:
    """From what models billed; None before the first batch. The built-in engine's token counts calibrate nothing."""
    row = connection.execute(
        """
        WITH batch AS (
            SELECT
                submission_id, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
                sum(spending.requests) AS requests
            FROM spending WHERE model = $model AND api <> $built_in GROUP BY submission_id
        )
        SELECT sum(input_tokens) / sum(bytes), sum(output_tokens) / sum(batch.requests)
        FROM batch JOIN batch_request_file USING (submission_id)
        WHERE batch.requests = batch_request_file.requests AND input_tokens > 0 AND output_tokens > 0
        """,
        {"model": model, "built_in": BUILT_IN_ENGINE},
    ).fetchone()
    return Calibration(row[0], row[1]) if row and row[0] is not None else None


def expected_cost_usd(
    rates: BatchRates | None, measured: Calibration | None, *, file_bytes: int, requests: int, max_output_tokens: int
) -> float | None:
    """What a request file will cost, by what was measured, or else by its bytes and the limit on its output."""
    if rates is None:
        return None
    tokens_per_byte = measured.input_tokens_per_byte if measured else 1 / BYTES_PER_TOKEN
    output_tokens = requests * measured.output_tokens_per_request if measured else max_output_tokens
    return file_bytes * tokens_per_byte * rates.input_usd + output_tokens * rates.output_usd
