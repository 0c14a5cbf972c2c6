"""What a day will cost, before it is submitted: an estimate.

Tokens are estimated from bytes and from the limit on output until batches of the same model have been collected. After
that, the estimate uses how many tokens the bytes and requests of these batches had.
"""

from dataclasses import dataclass

import duckdb

from batch_assets.batching.counting import counted, usd
from batch_assets.batching.ledger.expected_cost import calibration_for, expected_cost
from batch_assets.batching.ledger.requests import BudgetRefusal
from batch_assets.batching.ledger.spending import Budget, used_in_month, used_on_day, why_budget_cannot_be_checked
from batch_assets.batching.ledger.submissions import awaited_files
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.safety.outside_text import as_code
from batch_assets.batching.task_day import TaskDay

# Codes of blocked requests in `summaries.error_code`.
OVER_BUDGET, PRICE_UNKNOWN = "over_budget", "price_unknown"
NOTHING_SUBMITTED = "Nothing was submitted. Raise the limit, choose another model, or have fewer articles."


@dataclass(frozen=True)
class Estimate:
    """The USD of a task's day: `spent_usd` for everything that was billed, `expected_usd` for what is planned or in
    flight. `other_tasks_usd` is what was billed for the day, or is in flight, by other tasks.

    `month_usd` is for what was submitted in this UTC month, billed or in flight. It leaves out what is only planned.
    An amount is None if the price of a model is not known. `is_calibrated`: collected batches measured the tokens.
    `api` is the API whose prices count. `unpriced_of_day` and `unpriced_of_month` are models that were billed, or that
    are in flight, at a price that is not known: the amounts leave them out.
    """

    day: TaskDay
    requests: int
    planned_requests: int
    spent_usd: float
    expected_usd: float | None
    planned_usd: float | None
    month_usd: float
    model: str
    is_calibrated: bool
    api: str = BUILT_IN_ENGINE
    unpriced_of_day: tuple[str, ...] = ()
    unpriced_of_month: tuple[str, ...] = ()
    other_tasks_usd: float = 0.0

    @property
    def total_usd(self) -> float | None:
        return None if self.expected_usd is None else self.spent_usd + self.expected_usd

    def is_within(self, budget: Budget) -> bool:
        """A day with nothing left to send is always within the budget; a day of unknown cost never is."""
        return self.why_not_within(budget) is None

    def why_not_within(self, budget: Budget) -> BudgetRefusal | None:
        """Why the run submits nothing, as a code and a sentence for the user; None if the budget allows the day."""
        if not budget.limits(self.day.task) or self.planned_requests == 0:
            return None
        planned = f"{counted(self.planned_requests, 'request')} of {self.day}"
        if self.total_usd is None or self.planned_usd is None:
            return BudgetRefusal(
                PRICE_UNKNOWN,
                f"{planned} would cost an unknown amount: the price of {as_code(self.model)} in batches isn't known, "
                f"so no budget can be checked. Set the price in `prices` of the task. {NOTHING_SUBMITTED}",
            )
        day_limit, month_limit = budget.max_cost_usd_per_day, budget.max_cost_usd_per_month
        if (day_limit is not None or self.day.task in budget.tasks) and self.unpriced_of_day:
            return BudgetRefusal(
                PRICE_UNKNOWN, why_budget_cannot_be_checked(self.day.day, self.unpriced_of_day, self.api)
            )
        if month_limit is not None and self.unpriced_of_month:
            return BudgetRefusal(
                PRICE_UNKNOWN, why_budget_cannot_be_checked("this month", self.unpriced_of_month, self.api)
            )
        others = self.other_tasks_usd
        for setting, limit, usd_before in (
            (f"`max_cost_usd` of the task {self.day.task}", budget.tasks.get(self.day.task), 0.0),
            ("BATCH_ASSETS_MAX_COST_USD", day_limit, others),
        ):
            if limit is not None and usd_before + self.total_usd > limit:
                by_others = f" by this task and {usd(usd_before)} by other tasks" if usd_before else ""
                used = f"{usd(self.spent_usd, limit)} is spent{by_others}"
                return BudgetRefusal(
                    OVER_BUDGET, self._over_budget(self.requests, used, self.total_usd - self.spent_usd, setting, limit)
                )
        if month_limit is not None and self.month_usd + self.planned_usd > month_limit:
            used = f"{usd(self.month_usd, month_limit)} is spent or in flight in the month"
            setting = "BATCH_ASSETS_MAX_COST_USD_PER_MONTH"
            return BudgetRefusal(
                OVER_BUDGET,
                self._over_budget(self.planned_requests, used, self.planned_usd, setting, month_limit),
            )
        return None

    def _over_budget(self, requests: int, used: str, expected_usd: float, setting: str, limit: float) -> str:
        return (
            f"The budget check stopped {self.day}: {used}, the expected cost of {counted(requests, 'request')} is "
            f"{usd(expected_usd, limit)}, and {setting} allows {usd(limit, expected_usd)}. {NOTHING_SUBMITTED}"
        )


def estimate_day(
    connection: duckdb.DuckDBPyConnection,
    day: TaskDay,
    *,
    api: str = BUILT_IN_ENGINE,
    own_prices: tuple[ModelPrice, ...] = (),
) -> Estimate:
    """Estimate a task's day from the request files that it waits for, and from what was spent on it at this API.

    Files of another task or day count if they hold an equal request: a run that submits this day submits them, too.
    """
    files = awaited_files(connection, day)
    expected: float | None = 0.0
    planned: float | None = 0.0
    is_calibrated = bool(files)
    for file in files:
        is_calibrated = is_calibrated and calibration_for(connection, file, api) is not None
        cost = expected_cost(connection, file, api, own_prices)
        if file.is_sent and file.task != day.task and file.day == day.day:
            cost = 0.0  # another task pays for it: it is in `other_tasks_usd`
        expected = None if cost is None or expected is None else expected + cost
        if not file.is_sent:
            planned = None if cost is None or planned is None else planned + cost
    of_task = used_on_day(connection, day.day, api, own_prices, task=day.task)
    of_day = used_on_day(connection, day.day, api, own_prices)
    of_month = used_in_month(connection, now_utc(), api, own_prices)
    return Estimate(
        day=day,
        requests=sum(file.requests for file in files),
        planned_requests=sum(file.requests for file in files if not file.is_sent),
        spent_usd=of_task.spent_usd,
        expected_usd=expected,
        planned_usd=planned,
        month_usd=of_month.total_usd,
        model=", ".join(sorted({file.model for file in files})),
        is_calibrated=is_calibrated,
        api=api,
        unpriced_of_day=of_day.unpriced_models,
        other_tasks_usd=of_day.total_usd - of_task.total_usd,
        unpriced_of_month=of_month.unpriced_models,
    )
