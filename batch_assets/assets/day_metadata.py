"""The figures of a day as Dagster's metadata: numbers that it plots over the partitions, and tables."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

import dagster as dg

from batch_assets.batching.collection.report import DayReport
from batch_assets.batching.ledger.batch_figures import BatchFigures
from batch_assets.batching.ledger.day_figures import DayFigures
from batch_assets.batching.ledger.step_spending import StepSpending
from batch_assets.batching.safety.outside_text import printable

PREVIEW_ROWS = 5
PREVIEW = dg.TableSchema(
    [dg.TableColumn("article", "string"), dg.TableColumn("status", "string"), dg.TableColumn("answer", "string")]
)
STEPS = dg.TableSchema(
    [
        dg.TableColumn("step", "int"),
        dg.TableColumn("model", "string"),
        dg.TableColumn("requests", "int"),
        dg.TableColumn("answered", "int"),
        dg.TableColumn("cost_usd", "float"),
        dg.TableColumn("simulated_cost_usd", "float"),
    ]
)
BATCHES = dg.TableSchema(
    [
        dg.TableColumn("status", "string"),
        dg.TableColumn("requests", "int"),
        dg.TableColumn("completed", "int"),
        dg.TableColumn("failed", "int"),
        dg.TableColumn("cost_usd", "string", "`simulated` of the built-in engine, which bills nothing"),
        dg.TableColumn("submitted", "string", "UTC"),
        dg.TableColumn("ended", "string", "UTC"),
        dg.TableColumn("round", "int"),
        dg.TableColumn("batch", "string"),
        dg.TableColumn("page", "string", "of the batch at OpenAI"),
    ]
)
MAX_BATCHES = 100  # in the table; `openai_batch` has all of them
OPENAI_HOSTS = ("api.openai.com", "us.api.openai.com", "eu.api.openai.com")
PAGE_OF_BATCH = "https://platform.openai.com/batches/"


def figures_metadata(figures: DayFigures) -> dict[str, Any]:
    """The numbers of a day. An amount or a time that is not known is left out: it is not zero."""
    return {
        "articles": figures.articles,
        "answered": figures.answered,
        "failed": figures.failed,
        "requests": figures.requests,
        "requests_cached": figures.requests_cached,
        "share_of_cut_answers": round(figures.cut_share, 4),
        "input_tokens": figures.input_tokens,
        "cached_input_tokens": figures.cached_input_tokens,
        "output_tokens": figures.output_tokens,
        "reasoning_tokens": figures.reasoning_tokens,
        **costs_metadata(figures),
        **_seconds("seconds_queued", figures.seconds_queued),
        **_seconds("seconds_running", figures.seconds_running),
        **_seconds("seconds_at_api", figures.seconds_at_api),
    }


def costs_metadata(figures: DayFigures) -> dict[str, float]:
    """In USD: what was billed and saved, unless a price is not known; what the built-in engine simulated, by itself."""
    amounts = {
        "cost_usd": figures.cost_usd,
        "saving_usd": figures.saving_usd,
        "simulated_cost_usd": figures.simulated_cost_usd or None,
    }
    return {name: usd for name, usd in amounts.items() if usd is not None}


def batches_metadata(batches: Sequence[BatchFigures]) -> dict[str, Any]:
    """All batches of the day, also those of earlier rounds and attempts; nothing if there is none."""
    if not batches:
        return {}
    table = dg.MetadataValue.table([_record(batch) for batch in batches[-MAX_BATCHES:]], schema=BATCHES)
    page = page_of(batches[-1])
    return {
        "batches_of_the_day": table,
        **({} if page is None else {"page_of_last_batch": dg.MetadataValue.url(page)}),
    }


def page_of(batch: BatchFigures) -> str | None:
    """OpenAI's page of the batch; None if it is at another API."""
    host = urlsplit(batch.api or "").hostname
    return PAGE_OF_BATCH + quote(batch.batch_id, safe="") if host in OPENAI_HOSTS else None


def _record(batch: BatchFigures) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "status": printable(batch.outcome or batch.state),
            "requests": batch.requests_total,
            "completed": batch.requests_completed or 0,
            "failed": batch.requests_failed or 0,
            "cost_usd": _cost(batch),
            "submitted": _time(batch.submitted_at),
            "ended": _time(batch.ended_at),
            "round": batch.round,
            "batch": printable(batch.batch_id),
            "page": page_of(batch) or "",
        }
    )


def _cost(batch: BatchFigures) -> str:
    if batch.simulated_cost_usd is not None:
        return f"{batch.simulated_cost_usd:.6f} simulated"
    if batch.cost_usd is not None:
        return f"{batch.cost_usd:.6f}"
    return "unknown" if batch.state == "collected" else ""


def preview_metadata(report: DayReport) -> dg.TableMetadataValue:
    """The first articles. Never Markdown: the browser of the user would fetch an image in a title."""
    return dg.MetadataValue.table([dg.TableRecord(row) for row in report.cells()], schema=PREVIEW)


def steps_metadata(steps: Iterable[StepSpending]) -> dict[str, Any]:
    """What each step of the task billed; nothing if only the first one did."""
    steps = list(steps)
    if not any(step.step for step in steps):
        return {}
    names = [column.name for column in STEPS.columns]
    records = [dg.TableRecord({name: getattr(step, name) for name in names}) for step in steps]
    return {
        "requests_of_later_steps": sum(step.requests for step in steps if step.step),
        "spending_by_step": dg.MetadataValue.table(records, schema=STEPS),
    }


def _seconds(name: str, seconds: float | None) -> dict[str, float]:
    return {} if seconds is None else {name: round(seconds, 1)}


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%m-%d %H:%M:%S}"
