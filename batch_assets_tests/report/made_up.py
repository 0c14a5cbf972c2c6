"""Reports of figures that no ledger has."""

from datetime import date, datetime, timedelta
from typing import Any

from batch_assets.batching.ledger.batch_figures import BatchFigures
from batch_assets.batching.ledger.costs import Cost
from batch_assets.batching.ledger.day_figures import DayFigures
from batch_assets.batching.ledger.reasons import Reason
from batch_assets.report.read import Report

NOW = datetime.fromisoformat("2026-11-25")
BEGAN = datetime.fromisoformat("2026-01-01")
NONE_OF = dict.fromkeys(("in_flight", "pending", "blocked", "cancelled", "requests_cached", "cut"), 0)
TOKENS: dict[str, Any] = {
    "input_tokens": 9,
    "cached_input_tokens": 0,
    "cache_write_tokens": 0,
    "output_tokens": 9,
    "reasoning_tokens": 0,
}
TIMES: dict[str, Any] = dict.fromkeys(
    ("submitted_at", "ended_at", "seconds_queued", "seconds_running", "seconds_at_api")
)


def report_with(texts: list[str], tasks: tuple[str, ...] = ("summaries",), days: int = 1) -> Report:
    """Each task has a model, a batch, a reason and its message for each of the texts: the latter two on each day."""
    names = [(date(2026, 1, 1) + timedelta(days=number)).isoformat() for number in range(days)]
    places = [(day, task) for day in names for task in tasks]
    return Report(
        asked=None,
        written_at=NOW,
        days=[figures_of(day, task, len(texts)) for day, task in places],
        costs_by_day=[cost_of(day, task) for day, task in places],
        costs_by_model=[cost_of(task, text) for task in tasks for text in texts],
        batches=[batch_of(places[0][0], task, text) for task in tasks for text in texts],
        reasons=[Reason(task, day, "failed", text, 1, text, "Do.") for day, task in places for text in texts],
        unfinished=None,
    )


def figures_of(day: str, task: str, failed: int) -> DayFigures:
    """100 answered articles, and some that failed."""
    counts: dict[str, Any] = {
        **NONE_OF,
        "articles": 100 + failed,
        "answered": 100,
        "failed": failed,
        "requests": 100 + failed,
    }
    batches: dict[str, Any] = {"batches": 1, "batches_running": 0}
    return DayFigures(
        task, day, cost_usd=0.5, simulated_cost_usd=0.0, saving_usd=0.5, **counts, **TOKENS, **batches, **TIMES
    )


def cost_of(*group: str) -> Cost:
    return Cost(group, 9, 9, 0, 0, 9, 0, 0.5, 0.0, 0.5, 0)


def batch_of(day: str, task: str, text: str) -> BatchFigures:
    """An hour in the queue, and an hour in progress."""
    times = (BEGAN, BEGAN + timedelta(hours=1), BEGAN + timedelta(hours=2))
    of_requests, costs = (9, 9, 0), (None, None, None, None)
    return BatchFigures(task, day, text, text, text, "collected", text, 1, 1, 0, *times, *of_requests, *costs, text)
