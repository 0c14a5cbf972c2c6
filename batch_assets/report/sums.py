"""Sums of the figures: money, the costs of each task and model, and the articles by reason."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from batch_assets.batching.counting import USD_DECIMALS
from batch_assets.batching.ledger.costs import Cost
from batch_assets.batching.ledger.day_errors import NEXT_STEPS, OF_BUDGET
from batch_assets.batching.ledger.day_figures import STATUSES, DayFigures
from batch_assets.batching.ledger.outcomes import OTHER_FAILURE
from batch_assets.batching.ledger.reasons import Reason
from batch_assets.batching.ledger.states import RequestState
from batch_assets.report.read import Report

WAITING = ("in_flight", "pending", "blocked")
SEND_AGAIN = "`batch-assets retry DAY` sends them again."


class Money(NamedTuple):
    """In USD. billed: what is known. unpriced_tokens: billed ones whose price is not known.

    simulated: of the built-in engine, which bills nothing. saving: of what was billed in batches.
    """

    billed: float = 0.0
    simulated: float = 0.0
    saving: float = 0.0
    unpriced_tokens: int = 0

    @property
    def is_known(self) -> bool:
        return not self.unpriced_tokens

    def as_dict(self) -> dict[str, float | int | None]:
        """cost_usd and saving_usd: None if a price is not known; then known_cost_usd has what is known."""
        return {
            "cost_usd": self.billed if self.is_known else None,
            "known_cost_usd": self.billed,
            "simulated_cost_usd": self.simulated,
            "saving_usd": self.saving if self.is_known else None,
            "unpriced_tokens": self.unpriced_tokens,
        }


def money_of(costs: Iterable[Cost]) -> Money:
    rows = list(costs)
    return Money(
        round(sum(cost.cost_usd for cost in rows), USD_DECIMALS),
        round(sum(cost.simulated_cost_usd for cost in rows), USD_DECIMALS),
        round(sum(cost.saving_usd for cost in rows), USD_DECIMALS),
        sum(cost.unpriced_tokens for cost in rows),
    )


def articles_of(days: Iterable[DayFigures]) -> dict[str, int]:
    """How many articles there are (`articles`), and in which status. An article counts once for each task."""
    rows = list(days)
    return {name: sum(getattr(day, name) for day in rows) for name in ("articles", *STATUSES)}


class PerThousand(NamedTuple):
    """What 1,000 answered articles cost, in USD; None if a price is not known, or nothing is answered."""

    usd: float | None
    is_simulated: bool = False
    is_known: bool = True


def per_thousand(days: Sequence[DayFigures]) -> PerThousand:
    """Of the days that a model answered; if there is none, of those of the built-in engine.

    A day has one or the other: what the built-in engine answered does not count on a day that a model answered, too.
    """
    of_model = [day for day in days if not day.simulated_cost_usd]
    if any(day.cost_usd is None for day in days):
        return PerThousand(None, is_known=False)
    billed = sum(day.cost_usd or 0.0 for day in of_model)
    if not billed and len(of_model) < len(days):
        simulated = [day for day in days if day.simulated_cost_usd]
        answered = sum(day.answered for day in simulated)
        usd = sum(day.simulated_cost_usd for day in simulated)
        return PerThousand(1000 * usd / answered if answered else None, is_simulated=True)
    answered = sum(day.answered for day in of_model)
    return PerThousand(1000 * billed / answered if answered else None)


@dataclass(frozen=True)
class TaskCosts:
    """The costs of a task, by model, and of its answered articles."""

    task: str
    answered: int
    money: Money
    per_thousand: PerThousand
    by_model: list[Cost]


def costs_of_tasks(report: Report) -> list[TaskCosts]:
    """The costs of each task, the most expensive first."""
    found = []
    for task in report.tasks:
        days = [day for day in report.days if day.task == task]
        by_model = [cost for cost in report.costs_by_model if cost.group[0] == task]
        answered = sum(day.answered for day in days)
        found.append(TaskCosts(task, answered, money_of(by_model), per_thousand(days), by_model))
    return sorted(found, key=lambda one: (-one.money.billed, -one.money.simulated, one.task))


@dataclass(frozen=True)
class Failure:
    """Why articles failed: the code, how many, of which tasks and days, a message of one of them, and what to do."""

    code: str
    articles: int
    tasks: list[str]
    days: list[str]
    message: str | None
    what_to_do: str


def failures_of(report: Report) -> list[Failure]:
    """The reasons of failed articles, the most frequent first."""
    failed = [reason for reason in report.reasons if reason.status == "failed"]
    groups = _grouped(failed, lambda reason: (code_of(reason), what_to_do(reason)))
    found = [
        Failure(
            code,
            sum(reason.articles for reason in group),
            sorted({reason.task for reason in group}),
            sorted({reason.day for reason in group}),
            group[-1].message,
            action,
        )
        for (code, action), group in groups.items()
    ]
    return sorted(found, key=lambda failure: (-failure.articles, failure.code, failure.what_to_do))


def _grouped(
    reasons: Iterable[Reason], key: Callable[[Reason], tuple[str, str]]
) -> dict[tuple[str, str], list[Reason]]:
    groups: dict[tuple[str, str], list[Reason]] = {}
    for reason in reasons:
        groups.setdefault(key(reason), []).append(reason)
    return groups


def code_of(reason: Reason) -> str:
    return reason.code or "without a code"


def what_to_do(reason: Reason) -> str:
    """What the user can do, in a sentence."""
    if reason.code in OF_BUDGET:
        return OF_BUDGET[reason.code]
    if reason.code is None and reason.status == RequestState.BLOCKED:
        return NEXT_STEPS[RequestState.BLOCKED]
    if reason.status == RequestState.FAILED and reason.remedy == OTHER_FAILURE.remedy:
        return SEND_AGAIN  # all rounds are used up
    return reason.remedy
