"""What was billed, what is reserved, and whether a budget still allows a submission.

`billing` writes the table `spending`: what each collected batch and each synchronous call billed. Budgets and reports
read only this table. A run checks the budget in the transaction of its claim, so that runs at the same time cannot
exceed it together.

If the price was not known when a batch was recorded, each check of a budget computes its cost, by the prices of that
moment. As long as these are not known either, the budget cannot be checked, and no run submits under it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

import duckdb

from batch_assets.batching.counting import usd
from batch_assets.batching.ledger.expected_cost import FileSize, expected_cost
from batch_assets.batching.ledger.states import RESERVED
from batch_assets.batching.ledger.synchronous_calls import CALL_PREFIX, CallState
from batch_assets.batching.provider.prices import STANDARD_PER_BATCH_PRICE, ModelPrice, batch_rates
from batch_assets.batching.provider.token_costs import cost_usd
from batch_assets.batching.safety.outside_text import as_code
from batch_assets.batching.task_day import TaskDay


@dataclass(frozen=True)
class Budget:
    """What may be spent, in USD; None: no limit. A submission counts in the UTC month in which it was submitted.

    max_cost_usd_per_day, max_cost_usd_per_month: by all tasks together.
    tasks: what each of these tasks may spend on a day, by its name.
    """

    max_cost_usd_per_day: float | None = None
    max_cost_usd_per_month: float | None = None
    tasks: Mapping[str, float] = field(default_factory=dict)

    def limits(self, task: str) -> bool:
        """Whether a limit holds for the task: its own, or one of all tasks."""
        return (self.max_cost_usd_per_day, self.max_cost_usd_per_month) != (None, None) or task in self.tasks


@dataclass(frozen=True)
class UsedBudget:
    """USD of a period: what was billed, and what the submissions in flight are expected to cost.

    A lost or abandoned batch may be billed: its cost stays reserved until the batch is found and collected.
    unpriced_models: models that were billed, or whose submissions are reserved, at an unknown price. Neither amount has
        their cost.
    """

    spent_usd: float
    reserved_usd: float
    unpriced_models: tuple[str, ...] = ()

    @property
    def total_usd(self) -> float:
        return self.spent_usd + self.reserved_usd


TASK_SETTING = "`max_cost_usd` of the task"


def why_over_budget(
    connection: duckdb.DuckDBPyConnection,
    budget: Budget,
    *,
    day: TaskDay,
    api: str,
    moment: datetime,
    expected_usd: float | None,
    model: str,
    own_prices: tuple[ModelPrice, ...] = (),
) -> str | None:
    """The sentence that says which limit another `expected_usd` would exceed; None if it exceeds none."""
    if not budget.limits(day.task):
        return None
    if expected_usd is None:
        return (
            f"The price of {model} in batches at {api} is not known, so no budget can be checked. Set it in `prices` "
            "of the task, choose another model, or set no budget."
        )
    message = None
    if day.task in budget.tasks:
        used = used_on_day(connection, day.day, api, own_prices, task=day.task)
        limit = _Limit(f"{day.day} and {day.task}", api, TASK_SETTING, budget.tasks[day.task])
        message = _why_over_limit(limit, used, expected_usd)
    if message is None and budget.max_cost_usd_per_day is not None:
        used = used_on_day(connection, day.day, api, own_prices)
        limit = _Limit(day.day, api, "BATCH_ASSETS_MAX_COST_USD", budget.max_cost_usd_per_day)
        message = _why_over_limit(limit, used, expected_usd)
    if message is None and budget.max_cost_usd_per_month is not None:
        used = used_in_month(connection, moment, api, own_prices)
        limit = _Limit(f"{moment:%Y-%m}", api, "BATCH_ASSETS_MAX_COST_USD_PER_MONTH", budget.max_cost_usd_per_month)
        message = _why_over_limit(limit, used, expected_usd)
    return message


class _Limit(NamedTuple):
    """A budget's limit for a period, a day or a month. `setting`: where the user sets it."""

    period: str
    api: str
    setting: str
    usd: float


def _why_over_limit(limit: _Limit, used: UsedBudget, expected_usd: float) -> str | None:
    if used.unpriced_models:
        return why_budget_cannot_be_checked(limit.period, used.unpriced_models, limit.api)
    if used.total_usd + expected_usd <= limit.usd:
        return None
    return (
        f"Another {usd(expected_usd, limit.usd)} (expected) would exceed the {usd(limit.usd, expected_usd)} that "
        f"{limit.setting} allows for {limit.period}: {usd(used.spent_usd, limit.usd)} is spent and "
        f"{usd(used.reserved_usd, limit.usd)} is in flight, lost or abandoned. "
        "Raise the limit, choose another model, or have fewer articles."
    )


def why_budget_cannot_be_checked(period: str, unpriced_models: tuple[str, ...], api: str) -> str:
    """The sentence for a period, a day or a month, in which these models were used at an unknown price."""
    models = ", ".join(as_code(model) for model in unpriced_models)
    return (
        f"What {models} used in batches for {period} at {api} has no known price, so no budget can be checked. Set the "
        "price in `prices` of the task, or set no budget."
    )


# Rows of an earlier version, which did not record the API, count for every API. For the built-in engine, the simulated
# cost counts.
SPENT = f"""
    SELECT
        model, starts_with(batch_id, '{CALL_PREFIX}') AS is_synchronous,
        coalesce(sum(coalesce(cost_usd, simulated_cost_usd)), 0),
        coalesce(sum(input_tokens) FILTER (is_unpriced), 0)::BIGINT,
        coalesce(sum(cached_input_tokens) FILTER (is_unpriced), 0)::BIGINT,
        coalesce(sum(cache_write_tokens) FILTER (is_unpriced), 0)::BIGINT,
        coalesce(sum(output_tokens) FILTER (is_unpriced), 0)::BIGINT
    FROM (
        SELECT *, cost_usd IS NULL AND simulated_cost_usd IS NULL AS is_unpriced
        FROM spending WHERE (api = $api OR api IS NULL) AND {{period}}
    )
    GROUP BY model, is_synchronous
"""
# `expected_cost_usd` is NULL if the price was not known at the claim, or if no run claimed the batch: it was adopted.
RESERVED_FILES = """
    SELECT
        expected_cost_usd, openai_batch.task, model, estimated_input_tokens, requests, max_output_tokens,
        request_max_output_tokens
    FROM openai_batch JOIN batch_request_file USING (submission_id)
    WHERE (api = $api OR api IS NULL) AND list_contains($reserved, state) AND {period}
"""
# A call whose answer was lost may be billed, like a lost batch.
RESERVED_CALLS = """
    SELECT
        model, true AS is_synchronous, coalesce(sum(max_cost_usd), 0),
        coalesce(sum(estimated_input_tokens) FILTER (max_cost_usd IS NULL), 0)::BIGINT, 0, 0,
        coalesce(sum(max_output_tokens) FILTER (max_cost_usd IS NULL), 0)::BIGINT
    FROM synchronous_call WHERE api = $api AND list_contains($reserved, state) AND {period}
    GROUP BY model
"""
RESERVED_CALL_STATES = (CallState.SENT, CallState.POSSIBLY_BILLED)
# A submission that is claimed and not submitted yet counts in every month: a run may submit it in that month.
SUBMITTED_IN_MONTH = "date_trunc('month', coalesce(submitted_at, $moment)) = date_trunc('month', $moment)"
CALLED_IN_MONTH = "date_trunc('month', called_at) = date_trunc('month', $moment)"
OF_DAY = "partition_date = CAST($day AS DATE) AND task = coalesce($task, task)"


def used_on_day(
    connection: duckdb.DuckDBPyConnection,
    day: str,
    api: str,
    own_prices: tuple[ModelPrice, ...] = (),
    *,
    task: str | None = None,
) -> UsedBudget:
    """What was used for the day at this API, including earlier prompts and refreshes; by this task, or by all."""
    return _used(
        connection,
        SPENT.format(period=OF_DAY),
        RESERVED_CALLS.format(period=OF_DAY),
        RESERVED_FILES.format(
            period="openai_batch.partition_date = CAST($day AS DATE) "
            "AND openai_batch.task = coalesce($task, openai_batch.task)"
        ),
        {"api": api, "day": day, "task": task},
        own_prices,
    )


def used_in_month(
    connection: duckdb.DuckDBPyConnection, moment: datetime, api: str, own_prices: tuple[ModelPrice, ...] = ()
) -> UsedBudget:
    """What was used by submissions to this API in the UTC month of `moment` (UTC, without zone)."""
    return _used(
        connection,
        SPENT.format(period=SUBMITTED_IN_MONTH),
        RESERVED_CALLS.format(period=CALLED_IN_MONTH),
        RESERVED_FILES.format(period=SUBMITTED_IN_MONTH),
        {"api": api, "moment": moment},
        own_prices,
    )


class _Spent(NamedTuple):
    """What one model billed in a period: USD, and the tokens of the batches whose cost was not known.

    is_synchronous: in synchronous calls, not in batches.
    """

    model: str
    is_synchronous: bool
    usd: float
    unpriced_input_tokens: int
    unpriced_cached_input_tokens: int
    unpriced_cache_write_tokens: int
    unpriced_output_tokens: int


def _used(
    connection: duckdb.DuckDBPyConnection,
    spent_statement: str,
    calls_statement: str,
    reserved_statement: str,
    parameters: Mapping[str, object],
    own_prices: tuple[ModelPrice, ...],
) -> UsedBudget:
    api = str(parameters["api"])
    unpriced_models: set[str] = set()
    spent_usd = reserved_usd = 0.0
    for spent in map(_Spent._make, connection.execute(spent_statement, dict(parameters)).fetchall()):
        late_usd = _cost_of_unpriced(spent, api, own_prices)
        if late_usd is None:
            unpriced_models.add(spent.model)
        spent_usd += spent.usd + (late_usd or 0.0)
    calls = connection.execute(calls_statement, {**parameters, "reserved": list(RESERVED_CALL_STATES)}).fetchall()
    for called in map(_Spent._make, calls):
        late_usd = _cost_of_unpriced(called, api, own_prices)
        if late_usd is None:
            unpriced_models.add(called.model)
        reserved_usd += called.usd + (late_usd or 0.0)
    reserved = connection.execute(reserved_statement, {**parameters, "reserved": list(RESERVED)}).fetchall()
    for expected_usd, *size in reserved:
        file = FileSize(*size)
        if expected_usd is None:
            expected_usd = expected_cost(connection, file, api, own_prices)
        if expected_usd is None:
            unpriced_models.add(file.model)
        reserved_usd += expected_usd or 0.0
    return UsedBudget(spent_usd, reserved_usd, tuple(sorted(unpriced_models)))


def _cost_of_unpriced(spent: _Spent, api: str, own_prices: tuple[ModelPrice, ...]) -> float | None:
    """USD of the tokens without a recorded cost, by today's prices; None if these are not known.

    The rates of long requests do not count: the ledger has no longer the tokens of each request. Of synchronous calls,
    only the user's own price of batches can be known by now: a budget counts twice as much.
    """
    if spent.unpriced_input_tokens + spent.unpriced_output_tokens == 0:
        return 0.0
    rates = batch_rates(spent.model, api=api, own_prices=own_prices)
    in_batches = cost_usd(
        None if rates is None else replace(rates, long_context_tokens=None),
        input_tokens=spent.unpriced_input_tokens,
        output_tokens=spent.unpriced_output_tokens,
        cached_input_tokens=spent.unpriced_cached_input_tokens,
        cache_write_tokens=spent.unpriced_cache_write_tokens,
    )
    if in_batches is None or not spent.is_synchronous:
        return in_batches
    return in_batches * STANDARD_PER_BATCH_PRICE
