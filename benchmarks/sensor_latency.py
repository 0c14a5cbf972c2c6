"""The seconds from the end of a batch to its summaries, and the time of a backfill of a month.

    python -m benchmarks.sensor_latency latency --runs 10 --poll-seconds 30 --poll-seconds 4
    python -m benchmarks.sensor_latency backfill --days 30

Runs the whole of `batch-assets dev` (webserver, daemon, local Batch API) on a temporary data folder. The end of
a batch is known to the second (`completed_at` is whole seconds, rounded down), so a figure is up to 1 s too high.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path

import click
import duckdb
from rich.console import Console
from rich.table import Table

from batch_assets_tests.end_to_end.processes import Dev, running_dev
from batch_assets_tests.end_to_end.test_dev import read_only_shell
from batch_assets_tests.project import DAY, generated_articles, write_articles

ARTICLES_A_DAY = 20


@click.group()
def main() -> None:
    """Measure how long the sensor and the run need after the end of a batch."""


@main.command()
@click.option("--runs", default=10, show_default=True, help="Days for each interval.")
@click.option("--poll-seconds", type=int, multiple=True, default=(30, 4), show_default=True)
def latency(runs: int, poll_seconds: Sequence[int]) -> None:
    """Seconds from a batch's end to the materialization of `summaries`."""
    table = Table("BATCH_ASSETS_POLL_SECONDS", "runs", "median s", "best s", "worst s")
    for seconds in poll_seconds:
        waits = _measure(runs, seconds)
        shown = (statistics.median(waits), min(waits), max(waits))
        table.add_row(str(seconds), str(len(waits)), *(f"{figure:.1f}" for figure in shown))
    Console().print(table)


@main.command()
@click.option("--days", default=30, show_default=True)
def backfill(days: int) -> None:
    """A backfill of `submit_batches`, while a DuckDB shell opens the database from time to time."""

    def measure(dev: Dev, data: Path, wanted: list[str]) -> None:
        started = time.monotonic()
        dev.backfill(wanted)
        for _ in range(6):
            time.sleep(15)
            read_only_shell(data / "batch_assets.duckdb", seconds=5).wait()
        dev.wait_for("summaries", wanted, seconds=60 * days)
        took = time.monotonic() - started
        statuses = [run["status"] for run in dev.runs()]
        click.echo(f"{days} days in {took:.0f} s; runs: { {s: statuses.count(s) for s in set(statuses)} }")
        click.echo(f"at the API: {dict(dev.stats())}")

    _with_dev(days, 4, measure)


def _measure(runs: int, poll_seconds: int) -> list[float]:
    waits: list[float] = []

    def measure(dev: Dev, data: Path, days: list[str]) -> None:
        for number, day in enumerate(days):
            dev.materialize(day)
            dev.wait_for("openai_batch", [day], seconds=120)
            time.sleep(number * poll_seconds / runs)  # so that batches end anywhere between two ticks
        there = dev.wait_for("summaries", days, seconds=300)
        with duckdb.connect(str(data / "batch_assets.duckdb"), read_only=True) as connection:
            ended = connection.execute(
                "SELECT partition_date::VARCHAR, epoch(max(ended_at)) FROM openai_batch GROUP BY 1"
            ).fetchall()
        waits.extend(there[day] - seconds for day, seconds in ended)

    _with_dev(runs, poll_seconds, measure)
    return waits


def _with_dev(days: int, poll_seconds: int, measure: Callable[[Dev, Path, list[str]], None]) -> None:
    wanted = [(date.fromisoformat(DAY) + timedelta(days=n)).isoformat() for n in range(days)]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        source = write_articles(Path(folder) / "articles.jsonl", generated_articles(ARTICLES_A_DAY * days, days=days))
        variables = {"BATCH_ASSETS_POLL_SECONDS": str(poll_seconds), "BATCH_ASSETS_SOURCE": source}
        with running_dev(data, **variables) as dev:
            measure(dev, data, wanted)


if __name__ == "__main__":
    main()
