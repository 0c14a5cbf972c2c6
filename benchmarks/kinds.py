"""Tasks whose answers are vectors, or whose requests have images: time, memory, and the sizes of the files.

    python -m benchmarks.kinds embeddings               200,000 articles, 1,536 numbers each: five minutes, 8 GB of disk
    python -m benchmarks.kinds images                   1,000 images, through the local Batch API: two minutes
    python -m benchmarks.kinds embeddings --articles 2000   to check that it works

Each stage is a process of its own; the peak is that of the process. The result files of `embeddings` are made here,
with vectors as OpenAI writes them; those of `images` are the answers of the built-in engine.
"""

import io
import json
import os
import random
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import openai
from PIL import Image
from rich.console import Console
from rich.table import Table

from batch_assets.batching.collection.collect import collect_day
from batch_assets.batching.collection.day_results import write_results
from batch_assets.batching.collection.ended_batches import EndedBatch, in_groups
from batch_assets.batching.collection.load import load_results
from batch_assets.batching.ingest.articles import Source, ingest_day
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.requests import RequestStateRules
from batch_assets.batching.planning.plan import plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.task import Task
from batch_assets.batching.submission.submit import submit_day
from batch_assets.batching.submission.submitter import make_submitter
from batch_assets.task_set import result_table
from batch_assets_tests.conftest import serving
from batch_assets_tests.vector_task import vector_task
from benchmarks.data import DAY, fill
from benchmarks.measure import Measured, measured

ENDED_AT = datetime(2026, 1, 6)  # noqa: DTZ001 - as the tables have it: UTC, without zone
NUMBERS, DIFFERENT_VECTORS = 1536, 500
VECTORS = vector_task(name="vectors")
CAPTIONS = Task(
    "gpt-6-luna",
    name="captions",
    user_template="Describe this image.",
    columns=("picture",),
    image="picture",
    image_detail="low",
    answer_column="caption",
)
NEAREST = """
    SELECT other.article_id FROM vectors AS this, vectors AS other
    WHERE this.article_id = $1 AND other.article_id <> $1
    ORDER BY array_cosine_similarity(this.embedding, other.embedding) DESC LIMIT 10
"""


@click.group()
def main() -> None:
    """Vectors and images."""


@main.command()
@click.option("--articles", default=200_000, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work.  [default: a temporary folder]")
def embeddings(articles: int, folder: Path | None) -> None:
    """Plan a day, load its vectors, write the table, and find the nearest vectors of one."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = str(Path(name) / "vectors.duckdb")
        measured(fill_articles, path, articles)
        planned = measured(plan, path, VECTORS, {})
        files = measured(write_vectors, path).result
        stages = {
            "plan": planned,
            "load": measured(load_vectors, path, files),
            "table": measured(write_table, path),
            "nearest of one": measured(nearest, path),
        }
        result_bytes = sum(Path(file).stat().st_size for file in files.values())
        database_bytes = Path(path).stat().st_size
    inputs = max(requests for requests, _ in planned.result)
    _print(
        f"{articles:,} vectors of {NUMBERS:,}, {len(planned.result)} request files of at most {inputs:,} inputs, "
        f"{result_bytes / 1e9:.2f} GB of results, a database of {database_bytes / 1e9:.2f} GB",
        stages,
    )


@main.command()
@click.option("--images", "number", default=1000, show_default=True, help="Three of ten are URLs.")
@click.option("--kilobytes", default=400, show_default=True, help="Of a file.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work.  [default: a temporary folder]")
def images(number: int, kilobytes: int, folder: Path | None) -> None:
    """From a folder of images and a table of URLs to captions. Two more images cannot be sent."""
    with tempfile.TemporaryDirectory(dir=folder) as name, serving(Path(name) / "api") as api:
        work = Path(name)
        draw(work, number, kilobytes)
        path = str(work / "captions.duckdb")
        stages = {
            "read": measured(read, path, work),
            "plan": measured(plan, path, CAPTIONS, {"folder": work / "pictures"}),
        }
        stages["submit"] = measured(submit, path, api.url, work)
        stages["answers"] = measured(wait, api.url, stages["submit"].result)
        stages["collect"] = measured(collect, path, api.url, work)
        files = stages["plan"].result
    _print(
        f"{number:,} images, {len(files)} request files of at most {max(size for _, size in files) / 1e6:.0f} MB",
        stages,
    )
    Console().print(*stages["collect"].result, sep="\n")


def fill_articles(path: str, articles: int) -> None:
    fill(Database(path), articles)


def plan(path: str, task: Task, options: dict[str, Any]) -> list[tuple[int, int]]:
    """Returns requests and bytes of each request file."""
    chosen = PlanOptions(max_rounds=3, image_folder=options.get("folder"))
    planned = plan_day(Database(path), day=DAY, task=task, data_folder=Path(path).parent, options=chosen)
    return [(shard.requests, shard.bytes) for shard in planned.shards]


def write_vectors(path: str) -> dict[str, str]:
    """A result file of each request file, by its submission."""
    files: dict[str, str] = {}
    chance = random.Random(1)
    vectors = [json.dumps([chance.gauss(0, 0.025) for _ in range(NUMBERS)]) for _ in range(DIFFERENT_VECTORS)]
    with Database(path).writing() as connection:
        connection.execute(
            "UPDATE openai_batch SET state = 'ended', batch_id = 'batch_' || submission_id, submitted_at = $1",
            [ENDED_AT],
        )
        for (key,) in connection.execute("SELECT submission_id FROM openai_batch ORDER BY shard").fetchall():
            found = connection.execute("SELECT custom_id FROM in_flight_request WHERE submission_id = $1", [key])
            files[key] = str(Path(path).with_name(f"{key}.jsonl"))
            with Path(files[key]).open("w", encoding="utf-8") as file:
                file.writelines(_vector_line(custom_id, chance.choice(vectors)) for (custom_id,) in found.fetchall())
    return files


def _vector_line(custom_id: str, vector: str) -> str:
    return (
        f'{{"id":"batch_req_1","custom_id":"{custom_id}","response":{{"status_code":200,"request_id":"req_1","body":'
        f'{{"object":"list","data":[{{"object":"embedding","index":0,"embedding":{vector}}}],'
        '"model":"text-embedding-3-small","usage":{"prompt_tokens":640,"total_tokens":640}}},"error":null}\n'
    )


def load_vectors(path: str, files: dict[str, str]) -> None:
    """Load the result files as the asset does."""
    database = Database(path)
    ended = [
        EndedBatch(
            key, f"batch_{key}", VECTORS.model, "completed", ENDED_AT, {"output": Path(file)},
            endpoint=VECTORS.endpoint, vector_length=NUMBERS,
        )
        for key, file in files.items()
    ]  # fmt: skip
    for group in in_groups(ended):
        with database.writing() as connection, transaction(connection):
            load_results(connection, group)


def write_table(path: str) -> None:
    write_results(Database(path), result_table(VECTORS), DAY, RequestStateRules())


def nearest(path: str) -> list[str]:
    with Database(path).reading() as connection:
        rows = connection.execute(NEAREST, ["article-00000007"]).fetchall()
    return [article for (article,) in rows]


def draw(folder: Path, number: int, kilobytes: int) -> None:
    """Images of noise, three of ten as URLs, and two that cannot be sent."""
    (folder / "pictures").mkdir()
    rows: list[dict[str, str]] = []
    for place in range(number):
        is_url = place % 10 < 3
        name = f"https://pictures.example/{place}.png" if is_url else f"{place}.png"
        if not is_url:
            (folder / "pictures" / name).write_bytes(_png(kilobytes))
        rows.append({"id": f"picture-{place}", "picture": name})
    (folder / "pictures" / "large.png").write_bytes(_png(10) + bytes(20_000_000))
    rows += [{"id": "large", "picture": "large.png"}, {"id": "missing", "picture": "missing.png"}]
    lines = (json.dumps({**row, "published_at": f"{DAY}T08:00:00Z"}) + "\n" for row in rows)
    (folder / "pictures.jsonl").write_text("".join(lines), encoding="utf-8")


def _png(kilobytes: int) -> bytes:
    """Of so many kilobytes: noise has no shorter form."""
    side = max(8, int((kilobytes * 1000 / 3) ** 0.5))
    content = io.BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(3 * side * side)).save(content, "PNG", compress_level=1)
    return content.getvalue()


def read(path: str, folder: Path) -> None:
    source = Source(str(folder / "pictures.jsonl"), extra=("picture",), needs_body=False)
    ingest_day(Database(path), source=source, day=DAY)


def submit(path: str, url: str, folder: Path) -> list[str]:
    with _client(url) as client:
        return list(submit_day(make_submitter(Database(path), client, folder, "run"), CAPTIONS.on(DAY)).batch_ids)


def wait(url: str, batch_ids: Sequence[str]) -> None:
    with _client(url) as client:
        while any(client.batches.retrieve(batch_id).status != "completed" for batch_id in batch_ids):
            time.sleep(0.5)


def collect(path: str, url: str, folder: Path) -> list[tuple[Any, ...]]:
    """Returns how many captions there are, by status and code, and one of the messages."""
    database = Database(path)
    with _client(url) as client:
        collect_day(database, client, day=DAY, results=result_table(CAPTIONS), data_folder=folder, max_rounds=3)
    statement = "SELECT status, error_code, count(*), min(error_message) FROM captions GROUP BY ALL ORDER BY ALL"
    with database.reading() as connection:
        return connection.execute(statement).fetchall()


def _client(url: str) -> Any:
    return openai.OpenAI(api_key="local", base_url=url)


def _print(title: str, stages: dict[str, Measured]) -> None:
    table = Table("", "s", "CPU s", "peak MB", title=title)
    for name, took in stages.items():
        table.add_row(name, f"{took.wall_seconds:.1f}", f"{took.cpu_seconds:.1f}", f"{took.peak_bytes / 1e6:.0f}")
    Console(width=max(Console().width, 120)).print(table)


if __name__ == "__main__":
    main()
