"""What requests would cost: as a batch, and at the standard price."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import duckdb

from batch_assets.batching.ledger.expected_cost import FileSize, calibration_for, expected_cost_usd
from batch_assets.batching.ledger.spending import Budget, why_over_budget
from batch_assets.batching.provider.prices import ModelPrice, batch_rates, max_cost_usd, standard_rates
from batch_assets.batching.task_day import TaskDay


@dataclass(frozen=True)
class Cost:
    """What requests to a model would cost. An amount is None if the price is not known, and never zero instead.

    estimated_input_tokens: by the tokens of earlier requests if `is_calibrated`, otherwise by size.
    batch_usd: as expected. batch_max_usd: if each answer uses all of its tokens. standard_usd: as expected, outside of
    batches.
    """

    requests: int
    estimated_input_tokens: int
    batch_usd: float | None
    batch_max_usd: float | None
    standard_usd: float | None
    is_calibrated: bool

    @property
    def saving_usd(self) -> float | None:
        if self.batch_usd is None or self.standard_usd is None:
            return None
        return self.standard_usd - self.batch_usd


def cost_of(
    connection: duckdb.DuckDBPyConnection, size: FileSize, api: str, own_prices: tuple[ModelPrice, ...]
) -> Cost:
    """What requests of this size would cost at this API, by today's prices."""
    if not size.requests:
        return Cost(0, 0, 0.0, 0.0, 0.0, is_calibrated=False)
    calibrated = calibration_for(connection, size, api)
    tokens = size.estimated_input_tokens * (1.0 if calibrated is None else calibrated.input_tokens_per_estimated)
    highest = max_cost_usd(
        size.model, input_tokens=size.estimated_input_tokens, output_tokens=size.max_output_tokens, api=api,
        own_prices=own_prices,
    )  # fmt: skip
    expected = expected_cost_usd(batch_rates(size.model, api=api, own_prices=own_prices), calibrated, size)
    standard = expected_cost_usd(standard_rates(size.model, api=api), calibrated, size)
    return Cost(size.requests, round(tokens), expected, highest, standard, calibrated is not None)


def total(costs: Sequence[Cost]) -> Cost:
    """The sum; an amount is None if one of its parts is."""

    def added(name: str) -> float | None:
        amounts = [getattr(cost, name) for cost in costs]
        return None if None in amounts else sum(amounts)

    return Cost(
        sum(cost.requests for cost in costs),
        sum(cost.estimated_input_tokens for cost in costs),
        added("batch_usd"),
        added("batch_max_usd"),
        added("standard_usd"),
        all(cost.is_calibrated for cost in costs if cost.requests) and any(cost.requests for cost in costs),
    )


def why_not_allowed(
    connection: duckdb.DuckDBPyConnection,
    budget: Budget,
    costs: Sequence[tuple[TaskDay, Cost]],
    *,
    api: str,
    model: str,
    moment: datetime,
    own_prices: tuple[ModelPrice, ...],
) -> str | None:
    """Why the budgets would not allow to submit these days, in this order: a sentence about the first; None if they do.

    A day is compared with the limits of a day, and with that of the month together with the days before it.
    """
    of_days, of_month = replace(budget, max_cost_usd_per_month=None), Budget(None, budget.max_cost_usd_per_month)
    before: float | None = 0.0
    for day, cost in costs:
        if not cost.requests:
            continue
        before = None if before is None or cost.batch_usd is None else before + cost.batch_usd
        for limits, expected in ((of_days, cost.batch_usd), (of_month, before)):
            why = why_over_budget(
                connection, limits, day=day, api=api, moment=moment, expected_usd=expected, model=model,
                own_prices=own_prices,
            )  # fmt: skip
            if why is not None:
                return why
    return None
