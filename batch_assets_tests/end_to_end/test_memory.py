"""The memory of a day is bounded: a day must fit on the disk, not into memory."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_assets.batching.collection.day_results import write_results
from batch_assets.batching.collection.ended_batches import EndedBatch, in_groups
from batch_assets.batching.collection.load import load_results
from batch_assets.batching.ingest.articles import ingest_day
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.requests import RequestStateRules
from batch_assets.batching.planning.plan import plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.batches import now_utc
from batch_assets_tests.end_to_end.processes import WAIT_SECONDS
from batch_assets_tests.first_task import RESULTS
from batch_assets_tests.memory import peak_bytes

DAY = "2026-01-05"
SHARDS = 3
ARTICLES = 120_000  # of 2.5 kB each: 300 MB, and about as much again as request lines
MAX_BYTES = 450_000_000  # the interpreter, DuckDB's limit, and blocks of lines; with the whole day it would be 900 MB


def plan(folder: Path, peak: "multiprocessing.Queue[int]") -> None:
    database = Database(str(folder / "test.duckdb"), memory_limit="256MB")
    with database.writing() as connection:
        connection.execute(
            """
            INSERT INTO raw_articles (partition_date, article_id, title, body, url, published_at)
            SELECT DATE '2026-01-05', number::VARCHAR, 'Title', repeat(md5(number::VARCHAR) || ' ', 76), NULL, NULL
            FROM range(?) AS numbers(number)
            """,
            [ARTICLES],
        )
    options = PlanOptions(max_rounds=3)
    planned = plan_day(database, day=DAY, task=Task("gpt-6-luna"), data_folder=folder, options=options)
    assert sum(shard.requests for shard in planned.shards) == ARTICLES
    assert sum(shard.bytes for shard in planned.shards) > 300_000_000
    peak.put(peak_bytes())


def ingest(folder: Path, peak: "multiprocessing.Queue[int]") -> None:
    database = Database(str(folder / "test.duckdb"), memory_limit="256MB")
    assert ingest_day(database, source=str(folder / "{partition}.jsonl"), day=DAY).articles == ARTICLES
    peak.put(peak_bytes())


def load(folder: Path, peak: "multiprocessing.Queue[int]") -> None:
    database = Database(str(folder / "test.duckdb"), memory_limit="256MB")
    with database.writing() as connection:
        connection.execute(
            """
            INSERT INTO raw_articles (partition_date, article_id, title, body, url, published_at)
            SELECT DATE '2026-01-05', number::VARCHAR, 'Title', 'Body', NULL, NULL FROM range(?) AS numbers(number)
            """,
            [ARTICLES],
        )
        connection.execute(
            "INSERT INTO batch_request (partition_date, article_id, custom_id) "
            "SELECT partition_date, article_id, md5(article_id) FROM raw_articles"
        )
        connection.execute(
            "INSERT INTO in_flight_request SELECT custom_id, (article_id::INT % ?)::VARCHAR FROM batch_request",
            [SHARDS],
        )
        connection.execute(
            """
            INSERT INTO openai_batch (submission_id, partition_date, plan, round, shard, state, attempt, batch_id)
            SELECT shard::VARCHAR, DATE '2026-01-05', 1, 1, shard, 'ended', 1, 'batch_' || shard
            FROM range(?) AS shards(shard)
            """,
            [SHARDS],
        )
        files = {str(shard): {"output": folder / f"{shard}.jsonl"} for shard in range(SHARDS)}
        for key, path in [(key, kinds["output"]) for key, kinds in files.items()]:
            connection.execute(
                f"""
                COPY (
                    SELECT custom_id, {{'status_code': 200, 'body': {{'choices': [
                        {{'message': {{'content': custom_id || repeat(' ' || custom_id, 75)}}, 'finish_reason': 'stop'}}
                    ]}}}} AS response FROM in_flight_request WHERE submission_id = '{key}'
                ) TO '{path}' (FORMAT json)
                """
            )
    ended = [EndedBatch(key, f"batch_{key}", "gpt-6-luna", "completed", now_utc(), files[key]) for key in files]
    answered = 0
    for group in in_groups(ended):
        with database.writing() as connection, transaction(connection):
            answered += sum(batch.answered for batch in load_results(connection, group).values())
    assert answered == ARTICLES
    assert write_results(database, RESULTS, DAY, RequestStateRules()).requests == {"answered": ARTICLES}
    peak.put(peak_bytes())


@pytest.mark.end_to_end
@pytest.mark.timeout(900)
@pytest.mark.parametrize("work", [ingest, plan, load])
def test_a_day_is_read_planned_and_loaded_in_bounded_memory(
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
    process.join(WAIT_SECONDS)
    assert process.exitcode == 0
    assert peak.get(timeout=10) < MAX_BYTES
