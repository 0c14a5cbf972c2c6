"""The table of `batch-assets status`."""

from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batch_assets.batching.counting import counted, usd
from batch_assets.batching.ledger.day_figures import STATUSES
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.cli.terminal import as_rich_text

COLORS = {"answered": "green", "in_flight": "cyan", "failed": "red", "blocked": "red", "pending": "yellow"}
BAR_WIDTH = 16


def status_table(status: dict[str, Any]) -> RenderableType:
    """The days as a table, and a sentence for each problem. `status` is what `read_status` returns."""
    days = status["days"]
    if not days:
        return Text("No day was planned yet. `batch-assets demo` shows one; `batch-assets dev` opens Dagster's UI.")
    table = Table(expand=False)
    for name in ("day", "task", "articles", "progress", "age", "cost"):
        table.add_column(name, justify="right" if name in ("age", "cost") else "left", no_wrap=name == "day")
    table.add_column("waits for", overflow="fold")
    for day in days:
        table.add_row(
            day["day"],
            Text(day["task"]),
            _articles(day),
            _progress(day),
            _age(day["age_seconds"]),
            _cost(day),
            _waits(day),
        )
    problems = [as_rich_text(as_message(day["problem"])) for day in days if day["problem"]]
    if status["api_problem"]:
        problems.append(as_rich_text(as_message(status["api_problem"])))
    finished = sum(day["is_finished"] for day in days)
    total = Text(f"{finished:,} of {counted(len(days), 'day')} shown finished.")
    return Group(table, *problems, total)


def _articles(day: dict[str, Any]) -> Text:
    parts = [(f"{day[name]:,} {name.replace('_', ' ')}", COLORS.get(name, "")) for name in STATUSES if day[name]]
    text = Text(", ").join(Text(words, style) for words, style in parts)
    return text or Text("none")


def _progress(day: dict[str, Any]) -> RenderableType:
    if day["is_finished"]:
        return Text("✓ done", "green")
    total, done = day["requests_total"], day["requests_done"]
    if not total:
        return Text("–")
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total, done, width=BAR_WIDTH), Text(f"{done / total:.0%}"))
    return grid


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 48 * 60 else f"{minutes // 1440} days"


def _cost(day: dict[str, Any]) -> str:
    if day["cost_usd"] is None:
        return "unknown"
    if day["simulated_cost_usd"]:
        return f"{usd(day['simulated_cost_usd'])} simulated"
    return usd(day["cost_usd"])


def _waits(day: dict[str, Any]) -> Text:
    return as_rich_text(as_message(day["waits_for"] or ""))
