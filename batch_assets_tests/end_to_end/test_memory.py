"""Guards against a day that has to fit into memory: it is the disk that must have room for it."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_assets.batching.articles import ingest_day
from batch_assets.batching.database import Database
from batch_assets.batching.requests import plan_day
from batch_assets.batching.task import Task
from batch_assets_tests.memory import peak_bytes

DAY = "2026-01-05"
ARTICLES = 120_000  # of 2.5 kB each: 300 MB, and about as much again as request lines
MOST_BYTES = 450_000_000  # the interpreter, DuckDB's limit, and blocks of lines; with the day in it, it would be 900 MB


def plan(folder: Path, peak: "multiprocessing.Queue[int]") -> None:
    database = Database(str(folder / "test.duckdb"), memory_limit="256MB")
    with database.writing() as connection:
        connection.execute(
            """
            INSERT INTO raw_articles
            SELECT DATE '2026-01-05', number::VARCHAR, 'Title', repeat(md5(number::VARCHAR) || ' ', 76), NULL, NULL
            FROM range(?) AS numbers(number)
            """,
            [ARTICLES],
        )
    planned = plan_day(database, day=DAY, task=Task("gpt-6-luna"), data_folder=folder, max_rounds=3)
    assert sum(shard.requests for shard in planned.shards) == ARTICLES
    assert sum(shard.bytes for shard in planned.shards) > 300_000_000
    peak.put(peak_bytes())


def ingest(folder: Path, peak: "multiprocessing.Queue[int]") -> None:
    database = Database(str(folder / "test.duckdb"), memory_limit="256MB")
    assert ingest_day(database, source=str(folder / "{partition}.jsonl"), day=DAY).articles == ARTICLES
    peak.put(peak_bytes())


@pytest.mark.end_to_end
@pytest.mark.parametrize("work", [ingest, plan])
def test_a_day_is_read_and_planned_in_bounded_memory(
    tmp_path: Path, work: "Callable[[Path, multiprocessing.Queue[int]], None]"
) -> None:
    if work is ingest:
        text = "a text that is long " * 125
        with (tmp_path / f"{DAY}.jsonl").open("w") as file:
            file.writelines(f'{{"id": "{number}", "body": "{number} {text}"}}\n' for number in range(ARTICLES))
    spawn = multiprocessing.get_context("spawn")
    peak: multiprocessing.Queue[int] = spawn.Queue()
    process = spawn.Process(target=work, args=(tmp_path, peak))
    process.start()
    assert peak.get(timeout=240) < MOST_BYTES
    process.join(20)
    assert process.exitcode == 0
