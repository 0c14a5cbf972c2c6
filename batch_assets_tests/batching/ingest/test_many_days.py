"""A source that is read once for many days gives the same tables as one that is read for each day."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.batching.ingest import files_of_days
from batch_assets.batching.ingest.articles import Ingested, SourceError, ingest_day, read_source
from batch_assets.batching.ingest.source import Source
from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace
from batch_assets_tests.batching.ingest.generated_files import File
from batch_assets_tests.batching.ingest.other_source import add_other_source, rows_of_other_source
from batch_assets_tests.batching.ingest.support import write
from batch_assets_tests.batching.ingest.test_any_rows import (
    FURTHER_COLUMNS,
    NAME,
    NAMES,
    Room,
    csv_files,
    found_columns,
    in_a_room,
    json_files,
    parquet_files,
    room,  # noqa: F401 - a fixture
)

DAYS = (DAY, NEXT_DAY, "2026-11-02", "2026-11-03")  # of the generated files; no row is of the last one
THREADS = 3
IO_COUNTERS = Path("/proc/self/io")
Outcome = tuple[dict[str, list[Ingested]], list[list[tuple[Any, ...]]]]


def tables(workspace: Workspace) -> list[list[tuple[Any, ...]]]:
    """The rows of the tables. Those of a day in `raw_articles` have an order, which must be that of the source."""
    return [
        workspace.rows("SELECT * FROM raw_articles ORDER BY partition_date, rowid"),
        workspace.rows("FROM rejected_article ORDER BY ALL"),
        workspace.rows("FROM pruned_day ORDER BY ALL"),
    ]


def one_by_one(workspace: Workspace, source: Source, days: Sequence[str]) -> Outcome:
    """Read the source for each day."""
    found: dict[str, list[Ingested]] = {}
    for day in days:
        found.setdefault(day, []).append(ingest_day(workspace.database, source=source, day=day))
    return found, tables(workspace)


def together(workspace: Workspace, source: Source, days: Sequence[str], *, threads: int = 1) -> Outcome:
    """Read the source once."""
    found: dict[str, list[Ingested]] = {}
    with read_source(workspace.database, source, days) as read:
        if threads == 1:
            for day in days:
                found.setdefault(day, []).append(read.replace_day(day))
        else:
            with ThreadPoolExecutor(threads) as pool:
                found = {
                    day: [done] for day, done in zip(set(days), pool.map(read.replace_day, set(days)), strict=True)
                }
    return found, tables(workspace)


def check_law(room: Room, source: Source, days: Sequence[str], *, threads: int) -> None:  # noqa: F811
    days = list(dict.fromkeys(days)) if threads > 1 else days
    outcomes: list[Outcome | str] = []
    for read in (one_by_one, lambda *arguments: together(*arguments, threads=threads)):
        with room.workspace.database.writing() as connection:
            connection.execute("DELETE FROM raw_articles; DELETE FROM rejected_article; DELETE FROM pruned_day")
            connection.execute(
                "INSERT INTO pruned_day (source, partition_date) SELECT ?, unnest(?::DATE[])",
                [source.name, [days[0], "2026-12-24"]],
            )
        add_other_source(room.workspace, room.folder, DAYS)
        of_other = rows_of_other_source(room.workspace)
        try:
            outcomes.append(read(room.workspace, source, days))
        except SourceError as error:
            outcomes.append(str(error))
        assert rows_of_other_source(room.workspace) == of_other
    assert outcomes[0] == outcomes[1]


lists_of_days = st.lists(st.sampled_from(DAYS), min_size=1, max_size=5)


@in_a_room
@given(
    st.lists(csv_files | json_files | parquet_files, min_size=1, max_size=3),
    st.sampled_from(NAMES),
    st.sampled_from(["published_at", "order"]),
    st.sampled_from([1.0, 1.0, 0.2]),
    st.sampled_from(FURTHER_COLUMNS),
    lists_of_days,
    st.sampled_from([1, THREADS]),
    st.booleans(),
)
def test_days_of_any_files_that_are_read_together_are_as_if_read_alone(
    room: Room,  # noqa: F811
    files: list[File],
    names: dict[str, str],
    newest_by: Any,
    share: float,
    extra: tuple[str, ...],
    days: list[str],
    threads: int,
    makes_files: bool,
) -> None:
    room.empty()
    for number, file in enumerate(files):
        file.write(room.folder, number, names, room.connection)
    source = Source(str(room.folder / "*"), names, newest_by, share, NAME, found_columns(extra, files))
    with (
        patch.object(files_of_days, "MAX_READS", 0 if makes_files else 99),
        patch.object(files_of_days, "MIN_FILE_ROWS", 1),
    ):
        check_law(room, source, days, threads=threads)


@in_a_room
@given(
    parquet_files,
    st.sampled_from(["table", "query", "$day", "{partition}", ".sql", "$day in .sql"]),
    st.sampled_from(FURTHER_COLUMNS),
    lists_of_days,
    st.sampled_from([1, THREADS]),
)
def test_days_of_any_query_or_table_that_are_read_together_are_as_if_read_alone(
    room: Room,  # noqa: F811
    file: File,
    kind: str,
    extra: tuple[str, ...],
    days: list[str],
    threads: int,
) -> None:
    room.empty()
    path = file.write(room.folder, 0, {}, room.connection).path
    query = f"FROM read_parquet('{path}', filename = true)"
    location = {"$day": f"{query} WHERE $day < DATE '2026-11-21'", "{partition}": f"{query} WHERE '{{partition}}' > ''"}
    statements = {".sql": query, "$day in .sql": f"CREATE TEMP TABLE found AS {query} WHERE $day <> 'x'; FROM found"}
    if kind == "table":
        with room.workspace.database.writing() as connection:
            connection.execute(f"CREATE OR REPLACE TABLE feed AS {query}")
    if kind in statements:
        write(room.workspace, "source.sql", statements[kind])
    found = {"table": "table:feed", **dict.fromkeys(statements, str(room.workspace.folder / "source.sql"))}
    source = Source({**found, **location}.get(kind, query), name=NAME, extra=found_columns(extra, [file]))
    check_law(room, source, days, threads=threads)


@pytest.mark.skipif(not IO_COUNTERS.exists(), reason="only Linux counts the bytes that a process reads")
@pytest.mark.parametrize(("name", "most"), [("a.jsonl", 2.2), ("a.csv", 2.2), ("a.parquet", 1.3)])
@pytest.mark.parametrize("extra", [(), ("author",)])
def test_a_source_is_read_once_whatever_the_number_of_days(
    workspace: Workspace, name: str, most: float, extra: tuple[str, ...]
) -> None:
    """A CSV file is looked through first: DuckDB leaves out some rows without a message. Of JSON, the beginning is."""
    path = workspace.folder / name
    with duckdb.connect() as connection:
        connection.execute(
            """
            CREATE TABLE article AS
            SELECT day || '-' || number AS id, repeat(md5(id), 50) AS body, repeat(md5(id), 10) AS author,
                CAST(DATE '2025-01-01' + CAST(day AS INTEGER) AS VARCHAR) AS published_at
            FROM range(60) AS days(day), range(150) AS numbers(number)
            """
        )
        options = {".csv": ", HEADER", ".parquet": ", COMPRESSION uncompressed"}.get(path.suffix, "")
        form = path.suffix.removeprefix(".").replace("jsonl", "json")
        connection.execute(f"COPY article TO '{path}' (FORMAT {form}{options})")
    days = [(date(2025, 1, 1) + timedelta(days=number)).isoformat() for number in range(60)]
    bytes_read = []
    for number in (1, 60):
        before = read_by_this_process()
        with read_source(workspace.database, Source(str(path), extra=extra), days[:number]):
            bytes_read.append(read_by_this_process() - before)
    assert bytes_read[0] < most * path.stat().st_size
    # the staged copy of the days is read for the checks
    assert bytes_read[1] - bytes_read[0] < path.stat().st_size


def read_by_this_process() -> int:
    return int(IO_COUNTERS.read_text().split()[1])
