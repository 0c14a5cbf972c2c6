"""What was billed, what is reserved, and what a budget still allows.

The table `spending` is the record of what was billed (see `billing`). Budgets and reports read it and nothing else. A
budget is checked in the transaction that claims, so that runs at the same time cannot exceed it together.

A cost that was not known when it was recorded is worked out when a budget is checked, by the prices of that moment. As
long as these are not known either, no budget can hold, and nothing is submitted under one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

import duckdb

from batch_assets.batching.collection.token_costs import cost_usd
from batch_assets.batching.ledger.expected_cost import SizeOfFile, expected_cost
from batch_assets.batching.ledger.states import RESERVED
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.provider.prices import ModelPrice, batch_rates
from batch_assets.batching.safety.outside_text import as_code

# What an earlier version did not record counts for every API. Of the built-in engine, the simulated cost counts.
SPENT = """
    SELECT
        model, coalesce(sum(coalesce(cost_usd, simulated_cost_usd)), 0),
        coalesce(sum(input_tokens) FILTER (is_unpriced), 0)::BIGINT,
        coalesce(sum(cached_input_tokens) FILTER (is_unpriced), 0)::BIGINT,
        coalesce(sum(cache_write_tokens) FILTER (is_unpriced), 0)::BIGINT,
        coalesce(sum(output_tokens) FILTER (is_unpriced), 0)::BIGINT
    FROM (
        SELECT *, cost_usd IS NULL AND simulated_cost_usd IS NULL AS is_unpriced
        FROM spending WHERE (api = $api OR api IS NULL) AND {of_the_period}
    )
    GROUP BY model
"""
# `expected_cost_usd` is NULL for what was not claimed with a known price: batches that were taken in, for example.
RESERVATIONS = """
    SELECT expected_cost_usd, model, bytes, requests, max_output_tokens
    FROM openai_batch JOIN batch_request_file USING (submission_id)
    WHERE (api = $api OR api IS NULL) AND list_contains($reserved, state) AND {of_the_period}
"""
OF_THE_DAY = "partition_date = CAST($day AS DATE)"
# What is claimed and not submitted yet counts in any month that is asked for: it may be submitted in it.
SUBMITTED_IN_THE_MONTH = "date_trunc('month', coalesce(submitted_at, $moment)) = date_trunc('month', $moment)"


@dataclass(frozen=True)
class DaySpending:
    """What was billed for a day, by all batches that were submitted for it.

    Requests and tokens are those of models; of the built-in engine only where no model has answered on the day.
    cost_usd: None where the price of a model is not known. simulated_cost_usd: of the built-in engine, which bills
        nothing. unattributed_tokens: what was billed, and no request's outcome accounts for: what batches reported
        beyond their lines, and lines beside the one that counts for a request.
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
        FROM spending WHERE partition_date = CAST($day AS DATE)
            AND (api IS DISTINCT FROM $built_in_engine OR NOT EXISTS (
                FROM spending WHERE partition_date = CAST($day AS DATE) AND api IS DISTINCT FROM $built_in_engine
            ))
        """,
        {"day": day, "built_in_engine": BUILT_IN_ENGINE},
    ).fetchone()
    return DaySpending() if row is None or row[0] is None else DaySpending(*row)


class Unattributed(NamedTuple):
    """What a batch billed beyond the lines that count for its requests."""

    batch_id: str
    input_tokens: int
    output_tokens: int


def unattributed_batches(connection: duckdb.DuckDBPyConnection, day: str | None) -> list[Unattributed]:
    """The batches of the day, or of all days, that billed more than the lines that count for their requests."""
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
    """USD: what was billed, and what the submissions from the claim to the end are expected to cost.

    A batch that was lost or abandoned may have been billed: it stays reserved until it is found and collected.
    unpriced: the models of which something was billed, or is reserved, at a price that is not known; it is in neither
        amount.
    """

    spent_usd: float
    reserved_usd: float
    unpriced: tuple[str, ...] = ()

    @property
    def total_usd(self) -> float:
        return self.spent_usd + self.reserved_usd


def used_on_day(
    connection: duckdb.DuckDBPyConnection, day: str, api: str, own_prices: tuple[ModelPrice, ...] = ()
) -> Used:
    """Everything that was spent on the day at this API, earlier prompts and refreshes included."""
    of_the_day = f"openai_batch.{OF_THE_DAY}"
    return _used(connection, OF_THE_DAY, of_the_day, {"api": api, "day": day}, own_prices)


def used_in_month(
    connection: duckdb.DuckDBPyConnection, moment: datetime, api: str, own_prices: tuple[ModelPrice, ...] = ()
) -> Used:
    """What was submitted to this API in the UTC month of `moment` (UTC, without zone)."""
    parameters = {"api": api, "moment": moment}
    return _used(connection, SUBMITTED_IN_THE_MONTH, SUBMITTED_IN_THE_MONTH, parameters, own_prices)


def _used(
    connection: duckdb.DuckDBPyConnection,
    spent_in_the_period: str,
    reserved_in_the_period: str,
    parameters: Mapping[str, object],
    own_prices: tuple[ModelPrice, ...],
) -> Used:
    api = str(parameters["api"])
    costs = [
        (model, known, _cost_of_tokens(model, api, own_prices, *tokens))
        for model, known, *tokens in connection.execute(
            SPENT.format(of_the_period=spent_in_the_period), dict(parameters)
        ).fetchall()
    ]
    reservations = [
        (file[0], expected_cost(connection, SizeOfFile(*file), api, own_prices) if expected is None else expected)
        for expected, *file in connection.execute(
            RESERVATIONS.format(of_the_period=reserved_in_the_period), {**parameters, "reserved": list(RESERVED)}
        ).fetchall()
    ]
    unpriced = {model for model, _, cost in costs if cost is None} | {
        model for model, cost in reservations if cost is None
    }
    return Used(
        spent_usd=sum(known + (cost or 0.0) for _, known, cost in costs),
        reserved_usd=sum(cost or 0.0 for _, cost in reservations),
        unpriced=tuple(sorted(unpriced)),
    )


def _cost_of_tokens(
    model: str,
    api: str,
    own_prices: tuple[ModelPrice, ...],
    input_tokens: int,
    cached_input_tokens: int,
    cache_write_tokens: int,
    output_tokens: int,
) -> float | None:
    """USD of the tokens of many requests by today's prices; which of them were long ones is not known any more."""
    if input_tokens + output_tokens == 0:
        return 0.0
    rates = batch_rates(model, api=api, own_prices=own_prices)
    return cost_usd(
        None if rates is None else replace(rates, long_context_tokens=None),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=cached_input_tokens,
        cache_write_tokens=cache_write_tokens,
    )


def why_over_budget(
    connection: duckdb.DuckDBPyConnection,
    budget: Budget,
    *,
    day: str,
    api: str,
    moment: datetime,
    expected_usd: float | None,
    model: str,
    own_prices: tuple[ModelPrice, ...] = (),
) -> str | None:
    """The sentence that says which limit another `expected_usd` would exceed; None if it exceeds none."""
    if not budget.is_set:
        return None
    if expected_usd is None:
        return (
            f"The price of {model} in batches at {api} is not known, so no budget can hold. Give it in `prices` of the "
            "task, choose another model, or set no budget."
        )
    limits: tuple[tuple[str, str, float | None, Callable[[], Used]], ...] = (
        (
            f"{day}",
            "BATCH_ASSETS_MAX_COST_USD",
            budget.max_cost_usd_per_day,
            lambda: used_on_day(connection, day, api, own_prices),
        ),
        (
            f"{moment:%Y-%m}",
            "BATCH_ASSETS_MAX_COST_USD_PER_MONTH",
            budget.max_cost_usd_per_month,
            lambda: used_in_month(connection, moment, api, own_prices),
        ),
    )
    for period, setting, limit, use in limits:
        if limit is None:
            continue
        used = use()
        if used.unpriced:
            return why_no_budget_holds(period, used.unpriced, api)
        if used.total_usd + expected_usd > limit:
            return (
                f"Another ${expected_usd:.4f} (expected) would exceed the ${limit:.4f} that {setting} allows for "
                f"{period}: ${used.spent_usd:.4f} is spent and ${used.reserved_usd:.4f} is in flight, lost or "
                "abandoned. Raise the limit, choose another model, or have fewer articles."
            )
    return None


def why_no_budget_holds(period: str, unpriced: tuple[str, ...], api: str) -> str:
    """The sentence for a period, a day or a month, in which these models were used at an unknown price."""
    models = ", ".join(as_code(model) for model in unpriced)
    return (
        f"What {models} used in batches for {period} at {api} has no known price, so no budget can hold. Give the "
        "price in `prices` of the task, or set no budget."
    )
