"""The numbers of the report for JSON."""

from typing import Any

from batch_assets.batching.ledger.day_figures import STATUSES
from batch_assets.report.read import Report
from batch_assets.report.sums import (
    Money,
    articles_of,
    costs_of_tasks,
    failures_of,
    money_of,
)
from batch_assets.report.waits import longest_waits, waiting_now


def as_dict(report: Report) -> dict[str, Any]:
    """Amounts are USD, durations seconds. A cost or a saving is None if a price is not known."""
    has_days = bool(report.days)
    return {
        "first_day": report.first if has_days else None,
        "last_day": report.last if has_days else None,
        "written_at": report.written_at,
        "days_with_figures": report.number_of_days,
        **articles_of(report.days),
        **money_of(report.costs_by_model).as_dict(),
        "days": _days(report),
        "tasks": [
            {
                "task": costs.task,
                "answered": costs.answered,
                **costs.money.as_dict(),
                "usd_per_1000_articles": costs.per_thousand.usd,
                "is_simulated": costs.per_thousand.is_simulated,
                "models": [
                    {"model": cost.group[1], "requests": cost.requests, "input_tokens": cost.input_tokens}
                    | {"output_tokens": cost.output_tokens, **money_of([cost]).as_dict()}
                    for cost in costs.by_model
                ],
            }
            for costs in costs_of_tasks(report)
        ],
        "failures": failures_of(report),
        "waiting": waiting_now(report),
        "batches": [
            {
                "batch_id": wait.batch.batch_id,
                "day": wait.batch.day,
                "task": wait.batch.task,
                "model": wait.batch.model,
                "api": wait.batch.api,
                "state": wait.batch.state,
                "status": wait.batch.status,
                "is_running": wait.is_running,
                "seconds_queued": wait.queued,
                "seconds_running": wait.ran,
                "seconds_at_api": wait.seconds,
            }
            for wait in longest_waits(report)
        ],
    }


def _days(report: Report) -> list[dict[str, Any]]:
    moneys = {cost.group: money_of([cost]) for cost in report.costs_by_day}
    return [
        {
            "day": day.day,
            "task": day.task,
            "articles": day.articles,
            **{status: getattr(day, status) for status in STATUSES},
            **moneys.get((day.day, day.task), Money()).as_dict(),
            "seconds_at_api": day.seconds_at_api,
        }
        for day in report.days
    ]
