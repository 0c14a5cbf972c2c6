"""No row of a source disappears without a count, whatever is in it and however it is written: each is an article as it
is in the source, or set aside with file, line and reason, or the source is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from batch_assets.batching.ingest.articles import Ingested, SourceError, ingest_day
from batch_assets.batching.ingest.source import Source
from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace, open_workspace
from batch_assets_tests.batching.ingest.generated_files import TIMES, Article, Broken, File, Found
from batch_assets_tests.batching.ingest.model import Expected, comparable, expect
from batch_assets_tests.batching.ingest.other_source import add_other_source, rows_of_other_source

EXAMPLES = 300 if os.environ.get("BATCH_ASSETS_TEST_THOROUGH") else 10
MAX_MESSAGE = 620
# Mappings of our columns to the source's.
NAMES: list[dict[str, str]] = [
    {},
    {"body": "content", "published_at": "date"},
    {"body": "Article text", "id": "guid", "title": "it's"},
    {"body": "content.rendered", "url": 'the "link"', "author": 'it\'s by, "line"; x'},
]
FURTHER_COLUMNS: list[tuple[str, ...]] = [(), ("author",), ("file", "author")]
NAME = "news/wire"
SIGNS = "aé漢🦆ع \"',;|\t\n\r#\\\x00\x85\x0b\x1c\xa0\u2028\u200f\ufeff/-{[5"
texts = st.none() | st.text(SIGNS, max_size=6) | st.sampled_from(["text", "", " ", "a\r\nb", '""', "NULL", "x" * 9_000])
ids = st.sampled_from([None, "1", "2", "3", "007", " b ", "#2", "", "nan", "é", "a,b;c\n"]) | texts
bodies = texts | st.sampled_from(["one", "two", "a\n\nb", "[a]", '["a"]', "{}"])
spellings = st.integers(0, 2**16)
values = texts | st.sampled_from([5, 12345678901234567890, -0.5, True, [], ["a", None], {"a": {"b": ["é", 1.5]}}])
further = st.tuples(values, values)
articles = st.builds(Article, ids, texts, bodies, texts, st.sampled_from(list(TIMES)), spellings, further)
rows = st.lists(articles | st.builds(Article, ids, st.none(), bodies, st.none(), st.just(DAY)), max_size=5)
rows_with_broken = st.lists(articles | articles | st.builds(Broken, st.integers(0, 9)), max_size=5)
csv_files = st.builds(
    File,
    st.sampled_from(["csv", "csv", "tsv"]),
    st.sampled_from(",;|\t"),
    st.booleans(),
    st.sampled_from([("\n",), ("\r\n",), ("\n", "\r\n"), ("\r\n", "\n")]),
    st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    has_further=st.booleans(),
    spelling=spellings,
    rows=rows | rows_with_broken,
)
json_files = st.builds(
    File,
    st.sampled_from(["jsonl", "jsonl", "array", "pretty"]),
    line_ends=st.sampled_from([("\n",), ("\r\n",)]),
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"]),
    is_compressed=st.booleans(),
    blank_lines=st.booleans(),
    ends_with_line=st.booleans(),
    has_further=st.booleans(),
    rows=rows | rows_with_broken,
)
types = st.tuples(
    st.sampled_from(["VARCHAR", "BIGINT", "DOUBLE", "BLOB"]),
    st.sampled_from(["VARCHAR", "BLOB", "VARCHAR[]"]),
    st.sampled_from(["VARCHAR", "TIMESTAMP", "TIMESTAMPTZ", "BIGINT", "DOUBLE"]),
)
further_types = st.sampled_from(["VARCHAR", "BLOB", "UBIGINT", "VARCHAR[]", "STRUCT"])
parquet_files = st.builds(
    File,
    st.just("parquet"),
    types=types,
    has_further=st.booleans(),
    further_type=further_types,
    spelling=spellings,
    rows=rows,
)


@dataclass(frozen=True)
class Room:
    """Where the examples are read, one after the other. connection: for writing Parquet files."""

    workspace: Workspace
    connection: duckdb.DuckDBPyConnection

    @property
    def folder(self) -> Path:
        return self.workspace.folder / "source"

    def empty(self) -> None:
        with self.workspace.database.writing() as connection:
            connection.execute("DELETE FROM raw_articles; DELETE FROM rejected_article; DELETE FROM pruned_day")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def tables(self, day: str) -> list[list[tuple[Any, ...]]]:
        """The articles, rejected rows and rows without a day, as in `Expected`."""
        place = "parse_filename(source_file), source_row, source_line"
        of_day = "source = ? AND partition_date = ?"
        statements = [
            f"SELECT article_id, title, body, url, published_at, extra FROM raw_articles WHERE {of_day}",
            f"SELECT {place}, article_id, title, body, url, reason FROM rejected_article WHERE {of_day}",
            f"SELECT {place}, reason FROM rejected_article WHERE source = ? AND partition_date IS NULL AND ? <> ''",
        ]
        read, rejected, without_day = (self.workspace.rows(each, [NAME, day]) for each in statements)
        read = [(*columns, comparable(extra)) for *columns, extra in read]
        return [sorted(rows, key=str) for rows in (read, rejected, without_day)]


def found_columns(extra: tuple[str, ...], files: Sequence[File]) -> tuple[str, ...]:
    """The further columns, or none if no file has them: then, the source is refused."""
    has_columns = any(
        file.has_further
        and (file.format in ("csv", "tsv", "parquet") or any(isinstance(row, Article) for row in file.rows))
        for file in files
    )
    return extra if has_columns else ()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("rows")
    shutil.copy(new_database, folder)
    with open_workspace(folder) as workspace, duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield Room(workspace, connection)


def check(room: Room, source: Source, rows: Sequence[Found], files: int) -> None:
    """Read two days of the source, the first one twice, and compare the tables with the model."""
    add_other_source(room.workspace, room.folder, (DAY, NEXT_DAY))
    of_other = rows_of_other_source(room.workspace)
    for day in (DAY, NEXT_DAY, DAY):
        expected = expect(
            rows,
            day,
            newest_by=source.newest_by,
            max_malformed_share=source.max_malformed_share,
            extra=source.extra,
        )
        error = ""
        try:
            ingested = ingest_day(room.workspace.database, source=source, day=day)
        except SourceError as raised:
            error = str(raised)
        assert rows_of_other_source(room.workspace) == of_other
        if error:
            assert expected.is_refused, error
            assert len(error) <= MAX_MESSAGE
            assert room.tables(day)[0] == []
            return
        compare(room, ingested, expected, day, files)


def compare(room: Room, ingested: Ingested, expected: Expected, day: str, files: int) -> None:
    read, rejected, without_day = room.tables(day)
    assert read == expected.articles
    assert rejected == expected.rejected
    assert without_day == expected.without_day
    assert not expected.is_refused
    assert ingested.articles == len(expected.articles)
    assert ingested.rejected == expected.reasons
    assert (ingested.undated, ingested.malformed) == (expected.undated, expected.malformed)
    assert ingested.files == files


in_a_room = settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@in_a_room
@given(
    st.lists(csv_files | json_files | parquet_files, min_size=1, max_size=3),
    st.sampled_from(NAMES),
    st.sampled_from(["published_at", "order"]),
    st.sampled_from([1.0, 1.0, 0.2]),
    st.sampled_from(FURTHER_COLUMNS),
)
def test_each_row_of_any_files_is_read_or_counted(
    room: Room, files: list[File], names: dict[str, str], newest_by: Any, share: float, extra: tuple[str, ...]
) -> None:
    room.empty()
    written = [file.write(room.folder, number, names, room.connection) for number, file in enumerate(files)]
    source = Source(str(room.folder / "*"), names, newest_by, share, NAME, found_columns(extra, files))
    check(room, source, [row for file in written for row in file.found], len(files))


@in_a_room
@given(parquet_files, st.booleans(), st.booleans(), st.sampled_from(FURTHER_COLUMNS))
def test_each_row_of_any_query_or_table_is_read_or_counted(
    room: Room, file: File, is_table: bool, has_filename: bool, extra: tuple[str, ...]
) -> None:
    room.empty()
    written = file.write(room.folder, 0, {}, room.connection)
    query = f"SELECT * FROM read_parquet('{written.path}', filename = {str(has_filename).lower()})"
    location = query
    if is_table:
        with room.workspace.database.writing() as connection:
            connection.execute(f"CREATE OR REPLACE TABLE feed AS {query}")
        location = "table:feed"
    name = written.path.name if has_filename else None
    rows = [replace(row, place=(name, row.place[1], None)) for row in written.found]
    check(room, Source(location, name=NAME, extra=found_columns(extra, [file])), rows, 0)
