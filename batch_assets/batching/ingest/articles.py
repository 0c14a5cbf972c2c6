"""Replaces days in `raw_articles` by the present rows of the source, which is read once for all of them.

No row of a source is dropped silently. Rows that are no article go to `rejected_article` with file, line and reason:
those of a day with the day, and those that belong to no day (`malformed`, `undated`) without one, once for each file.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from batch_assets.batching.counting import counted
from batch_assets.batching.ingest.check import Checked, check_rows
from batch_assets.batching.ingest.errors import MAX_NAME, SourceError, errors_of, shortened
from batch_assets.batching.ingest.files_of_days import files_of_days
from batch_assets.batching.ingest.queries import selects_day
from batch_assets.batching.ingest.source import Kind, Source
from batch_assets.batching.ingest.stage import Staged, connection_to, database_in_memory, stage
from batch_assets.batching.ingest.tables import Ingested, ReadRows, record_rows_without_day, replace_rows_of_day
from batch_assets.batching.ingest.unchanged import check_unchanged
from batch_assets.batching.ledger.database import Database

__all__ = ["Ingested", "ReadSource", "Source", "SourceError", "ingest_day", "preview_day", "read_source"]


@dataclass(frozen=True)
class ReadSource:
    """A source that was read for several days. Several threads may replace days at the same time.

    rows: None for a source that selects a day's rows itself: it is read for each day when the day is replaced.
    """

    database: Database
    source: Source
    days: frozenset[str]
    scratch: Path
    rows: ReadRows | None = None

    def replace_day(self, day: str, *, keep_if_empty: bool = False) -> Ingested:
        """Replace the day in `raw_articles` and `rejected_article` by the rows that were read.

        day: one of `days`. keep_if_empty: do not change a day that has articles if the source has none for it now.
        Raises SourceError; then, the day was not changed. No error changes another day.
        """
        if day not in self.days:
            raise ValueError(f"the source was not read for {day}")
        if self.rows is not None:
            with self.database.writing() as connection:
                return replace_rows_of_day(connection, day, self.rows, keep_if_empty=keep_if_empty)
        with _scratch_folder(self.scratch) as scratch:
            rows = _read_rows(self.database, self.source, [day], scratch)
            with self.database.writing() as connection:
                record_rows_without_day(connection, rows)
                _check_malformed_share(self.source, rows)
                return replace_rows_of_day(connection, day, rows, keep_if_empty=keep_if_empty)


@contextmanager
def read_source(database: Database, source: Source | str, days: Sequence[str]) -> Iterator[ReadSource]:
    """Read the source once for all of these days, which `replace_day` of the result then replaces one by one.

    source: a `Source`, or only its location. Without `{partition}` or `$day` in it, `published_at` (UTC if it has no
    zone) selects a day's rows. With one of them, the source is read for each day by `replace_day`.
    days: `2026-01-05`, …; the days that may be replaced, in any order.
    Raises SourceError if no day can be read; then, no day was changed.
    """
    source = Source(source) if isinstance(source, str) else source
    with _scratch_folder() as scratch:
        read = ReadSource(database, source, frozenset(days), scratch)
        with errors_of(source.location, is_query=source.kind is not Kind.FILES):
            is_read_by_day = not days or selects_day(source)
        if not is_read_by_day:
            rows = _read_rows(database, source, sorted(set(days)), scratch)
            with database.writing() as connection:
                record_rows_without_day(connection, rows)
            _check_malformed_share(source, rows)
            read = ReadSource(database, source, frozenset(days), scratch, rows)
        yield read


def ingest_day(database: Database, *, source: Source | str, day: str, keep_if_empty: bool = False) -> Ingested:
    """Read the source for one day, and replace the day: `read_source` and `replace_day`, with one connection less."""
    source = Source(source) if isinstance(source, str) else source
    with _scratch_folder() as scratch:
        return ReadSource(database, source, frozenset([day]), scratch).replace_day(day, keep_if_empty=keep_if_empty)


def preview_day(database: Database, source: Source, day: str) -> Ingested:
    """What `ingest_day` would find. Changes nothing. Raises SourceError."""
    with _scratch_folder() as scratch:
        rows = _read_rows(database, source, [day], scratch)
    _check_malformed_share(source, rows)
    return Ingested(
        rows.checked.articles.get(day, 0), rows.checked.reasons.get(day, {}), rows.staged.undated,
        len(rows.staged.names), rows.staged.malformed,
    )  # fmt: skip


@contextmanager
def _scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="batch_assets_", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_rows(database: Database, source: Source, days: Sequence[str], scratch: Path) -> ReadRows:
    """The rows of the days, in files in the folder `scratch`. Raises SourceError."""
    with errors_of(source.of_day(days[0]), is_query=source.kind is not Kind.FILES):
        with connection_to(database, source, scratch) as connection:
            staged = stage(connection, source, days, scratch)
            if source.kind in (Kind.FILES, Kind.QUERY):
                return _checked(connection, database, source, staged, scratch)
        # a table's rows: the warehouse is locked no longer. A .sql file: its statements may have changed the connection
        with database_in_memory(scratch) as connection:
            return _checked(connection, database, source, staged, scratch)


def _checked(
    connection: duckdb.DuckDBPyConnection, database: Database, source: Source, staged: Staged, scratch: Path
) -> ReadRows:
    checked = Checked()
    if staged.paths:
        checked = check_rows(connection, source, staged, scratch, memory_limit=database.memory_limit)
    check_unchanged(staged.states)
    return ReadRows(source, staged, checked, files_of_days(connection, staged.paths, scratch))


def _check_malformed_share(source: Source, rows: ReadRows) -> None:
    """Raise SourceError if more of the source's rows are malformed than may be."""
    staged = rows.staged
    if not staged.malformed or staged.malformed <= source.max_malformed_share * staged.total:
        return
    raise SourceError(
        f"{shortened(source.location, MAX_NAME)} could not be read, and the day was not changed: "
        f"{staged.malformed:,} of {counted(staged.total, 'row')} are malformed, and at most "
        f"{source.max_malformed_share:.1%} may be (`max_malformed_share` of `ArticleSource`). "
        f"{rows.checked.first_malformed} They are in `rejected_article`, with the reason `malformed`. Correct them, or "
        "raise the share."
    )
