"""Answers with an output schema of eight fields, compared with the same answers as plain text.

    python -m benchmarks.structured                     100,000 result lines: three minutes
    python -m benchmarks.structured --answers 5000 --runs 1   to check that it works

Both load the same result files. "load" reads them into `completion`, and judges each answer if there is a schema.
"table" writes the answers into the table of results, with a column for each field or in one text column. Each figure is
the median of several runs in turn, each in a process of its own after a pause of ten seconds; the peak is that of the
process. Compare the ratios: the seconds depend on this machine and on its other processes.
"""

import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from batch_assets.batching.collection.ended_batches import EndedBatch, in_groups
from batch_assets.batching.collection.load import load_results
from batch_assets.batching.collection.result_table import prepare_result_table, text_answers, typed_answers
from batch_assets.batching.ledger.database import Database, fixed_join_order, transaction
from batch_assets.batching.planning.plan import plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.output_schema.columns import AnswerColumn, answer_columns, structure
from benchmarks.data import DAY, TASK, WORDS, fill
from benchmarks.measure import measured, measured_from_rest

ENDED_AT = datetime.fromisoformat("2026-01-06")  # as the tables have it: UTC, without zone
TEXT = {"type": "string"}
AUTHOR = {"name": TEXT, "organization": TEXT}
FIELDS: dict[str, Any] = {
    "headline": {**TEXT, "description": "One sentence."},
    "section": {**TEXT, "enum": ["politics", "economy", "science", "culture", "sport"]},
    "importance": {"type": "integer", "minimum": 0, "maximum": 10},
    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    "is_opinion": {"type": "boolean"},
    "topics": {"type": "array", "items": TEXT, "maxItems": 5},
    "author": {"type": "object", "properties": AUTHOR, "required": [*AUTHOR], "additionalProperties": False},
    "place": {"type": ["string", "null"]},
}
SCHEMA = {"type": "object", "properties": FIELDS, "required": [*FIELDS], "additionalProperties": False}
BODY = {
    "id": "chatcmpl-0123456789", "object": "chat.completion", "created": 1767571200, "model": TASK.model,
    "usage": {
        "prompt_tokens": 640, "completion_tokens": 130, "total_tokens": 770,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
    "service_tier": "default", "system_fingerprint": "fp_1a2b3c4d5e",
}  # fmt: skip
WAYS: Mapping[str, Mapping[str, Any] | None] = {"plain text": None, "schema": SCHEMA}


class Phase(NamedTuple):
    """What a part of the work took."""

    wall_seconds: float
    cpu_seconds: float


@click.command()
@click.option("--answers", default=100_000, show_default=True, help="Result lines; one in 400 does not fit the schema.")
@click.option("--runs", default=3, show_default=True, help="Runs of each measurement; the median counts.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work.  [default: a temporary folder]")
def main(answers: int, runs: int, folder: Path | None) -> None:
    """Print seconds, CPU seconds and peak memory of both, and their ratios."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        results = measured(make_results, work / "planned.duckdb", answers).result
        found: dict[str, list[tuple[dict[str, Phase], int]]] = {way: [] for way in WAYS}
        for _ in range(runs):
            for way, schema in WAYS.items():
                shutil.copy(work / "planned.duckdb", work / "run.duckdb")
                took = measured_from_rest(load_and_write, str(work / "run.duckdb"), results, schema)
                found[way].append((took.result, took.peak_bytes))
        file_bytes = sum(path.stat().st_size for path in results.values())
    _print(f"{answers:,} answers, {file_bytes / 1e6:,.0f} MB", found)


def make_results(path: Path, answers: int) -> dict[str, Path]:
    """Plan a day of so many articles, and write a result file of each request file; returns them by submission."""
    database = Database(str(path))
    fill(database, answers)
    plan_day(database, day=DAY, task=TASK, data_folder=path.parent, options=PlanOptions(max_rounds=3))
    results = {}
    with database.writing() as connection:
        connection.execute(
            "UPDATE openai_batch SET state = 'ended', batch_id = 'batch_' || submission_id, submitted_at = $1",
            [ENDED_AT],
        )
        texts = _texts()
        for (key,) in connection.execute("SELECT submission_id FROM openai_batch ORDER BY shard").fetchall():
            ids = connection.execute(
                "SELECT custom_id FROM in_flight_request WHERE submission_id = $1", [key]
            ).fetchall()
            results[key] = path.with_name(f"{key}.jsonl")
            with results[key].open("w", encoding="utf-8") as file:
                file.writelines(_line(custom_id, next(texts)) for (custom_id,) in ids)
    return results


def load_and_write(path: str, results: Mapping[str, Path], schema: Mapping[str, Any] | None) -> dict[str, Phase]:
    """Load the result files as the asset does, and write the answers into a table of results."""
    database = Database(path)
    ended = [
        EndedBatch(key, f"batch_{key}", TASK.model, "completed", ENDED_AT, {"output": file}, output_schema=schema)
        for key, file in results.items()
    ]

    def load() -> None:
        for group in in_groups(ended):
            with database.writing() as connection, transaction(connection):
                load_results(connection, group)

    return {"load": _timed(load), "table": _timed(lambda: write_table(database, schema))}


def write_table(database: Database, schema: Mapping[str, Any] | None) -> None:
    """Write all answers into the new table `task`."""
    columns = (AnswerColumn("summary", "VARCHAR"),) if schema is None else answer_columns(schema)
    with database.writing() as connection, transaction(connection):
        present = prepare_result_table(connection, "task", columns, has_schema=False)
        parts = text_answers(present) if schema is None else typed_answers(columns, present)
        parameters = {"day": DAY} if schema is None else {"day": DAY, "structure": structure(schema)}
        with fixed_join_order(connection):
            connection.execute(
                f"""
                INSERT INTO task (
                    partition_date, article_id, title, url, published_at, {parts.columns}, status, finish_reason, model,
                    api, input_tokens, output_tokens, cost_usd, custom_id, batch_id, answered_at
                )
                WITH typed AS MATERIALIZED (SELECT * EXCLUDE text, {parts.value} AS answer FROM completion)
                SELECT
                    partition_date, article_id, title, url, published_at, {parts.values}, 'answered', finish_reason,
                    model, api, input_tokens, output_tokens, cost_usd, custom_id, batch_id, completed_at
                FROM typed JOIN (
                    SELECT partition_date, article_id, title, url, published_at, custom_id
                    FROM raw_articles JOIN batch_request USING (partition_date, article_id)
                    WHERE partition_date = CAST($day AS DATE)
                ) AS article USING (custom_id)
                """,
                parameters,
            )


def _timed(work: Callable[[], None]) -> Phase:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Phase(time.perf_counter() - wall, time.process_time() - cpu)


def _texts() -> Iterator[str]:
    """Answers, of which one in 400 does not fit the schema."""
    chance, words = random.Random(1), WORDS.split()
    number = 0
    while True:
        number += 1
        value = {
            "headline": " ".join(chance.choices(words, k=40)),
            "section": chance.choice(FIELDS["section"]["enum"]),
            "importance": 11 if number % 400 == 0 else chance.randrange(11),
            "confidence": round(chance.random(), 3),
            "is_opinion": chance.random() < 0.2,
            "topics": chance.choices(words, k=chance.randrange(6)),
            "author": {"name": " ".join(chance.choices(words, k=2)), "organization": chance.choice(words)},
            "place": chance.choice([None, *words[:50]]),
        }
        yield json.dumps(value, ensure_ascii=False)


def _line(custom_id: str, text: str) -> str:
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    body = {**BODY, "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]}
    response = {"status_code": 200, "request_id": f"req_{custom_id}", "body": body}
    line = {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": response, "error": None}
    return json.dumps(line, ensure_ascii=False) + "\n"


def _print(title: str, found: Mapping[str, list[tuple[dict[str, Phase], int]]]) -> None:
    table = Table("", "plain text s", "CPU s", "peak MB", "schema s", "CPU s", "peak MB", "s ÷", "CPU s ÷", title=title)
    for name, phases in {"load": ["load"], "table": ["table"], "both": ["load", "table"]}.items():
        wall, cpu = (
            [median(sum(took[phase][index] for phase in phases) for took, _ in found[way]) for way in WAYS]
            for index in (0, 1)
        )
        peaks = [f"{max(peak for _, peak in found[way]) / 1e6:.0f}" if name == "both" else "" for way in WAYS]
        figures = [(f"{wall[way]:.2f}", f"{cpu[way]:.2f}", peaks[way]) for way in (0, 1)]
        table.add_row(name, *figures[0], *figures[1], f"{wall[1] / wall[0]:.2f}", f"{cpu[1] / cpu[0]:.2f}")
    Console(width=max(Console().width, 120)).print(table)


if __name__ == "__main__":
    main()
