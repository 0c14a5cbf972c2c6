"""Compresses and deletes the files and rows of old days. Deletes nothing that a day still needs.

A day is *done* if the result table of each task that has planned it has a row for each of its present articles and
requests, no row is pending, in flight or cancelled, and none of its batches is in flight. `prune` changes nothing of a
day that is not done, however old it is.
"""

import gzip
import os
import shutil
import uuid
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import duckdb

from batch_assets.batching.counting import counted
from batch_assets.batching.ledger import files
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.files import RemoteFiles
from batch_assets.batching.ledger.result_tables import create_view_of_results
from batch_assets.batching.task_day import FIRST_SOURCE

# The articles and their requests. The ledger, the answers and the result tables stay.
TABLES_OF_A_DAY = ("raw_articles", "rejected_article", "batch_request")
COMPRESSED = ".gz"

UNFINISHED = f"""
    SELECT partition_date FROM result_row WHERE status IN ('pending', 'in_flight', 'cancelled')
    -- its articles or its prompt have changed since the results were written
    UNION SELECT partition_date FROM raw_articles ANTI JOIN result_row USING (partition_date, article_id)
    UNION SELECT partition_date
        FROM raw_articles JOIN day_plan USING (source, partition_date)
        ANTI JOIN result_row USING (task, partition_date, article_id)
    UNION SELECT partition_date
        FROM batch_request ANTI JOIN result_row USING (task, partition_date, article_id, custom_id)
    UNION ({files.DAYS_IN_FLIGHT})
"""
OLD_AND_DONE = f"""
    SELECT DISTINCT partition_date FROM result_row
    WHERE partition_date < CAST($before AS DATE)
    EXCEPT ({UNFINISHED})
    ORDER BY partition_date
"""


@dataclass(frozen=True)
class RetentionPolicy:
    """What to delete, and when. Days are counted from the date of the partition; None: never.

    compress_after_days: when to compress result files.
    keep_days: when to delete request and result files, and what the next three name.
    tables: the day's articles, and its rows in `batch_request` and `quarantined_line`.
    answers: answers and failures that no day with requests needs. If the day is ingested again, a run buys them again.
    remote: OpenAI's copies of the files.
    """

    compress_after_days: int | None = 7
    keep_days: int = 90
    tables: bool = False
    answers: bool = False
    remote: bool = False


@dataclass
class PrunePlan:
    """What to compress and delete. Paths are absolute; `rows` are counts by table."""

    days: list[str] = field(default_factory=list)
    bytes_to_delete: int = 0
    to_compress: list[Path] = field(default_factory=list)
    to_delete: list[Path] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    remote_files: list[RemoteFiles] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """A line for each kind of file or row, for the user."""
        return [*self.lines_here, *self.lines_remote]

    @property
    def lines_here(self) -> list[str]:
        """Those of this disk and of the tables."""
        files_here = counted(len(self.to_delete), "request or result file", "request and result files")
        lines = {
            f"{files_here}, {self.bytes_to_delete / 1e6:,.1f} MB": len(self.to_delete),
            f"{counted(len(self.to_compress), 'result file')} (gzip)": len(self.to_compress),
            **{f"{counted(rows, 'row')} of {table}": rows for table, rows in self.rows.items()},
        }
        return [line for line, number in lines.items() if number]

    @property
    def lines_remote(self) -> list[str]:
        """That of the files at an API."""
        number = files.number_of_remote_files(self.remote_files)
        return [f"{counted(number, 'file')} at OpenAI"] if number else []


def plan_pruning(database: Database, *, data_folder: Path, policy: RetentionPolicy, today: date) -> PrunePlan:
    """What the policy allows to delete today. Changes nothing."""
    with database.reading() as connection:
        return _find(connection, data_folder, policy, today)


def prune(database: Database, *, data_folder: Path, policy: RetentionPolicy, today: date) -> PrunePlan:
    """Compress and delete what `plan_pruning` finds, except the files at OpenAI. Returns what was deleted."""
    to_compress = plan_pruning(database, data_folder=data_folder, policy=policy, today=today).to_compress
    for path in to_compress:  # outside of the lock, since it takes long
        with suppress(FileNotFoundError):  # another prune has compressed it at the same time
            _compress(path)
    with database.writing() as connection:
        found = _find(connection, data_folder, policy, today)
        # first the files: no later prune finds a file that the ledger does not name
        for path in found.to_delete:
            path.unlink(missing_ok=True)
        with transaction(connection):
            for path in to_compress:
                _rename(connection, data_folder, path, COMPRESSED)
            for path in found.to_delete:
                _rename(connection, data_folder, path, None)
            if policy.tables:
                _delete_rows(connection, found.days, answers=policy.answers)
        for path in to_compress:
            path.unlink(missing_ok=True)
    found.to_compress = to_compress
    return found


def first_kept_day(today: date, days: int) -> date:
    """The days before this one are older than so many days."""
    return today - timedelta(days=days)


def unfinished_days(database: Database) -> frozenset[str]:
    """The days that are not done. A day that no table has, for example one without articles, is not among them."""
    with database.reading() as connection:
        create_view_of_results(connection)
        rows = connection.execute(UNFINISHED, {"open_states": files.open_states()}).fetchall()
    return frozenset(day.isoformat() for (day,) in rows)


def _find(connection: duckdb.DuckDBPyConnection, data_folder: Path, policy: RetentionPolicy, today: date) -> PrunePlan:
    create_view_of_results(connection)
    found = PrunePlan(_done_before(connection, today, policy.keep_days))
    request_files = connection.execute(
        "SELECT path FROM batch_request_file WHERE partition_date IN (SELECT unnest($days)::DATE)",
        {"days": found.days},
    ).fetchall()
    old = _existing(data_folder, [*(path for (path,) in request_files), *files.result_files(connection, found.days)])
    found.to_delete = sorted([*old, *_left_behind(old)])
    if policy.compress_after_days is not None:
        days = _done_before(connection, today, policy.compress_after_days)
        existing = _existing(data_folder, files.result_files(connection, days))
        to_delete = {*found.to_delete, *_left_behind(existing)}
        found.to_delete = sorted(to_delete)
        found.to_compress = [path for path in existing if path.suffix != COMPRESSED and path not in to_delete]
    found.bytes_to_delete = sum(path.stat().st_size for path in found.to_delete)
    if policy.tables:
        found.rows = _count_rows(connection, found.days, answers=policy.answers)
    if policy.remote:
        found.remote_files = files.remote_files(connection, found.days)
    return found


def _done_before(connection: duckdb.DuckDBPyConnection, today: date, days: int) -> list[str]:
    before = first_kept_day(today, days).isoformat()
    rows = connection.execute(OLD_AND_DONE, {"before": before, "open_states": files.open_states()}).fetchall()
    return [day.isoformat() for (day,) in rows]


def _existing(data_folder: Path, paths: Sequence[str | None]) -> list[Path]:
    return sorted(path for name in paths if name is not None and (path := data_folder / name).exists())


def _left_behind(paths: Sequence[Path]) -> list[Path]:
    """Plain files beside compressed ones that the ledger names: the prune was killed before it deleted them."""
    return [plain for path in paths if path.suffix == COMPRESSED and (plain := path.with_suffix("")).exists()]


def _compress(path: Path) -> None:
    """Write the compressed file beside the plain one, complete or not at all. Raises OSError."""
    compressed = path.with_name(path.name + COMPRESSED)
    if compressed.exists() and _is_compressed(path, compressed):  # of a prune that was killed
        return
    unfinished = path.with_name(f".{compressed.name}.{uuid.uuid4().hex}")  # unique, since two prunes may run at once
    try:
        with path.open("rb") as plain, unfinished.open("wb") as file:
            with gzip.GzipFile(path.name, "wb", fileobj=file) as compressor:
                shutil.copyfileobj(plain, compressor, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        if not _is_compressed(path, unfinished):
            raise OSError(f"{path} could not be compressed: the compressed file has other bytes. The original stays.")
        unfinished.replace(compressed)
    finally:
        unfinished.unlink(missing_ok=True)


def _is_compressed(path: Path, compressed: Path) -> bool:
    """Whether the compressed file has the bytes of the plain one."""
    try:
        with path.open("rb") as plain, gzip.open(compressed) as decompressed:
            while block := plain.read(1 << 20):
                if decompressed.read(len(block)) != block:
                    return False
            return not decompressed.read(1)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return False


def _rename(connection: duckdb.DuckDBPyConnection, data_folder: Path, path: Path, ending: str | None) -> None:
    """Record in the ledger that the file has this additional ending; None: that it was deleted."""
    old = path.relative_to(data_folder).as_posix()
    files.rename_result_file(connection, old, None if ending is None else old + ending)


def _count_rows(connection: duckdb.DuckDBPyConnection, days: list[str], *, answers: bool) -> dict[str, int]:
    counts = {}
    for table, where in _rows_to_delete(answers=answers).items():
        row = connection.execute(f"SELECT count(*) FROM {table} WHERE {where}", {"days": days}).fetchone()
        counts[table] = int(row[0]) if row else 0
    return counts


def _delete_rows(connection: duckdb.DuckDBPyConnection, days: list[str], *, answers: bool) -> None:
    connection.execute(
        """
        INSERT INTO pruned_day (source, partition_date)
        SELECT source, partition_date FROM (
            SELECT source, partition_date FROM raw_articles UNION SELECT source, partition_date FROM day_plan
            UNION SELECT $first_source, unnest($days)::DATE
        )
        WHERE partition_date IN (SELECT unnest($days)::DATE)
        EXCEPT SELECT source, partition_date FROM pruned_day
        """,
        {"days": days, "first_source": FIRST_SOURCE},
    )
    # first the answers: their condition reads the other tables
    for table, where in reversed(_rows_to_delete(answers=answers).items()):
        connection.execute(f"DELETE FROM {table} WHERE {where}", {"days": days})


def _rows_to_delete(*, answers: bool) -> dict[str, str]:
    """table → SQL condition of the rows to delete, with the parameter `days`."""
    of_the_days = "partition_date IN (SELECT unnest($days)::DATE)"
    of_their_batches = f"batch_id IN ({files.BATCHES_OF_DAYS})"
    conditions = {**dict.fromkeys(TABLES_OF_A_DAY, of_the_days), "quarantined_line": of_their_batches}
    if answers:
        needed = f"SELECT custom_id FROM batch_request WHERE NOT {of_the_days}"
        conditions |= dict.fromkeys(
            ("completion", "failed_request"), f"{of_their_batches} AND custom_id NOT IN ({needed})"
        )
    return conditions
