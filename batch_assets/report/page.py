"""The page of the report: one file that loads nothing, for a browser, a phone or a printer."""

from pathlib import Path
from typing import Any

from batch_assets.batching.counting import counted
from batch_assets.pages.render import render
from batch_assets.report.four_charts import charts_of
from batch_assets.report.read import Report
from batch_assets.report.sums import (
    WAITING,
    TaskCosts,
    articles_of,
    costs_of_tasks,
    failures_of,
    money_of,
)
from batch_assets.report.texts import billed, duration, per_thousand, saved, share, usd_format
from batch_assets.report.waits import Wait, elsewhere, longest_waits, waiting_now

TEMPLATE = Path(__file__).with_name("report.html")
MOST_ROWS = 15  # of a table of things that may be many
LONGEST_MESSAGE = 200


def page_of(report: Report) -> str:
    """The page. The template escapes every text of others, and the page's policy forbids scripts and the network."""
    written_at = f"{report.written_at:%Y-%m-%d %H:%M} UTC"
    if not report.days:
        return render(TEMPLATE, report=None, asked=report.asked, written_at=written_at)
    money = money_of(report.costs_by_model)
    usd = usd_format([money.billed, money.simulated])
    articles = articles_of(report.days)
    failures, waiting = failures_of(report), waiting_now(report)
    return render(
        TEMPLATE,
        report=report,
        asked=report.asked,
        written_at=written_at,
        days=counted(report.number_of_days, "day"),
        tasks=counted(len(report.tasks), "task"),
        money=money,
        spent=billed(money, usd),
        saved=saved(money, usd),
        usd=usd,
        articles=articles,
        answered_share=share(articles["answered"], articles["articles"]),
        failed_share=share(articles["failed"], articles["articles"]),
        most_frequent=failures[0].code if failures else "",
        waiting_articles=sum(articles[status] for status in WAITING),
        waiting_statuses=", ".join(
            f"{articles[status]:,} {status.replace('_', ' ')}" for status in WAITING if articles[status]
        ),
        waiting=waiting[:MOST_ROWS],
        waiting_more=len(waiting) - MOST_ROWS,
        elsewhere=elsewhere(report),
        charts=charts_of(report, usd),
        costs=[_costs(one, usd) for one in costs_of_tasks(report)],
        failures=failures[:MOST_ROWS],
        failures_more=sum(failure.articles for failure in failures[MOST_ROWS:]),
        longest_message=LONGEST_MESSAGE,
        waits=[_wait(wait) for wait in longest_waits(report)],
    )


def _costs(costs: TaskCosts, usd: Any) -> dict[str, Any]:
    """A row for each model of the task, and one for all of them if there are several."""
    rows = []
    for cost in costs.by_model:
        money = money_of([cost])
        rows.append({
            "model": cost.group[1],
            "requests": cost.requests,
            "input": cost.input_tokens,
            "output": cost.output_tokens,
            "spent": billed(money, usd),
            "simulated": usd(money.simulated) if money.simulated else "",
            "saved": saved(money, usd),
        })  # fmt: skip
    return {
        "task": costs.task,
        "answered": costs.answered,
        "per_thousand": per_thousand(costs.per_thousand),
        "rows": rows,
    }


def _wait(wait: Wait) -> dict[str, Any]:
    return {
        "batch": wait.batch,
        "status": "still runs" if wait.is_running else (wait.batch.status or wait.batch.state),
        "queued": duration(wait.queued),
        "ran": duration(wait.ran),
        "all": duration(wait.seconds),
    }
