"""Reads the rows of one day or many from a source into Parquet files outside of the warehouse.

A source may be slow and must not lock the warehouse, so DuckDB reads it with a database of its own; only a table of the
warehouse is read there.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import duckdb

from batch_assets.batching.counting import counted
from batch_assets.batching.ingest.errors import MAX_NAME, SourceError, shortened
from batch_assets.batching.ingest.files import SourceFile, list_files, with_one_line_end
from batch_assets.batching.ingest.long_rows import has_long_rows
from batch_assets.batching.ingest.malformed import BrokenRows, check_structure, read_rejects
from batch_assets.batching.ingest.queries import prepare_query
from batch_assets.batching.ingest.rows import rows_of_files, rows_of_query
from batch_assets.batching.ingest.source import Kind, Source
from batch_assets.batching.ingest.times import possible_time, time_of_text
from batch_assets.batching.ingest.unchanged import State, states_of
from batch_assets.batching.ingest.values import staged_rows
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.sql_text import literal

ROW_GROUP_ROWS = 2048  # of a staged file: each thread that reads it has a group of rows in memory
FILE_BYTES = "32MB"  # of a staged file, compressed: its rows fit into memory when `pieces` sorts them
# A text has a character that is no white space, separator, control or format mark.
TEXT_PATTERN = r"[^\s\p{Z}\p{C}]"
MIXED_LINE_ENDS = "reached an invalid state"


@dataclass(frozen=True)
class Staged:
    """The rows of the days, and those that belong to no day, in Parquet files.

    Columns: place (counts the staged rows of all files in their order, from 1), day (a DATE; NULL for a row that
    belongs to no day), file, row, problem (`malformed`, `not_text`, `undated` or NULL), article_id, title, body, url,
    published_at, has_text, and the further columns of the source: extra_0, …. A row that belongs to no day has no text.
    paths: the Parquet files, in the order of their rows; none if no file of the source has rows.
    names, states: of all files, also of those without rows, which are not in `files`.
    selects_day: the source itself selects the day's rows.
    total: at least so many rows the source has; exact if more than `max_malformed_share` of them may be malformed.
    malformed: with those that DuckDB did not read, which are in `broken`.
    """

    paths: Sequence[Path] = ()
    files: Sequence[SourceFile] = ()
    names: Sequence[str] = ()
    states: Mapping[str, State] = field(default_factory=dict)
    selects_day: bool = False
    total: int = 0
    undated: int = 0
    malformed: int = 0
    broken: BrokenRows = field(default_factory=BrokenRows)


@contextmanager
def connection_to(database: Database, source: Source, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for `stage`: to a database in memory or, for a table, to the warehouse."""
    if source.kind is Kind.TABLE:
        with database.reading() as connection:
            yield connection
        return
    with database_in_memory(scratch) as connection:
        yield connection


@contextmanager
def database_in_memory(scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database of its own, which writes what does not fit into memory into the folder `scratch`."""
    # One thread, since each has a group of rows in memory, and keeps it until it can write; and rows are numbered in
    # their order. No limit on memory: the source decides how large the groups of rows of a Parquet file are, and one
    # group must fit into memory.
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        connection.execute(f"SET temp_directory = {literal(str(scratch))}")
        yield connection


def stage(connection: duckdb.DuckDBPyConnection, source: Source, days: Sequence[str], scratch: Path) -> Staged:
    """Write the rows of the days to Parquet files in the folder `scratch`.

    days: only one for a source that selects a day's rows itself. Raises SourceError, duckdb.Error, OSError.
    """
    location = source.of_day(days[0])
    if source.kind is Kind.FILES:
        return _stage_files(connection, source, location, days, scratch)
    return _stage_query(connection, source, location, days, scratch)


def _stage_query(
    connection: duckdb.DuckDBPyConnection, source: Source, location: str, days: Sequence[str], scratch: Path
) -> Staged:
    query = prepare_query(connection, source, days[0])
    name = "The query of BATCH_ASSETS_SOURCE" if source.kind is Kind.QUERY else location
    rows = rows_of_query(connection, source, query, name=name)
    paths = _copy(connection, source, rows, query.parameters, days, scratch, selects_day=query.selects_day)
    staged = Staged(paths, selects_day=query.selects_day)
    return _counted(connection, source, rows, query.parameters, staged, name)


def _stage_files(
    connection: duckdb.DuckDBPyConnection, source: Source, location: str, days: Sequence[str], scratch: Path
) -> Staged:
    names, files = list_files(connection, location, body=source.column("body"), scratch=scratch)
    found = Staged((), files, names, states_of(names))
    if not files:
        return found
    # with long lines, DuckDB needs more memory for any CSV file
    for long_lines in (True,) if has_long_rows(files) else (False, True):
        try:
            rows, paths = _copy_files(connection, source, found.files, days, scratch, long_lines=long_lines)
        except duckdb.Error as error:
            if MIXED_LINE_ENDS not in str(error):
                raise
            found = replace(found, files=[with_one_line_end(file, scratch) for file in found.files])
            rows, paths = _copy_files(connection, source, found.files, days, scratch, long_lines=True)
        broken = read_rejects(connection, found.files)
        if not broken.structure_is_lost:
            break
    check_structure(broken)
    return _counted(connection, source, rows, {}, replace(found, paths=paths, broken=broken), location)


def _copy_files(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    files: Sequence[SourceFile],
    days: Sequence[str],
    scratch: Path,
    *,
    long_lines: bool,
) -> tuple[str, list[Path]]:
    """Write the rows of the files. Returns their SELECT, and the Parquet files. Raises SourceError, duckdb.Error."""
    try:
        rows = rows_of_files(connection, source, files, long_lines=long_lines)
        return rows, _copy(connection, source, rows, {}, days, scratch, selects_day=source.has_partition)
    except duckdb.Error as error:
        message = str(error)
        for file in files:
            message = message.replace(file.path, file.name)  # of a copy, which the user does not know
        raise type(error)(message) from None


def _copy(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    rows: str,
    parameters: Mapping[str, object],
    days: Sequence[str],
    scratch: Path,
    *,
    selects_day: bool,
) -> list[Path]:
    """Write the rows of the days, and those that belong to no day. Returns the Parquet files in the order of the rows.

    selects_day: all rows of the source are of the one day. Raises duckdb.Error.
    """
    folder = scratch / "rows"
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
    day = f"DATE {literal(days[0])}" if selects_day else "published::DATE"
    is_of_day = "true" if selects_day else _is_one_of("published::DATE", days)
    more_of_id = "" if source.needs_body else "".join(f", {name}" for name in source.extra_names)
    has_text = f"coalesce(regexp_matches(body, '{TEXT_PATTERN}'), false)" if source.needs_body else "true"
    further = "".join(f", CASE WHEN of_day THEN {name} END AS {name}" for name in source.extra_names)
    connection.execute(
        f"""
        COPY (
            SELECT
                row_number() OVER () AS place,
                CASE WHEN of_day AND problem IS DISTINCT FROM 'malformed' THEN {day} END AS day,
                file, row,
                CASE WHEN problem = 'malformed' THEN problem WHEN NOT of_day THEN 'undated' ELSE problem END AS problem,
                coalesce(
                    nullif(trim(id), ''),
                    -- a source without ids: the same text gets the same id, on any day
                    left(sha256(concat_ws(chr(31), coalesce(title, ''), coalesce(body, ''), url{more_of_id})), 20)
                ) AS article_id,
                CASE WHEN of_day THEN title END AS title,
                CASE WHEN of_day THEN {"body" if source.needs_body else "coalesce(body, '')"} END AS body,
                CASE WHEN of_day THEN url END AS url,
                published::TIMESTAMP AS published_at,
                {has_text} AS has_text{further}
            FROM (SELECT *, {is_of_day} AS of_day FROM ({_with_times(rows)}))
            WHERE of_day OR problem = 'malformed' OR published IS NULL
        ) TO {literal(str(folder))} (FORMAT parquet, ROW_GROUP_SIZE {ROW_GROUP_ROWS}, FILE_SIZE_BYTES '{FILE_BYTES}')
        """,
        parameters or None,
    )
    return sorted(folder.iterdir(), key=lambda path: int(path.stem.removeprefix("data_")))


def _is_one_of(day: str, days: Sequence[str]) -> str:
    """SQL of whether a DATE column is one of the days. Not IN: with it, DuckDB keeps all rows in memory."""
    dates = sorted(map(date.fromisoformat, days))
    first, last = dates[0], dates[-1]
    # a sign for each day from the first to the last: 1 if it is one of them
    signs = bytearray(b"0" * ((last - first).days + 1))
    for each in dates:
        signs[(each - first).days] = ord("1")
    return (
        f"coalesce({day} BETWEEN DATE '{first}' AND DATE '{last}' "
        f"AND substr('{signs.decode()}', {day} - DATE '{first}' + 1, 1) = '1', false)"
    )


def _with_times(rows: str) -> str:
    """The rows, with the column published. In steps: an expression that is repeated in others takes long to plan."""
    read = f"SELECT *, coalesce(time, {time_of_text('time_text')}) AS read_time FROM ({rows})"
    return f"SELECT *, {possible_time('read_time', now_utc())} AS published FROM ({read})"


def _counted(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    rows: str,
    parameters: Mapping[str, object],
    staged: Staged,
    name: str,
) -> Staged:
    """The staged rows with their numbers. Raises SourceError if no row of the source has a day."""
    counts = connection.execute(
        "SELECT count(*), count(*) FILTER (problem = 'undated'), count(*) FILTER (problem = 'malformed') "
        f"FROM {staged_rows(staged.paths)}"
    ).fetchone()
    assert counts is not None  # aggregates have one row
    number, undated, malformed = counts
    has_days = number > undated + malformed
    total, malformed = number + staged.broken.number, malformed + staged.broken.number
    staged = replace(staged, total=total, undated=undated, malformed=malformed)
    if (has_days or not undated) and malformed <= source.max_malformed_share * total:
        return staged  # the rows of other days need not be counted: the source is read once
    # all columns: a CSV reader that needs no column does not leave out the rows that it cannot read
    names = ("id", "title", "body", "url", "time_text", *source.extra_names)
    each = ", ".join(f"count({name})" for name in names)
    read = connection.execute(f"SELECT count(*), {each} FROM ({rows})", parameters or None).fetchone()
    assert read is not None
    total = read[0] + staged.broken.number
    if undated and undated == total - staged.malformed:
        column = shortened(source.column("published_at"), 40)
        raise SourceError(
            f"{shortened(name, MAX_NAME)} has {counted(undated, 'row')}, and none of them has a `{column}` that is a "
            "time, such as 2026-01-05, 2026-01-05T08:00:00+01:00, Mon, 05 Jan 2026 08:00:00 GMT or 1767600000, so no "
            "row belongs to a day."
        )
    return replace(staged, total=total)
