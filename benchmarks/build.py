"""A day's articles → request files: our code, a simple loop in its place, and the disk alone."""

import csv
import hashlib
import os
from pathlib import Path

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.planning.plan import plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.request_lines import CUSTOM_ID_CHARACTERS
from batch_assets.batching.planning.shards import MAX_BYTES_PER_FILE, MAX_REQUESTS_PER_FILE
from batch_assets.batching.provider.endpoint import CHAT_COMPLETIONS, as_json
from batch_assets_tests.rendered import rendered
from benchmarks.data import DAY, NO_LIMIT, TASK


def ours(database_path: str, folder: Path) -> int:
    """Plan the day, as the asset does; returns the bytes written."""
    plan = plan_day(Database(database_path), day=DAY, task=TASK, data_folder=folder, options=PlanOptions(max_rounds=3))
    return sum(shard.bytes for shard in plan.shards)


def stdlib(database_path: str, folder: Path) -> int:
    """The same files and rows by a loop of `json.dumps` over `fetchmany`; it knows of no earlier answers."""
    written, shard, requests, size = 0, 0, 0, 0
    with Database(database_path, memory_limit=NO_LIMIT).writing() as connection:
        connection.execute("BEGIN")
        rows = connection.execute(
            "SELECT article_id, title, body, url, published_at FROM raw_articles WHERE partition_date = $1", [DAY]
        )
        names = ("article_id", "title", "body", "url", "published_at")
        notes_path = folder / "notes.csv"
        file, digest = _shard(folder, 0).open("wb", buffering=1 << 20), hashlib.sha256()
        with notes_path.open("w", newline="") as notes_file:
            notes = csv.writer(notes_file)
            while some := rows.fetchmany(2000):
                for row in some:
                    body = as_json(rendered(TASK, dict(zip(names, row, strict=True))))
                    asked = hashlib.sha256(f"POST {CHAT_COMPLETIONS.path}\n{body}".encode())
                    custom_id = asked.hexdigest()[:CUSTOM_ID_CHARACTERS]
                    head = f'{{"custom_id":"{custom_id}","method":"POST","url":"{CHAT_COMPLETIONS.path}","body":'
                    line = f"{head}{body}}}\n".encode()
                    if requests == MAX_REQUESTS_PER_FILE or size + len(line) > MAX_BYTES_PER_FILE:
                        _close(file)
                        shard, requests, size = shard + 1, 0, 0
                        file, digest = _shard(folder, shard).open("wb", buffering=1 << 20), hashlib.sha256()
                    file.write(line)
                    digest.update(line)
                    notes.writerow((row[0], custom_id, shard))
                    requests, size, written = requests + 1, size + len(line), written + len(line)
        digest.hexdigest()
        _close(file)
        connection.execute(
            """
            CREATE TEMP TABLE request_index AS SELECT * FROM read_csv(
                $1, header = false, columns = {'article_id': 'VARCHAR', 'custom_id': 'VARCHAR', 'shard': 'INTEGER'}
            )
            """,
            [str(notes_path)],
        )
        connection.execute(
            "INSERT INTO batch_request SELECT $1, article_id, custom_id, 'summaries' FROM request_index", [DAY]
        )
        connection.execute("INSERT INTO in_flight_request SELECT custom_id, shard::VARCHAR FROM request_index")
        connection.execute("COMMIT")
    return written


def raw(sample: Path, folder: Path, written: int) -> int:
    """Write as many bytes of request lines, in as large files, and sync each; nothing else."""
    block, left, shard = sample.read_bytes()[: 8 << 20], written, 0
    while left:
        file, free_bytes = _shard(folder, shard).open("wb", buffering=0), min(left, MAX_BYTES_PER_FILE)
        left, shard = left - free_bytes, shard + 1
        while free_bytes:
            free_bytes -= file.write(block[:free_bytes])
        os.fsync(file.fileno())
        file.close()
    return written


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:04d}.jsonl"


def _close(file: object) -> None:
    file.flush()  # type: ignore[attr-defined]
    os.fsync(file.fileno())  # type: ignore[attr-defined]
    file.close()  # type: ignore[attr-defined]
