"""The time and memory of our part of a day, compared with a simple loop and with the disk alone.

    python -m benchmarks            everything: about 20 minutes, and 15 GB of disk for a while
    python -m benchmarks --quick    small sizes: six minutes

Each figure is the median of several runs that alternate with the others, each in a process of its own and after a
pause of ten seconds. Compare the ratios: the seconds depend on this machine and on its other processes.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from batch_assets.batching.ledger.database import Database
from benchmarks import build, ingest, load, pipeline, rewrites, ticks
from benchmarks.data import fill, write_source
from benchmarks.measure import Measured, measured, measured_from_rest, median

SIZES, QUICK_SIZES = (50_000, 200_000, 1_000_000), (5_000, 20_000)
PARTS = ("ingest", "build", "load", "ticks", "pipeline", "rewrites")


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes, to check that it works.")
@click.option("--runs", default=3, show_default=True, help="Runs of each measurement; the median counts.")
@click.option("--articles", type=int, multiple=True, help=f"Sizes of a day.  [default: {SIZES}]")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Only these tables.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work.  [default: a temporary folder]")
def main(quick: bool, runs: int, articles: Sequence[int], only: Sequence[str], folder: Path | None) -> None:
    """Print the tables of speed and memory."""
    sizes = tuple(articles) or (QUICK_SIZES if quick else SIZES)
    parts = only or PARTS
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        if "ingest" in parts:
            _ingest(work, 5_000 if quick else 200_000, runs)
        if "build" in parts or "load" in parts:
            _build_and_load(work, sizes, runs, parts)
        if "ticks" in parts:
            _ticks((10, 100) if quick else (10, 100, 1000))
        if "pipeline" in parts:
            _pipeline(work, 5_000 if quick else 200_000)
        if "rewrites" in parts:
            _rewrites(work, 2_000 if quick else 20_000, 10 if quick else 50)


def _ingest(work: Path, articles: int, runs: int) -> None:
    table = Table("source", "MB", "ours s", "CPU s", "peak MB", "one INSERT s", "CPU s", "peak MB", "ours ÷ one INSERT")
    table.title = f"A source of {articles:,} articles into raw_articles"
    for ending in ingest.READERS:
        source = write_source(work / f"source{ending}", articles)
        took = _in_turn(
            runs,
            ours=lambda source=source: _in_new_folder(work, ingest.ours, source),  # type: ignore[misc]
            plain=lambda source=source: _in_new_folder(work, ingest.plain, source),  # type: ignore[misc]
        )
        figures = [
            figure
            for way in took.values()
            for figure in (f"{way.wall_seconds:.2f}", f"{way.cpu_seconds:.2f}", f"{way.peak_bytes / 1e6:.0f}")
        ]
        ratio = took["ours"].wall_seconds / took["plain"].wall_seconds
        table.add_row(ending[1:], f"{source.stat().st_size / 1e6:,.0f}", *figures, f"{ratio:.1f}")
        source.unlink()
    _print(table)


def _build_and_load(work: Path, sizes: Sequence[int], runs: int, parts: Sequence[str]) -> None:
    tables = {
        "build": _speed_table("Articles into request files", "disk alone"),
        "load": _speed_table("Result files into tables", "reading alone"),
    }
    for size in sizes:
        day = work / str(size)
        day.mkdir()
        for part, (byte_count, figures) in _figures(day, size, runs, parts).items():
            _add(tables[part], size, byte_count, figures)
        shutil.rmtree(day)
    for part in parts:
        if part in tables:
            _print(tables[part])


def _figures(day: Path, size: int, runs: int, parts: Sequence[str]) -> dict[str, tuple[int, dict[str, Measured]]]:
    """For "build" and "load": the bytes of the files, and the figures of each way."""
    found = {}
    articles = day / "articles.duckdb"
    fill(Database(str(articles)), size)
    plan, sample, written = _planned(day, articles)
    if "build" in parts:
        figures = _in_turn(
            runs,
            ours=lambda: _built(day, articles, build.ours),
            stdlib=lambda: _built(day, articles, build.stdlib),
            raw=lambda: _in_new_folder(day, build.raw, sample, written),
        )
        found["build"] = (written, figures)
    if "load" in parts:
        results = measured(load.make_results, str(plan), day / "results").result
        figures = _in_turn(
            runs,
            ours=lambda: _loaded(day, plan, results, load.ours),
            stdlib=lambda: _loaded(day, plan, results, load.stdlib),
            raw=lambda: measured_from_rest(load.raw, results),
        )
        found["load"] = (figures["raw"].result, figures)
    return found


def _planned(day: Path, articles: Path) -> tuple[Path, Path, int]:
    """A copy of the database after planning, one of the request files, and the bytes of all."""
    plan = day / "planned.duckdb"
    shutil.copy(articles, plan)
    written: int = measured(build.ours, str(plan), day / "plan").result
    sample = day / "sample.jsonl"
    next((day / "plan").rglob("*.jsonl")).replace(sample)
    shutil.rmtree(day / "plan")
    return plan, sample, written


def _in_turn(runs: int, **ways: Callable[[], Measured]) -> dict[str, Measured]:
    figures: dict[str, list[Measured]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            figures[name].append(way())
    return {name: median(some) for name, some in figures.items()}


def _built(day: Path, articles: Path, way: Callable[..., int]) -> Measured:
    database = day / "run.duckdb"
    shutil.copy(articles, database)
    return _in_new_folder(day, way, str(database))


def _in_new_folder(day: Path, way: Callable[..., int], *arguments: Any) -> Measured:
    """Measure a call whose second argument is a new folder."""
    folder = day / "run"
    folder.mkdir()
    try:
        return measured_from_rest(way, arguments[0], folder, *arguments[1:])
    finally:
        shutil.rmtree(folder)


def _loaded(day: Path, plan: Path, results: Any, way: Callable[..., int]) -> Measured:
    database = day / "run.duckdb"
    shutil.copy(plan, database)
    return measured_from_rest(way, str(database), results)


def _speed_table(title: str, alone: str) -> Table:
    columns = ("articles", "MB", "ours s", "CPU s", "peak MB", "articles/s", "stdlib s", "CPU s", "peak MB")
    return Table(*columns, f"{alone} s", "stdlib ÷ ours", f"ours ÷ {alone}", "µs/article", title=title)


def _add(table: Table, articles: int, byte_count: int, figures: dict[str, Measured]) -> None:
    ours, stdlib, raw = figures["ours"], figures["stdlib"], figures["raw"]
    table.add_row(
        f"{articles:,}",
        f"{byte_count / 1e6:,.0f}",
        f"{ours.wall_seconds:.2f}",
        f"{ours.cpu_seconds:.2f}",
        f"{ours.peak_bytes / 1e6:.0f}",
        f"{articles / ours.wall_seconds:,.0f}",
        f"{stdlib.wall_seconds:.2f}",
        f"{stdlib.cpu_seconds:.2f}",
        f"{stdlib.peak_bytes / 1e6:.0f}",
        f"{raw.wall_seconds:.2f}",
        f"{stdlib.wall_seconds / ours.wall_seconds:.1f}",
        f"{ours.wall_seconds / raw.wall_seconds:.1f}",
        f"{ours.wall_seconds / articles * 1e6:.1f}",
    )


def _ticks(numbers_of_days: Sequence[int]) -> None:
    table = Table("days in flight", "batches", "first tick s", "later ticks s", "HTTP calls", "cursor bytes")
    table.title = "A tick of the sensor"
    for days in numbers_of_days:
        for shards in (1, 3):
            took = measured(ticks.tick, days, shards).result
            table.add_row(
                f"{took.days:,}",
                f"{took.batches:,}",
                f"{took.first_seconds:.2f}",
                f"{took.seconds:.2f}",
                str(took.calls),
                f"{took.cursor_bytes:,}",
            )
    _print(table)


def _pipeline(work: Path, articles: int) -> None:
    table = Table("stage", "s", "CPU s", "peak MB", "server's CPU s", "server's peak MB")
    table.title = f"A day of {articles:,} articles, end to end"
    source = write_source(work / "source.parquet", articles)
    stages = measured(pipeline.whole_day, work, source).result
    for stage in stages:
        table.add_row(
            stage.name,
            f"{stage.wall_seconds:.1f}",
            f"{stage.cpu_seconds:.1f}",
            f"{stage.peak_bytes / 1e6:.0f}",
            f"{stage.server_cpu_seconds:.1f}",
            f"{stage.server_peak_bytes / 1e6:.0f}",
        )
    table.add_row(
        "all",
        f"{sum(stage.wall_seconds for stage in stages):.1f}",
        f"{sum(stage.cpu_seconds for stage in stages):.1f}",
        f"{max(stage.peak_bytes for stage in stages) / 1e6:.0f}",
        f"{sum(stage.server_cpu_seconds for stage in stages):.1f}",
        f"{max(stage.server_peak_bytes for stage in stages) / 1e6:.0f}",
    )
    _print(table)


def _rewrites(work: Path, articles: int, times: int) -> None:
    table = Table("day of", "MB when done first", "after 10 rewrites", "after all", "all ÷ first")
    table.title = f"The database file after {times} rewrites of one day"
    source = write_source(work / "rewritten.parquet", articles)
    sizes = measured(rewrites.sizes, work, source, times).result
    shown = (sizes[0], sizes[10], sizes[-1])
    table.add_row(f"{articles:,}", *(f"{size / 1e6:.1f}" for size in shown), f"{sizes[-1] / sizes[0]:.2f}")
    _print(table)


def _print(table: Table) -> None:
    Console(width=max(Console().width, 150)).print(table)


if __name__ == "__main__":
    main()
