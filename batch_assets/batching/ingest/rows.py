"""The rows of a source as one SELECT, whatever it consists of: files of several formats, a query, or a table.

Its columns: file, row (in the file, from 1), id, title, body, url (text), time (a TIMESTAMPTZ) or time_text (a text
with a time), problem: `malformed`, `not_text` or NULL, and a text for each of the source's further columns: extra_0, ….
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import duckdb

from batch_assets.batching.ingest.csv_records import MAX_ROW_BYTES
from batch_assets.batching.ingest.errors import no_column
from batch_assets.batching.ingest.files import Format, SourceFile
from batch_assets.batching.ingest.globbing import escaped
from batch_assets.batching.ingest.json_rows import json_rows
from batch_assets.batching.ingest.queries import Query
from batch_assets.batching.ingest.source import Kind, Source
from batch_assets.batching.ingest.values import (
    find_columns,
    find_name,
    has_day_in_path,
    numbered,
    quoted,
    time_in_path,
    typed_columns,
)
from batch_assets.batching.sql_text import literal

DAY_OF_A_QUERY = (
    "Name the one with the time: BATCH_ASSETS_COLUMNS='published_at=…'. Or make BATCH_ASSETS_SOURCE a query that "
    "selects the day's rows with the parameter $day."
)
FILE = "batch_assets_file"  # the column that has a row's file; no file of articles has a column with this name
ROW_NUMBER = "file_row_number"  # DuckDB's, which has no other name
JSON = (Format.JSON_LINES, Format.JSON_ARRAY, Format.JSON_VALUES)
ROWS_WITHOUT_A_KEY = (
    "At least one row must have it: the name may be wrong. If all rows of a day may lack it, make BATCH_ASSETS_SOURCE "
    "a query that selects it."
)
LONG_LINES = f", max_line_size = {MAX_ROW_BYTES}"  # with DuckDB's default of 2 MB it needs 300 MB less
# To read CSV exactly as it is: no comments, no sampling, and a record of each row that is left out.
# Not in parallel: where a part of the file begins with a broken row, DuckDB would leave out thousands of rows unseen.
CSV_OPTIONS = """
    auto_detect = false, header = true, quote = '"', escape = '"', comment = '', store_rejects = true,
    rejects_limit = 0, parallel = false, filename = 'file', hive_partitioning = false
"""


class Rows(NamedTuple):
    """The rows of some files, the further columns that they have, by their names in SQL, and all names of columns."""

    select: str
    extra: frozenset[str]
    names: Sequence[str]


def rows_of_files(
    connection: duckdb.DuckDBPyConnection, source: Source, files: Sequence[SourceFile], *, long_lines: bool
) -> str:
    """The rows of files. long_lines: whether a row of a CSV file may have 32 MB. Raises SourceError."""
    groups: dict[SourceFile, list[SourceFile]] = {}
    for file in files:
        groups.setdefault(file.layout, []).append(file)
    found: list[Rows] = []
    for layout, group in groups.items():
        if layout.format is Format.CSV:
            found.append(_csv_rows(source, group, long_lines=long_lines))
        elif layout.format is Format.PARQUET:
            found.extend(_parquet_rows(connection, source, group))
        else:
            found.append(Rows(*json_rows(connection, source, group)))
    place = files[0].name if len(files) == 1 else source.location
    hint = ROWS_WITHOUT_A_KEY if source.has_partition and any(layout.format in JSON for layout in groups) else ""
    # one file, or one row of JSON, is enough: a column may be new, and a key may be left out where it has no value
    extra = {name for rows in found for name in rows.extra}
    _check_extra(source, place, extra, [name for rows in found for name in rows.names], hint)
    return " UNION ALL ".join(f"({rows.select})" for rows in found) or f"({_no_rows(source)})"


def rows_of_query(connection: duckdb.DuckDBPyConnection, source: Source, query: Query, *, name: str) -> str:
    """The rows of a query. Raises SourceError."""
    relation = f"({query.sql}\n)"
    types = _types(connection, f"SELECT * FROM {relation}", query.parameters)
    columns = _existing(connection, source, find_columns(source, types), types, relation, query.parameters)
    _check(source, name, columns, types, needs_time=not query.selects_day)
    _check_extra(source, name, columns, list(types))
    described = _describe(connection, columns, relation, query.parameters)
    filename = find_name(types, "filename")  # DuckDB's own column, if the query selects it
    file = f"CAST({quoted(filename)} AS VARCHAR)" if filename else "NULL::VARCHAR"
    selected = typed_columns(name, source, described)
    return f"SELECT {file} AS file, row_number() OVER () AS row, {selected} FROM {relation}"


def _csv_rows(source: Source, files: Sequence[SourceFile], *, long_lines: bool) -> Rows:
    layout = files[0]
    by_place = {f"c{place}": name for place, name in enumerate(layout.header)}
    # by place: a header may have a name twice
    places = {quoted(name): place for place, name in reversed(by_place.items())}
    columns = {name: sql for name, sql in find_columns(source, layout.header).items() if sql in places}
    needs_time = not source.has_partition and not has_day_in_path(source, [file.name for file in files])
    _check(source, layout.name, columns, layout.header, needs_time=needs_time)
    types = {name: (places[sql], "VARCHAR") for name, sql in columns.items()}
    if "published_at" not in types:
        types["published_at"] = (time_in_path(source, files), "VARCHAR")
    paths = ", ".join(literal(escaped(file.path)) for file in files)
    names = ", ".join(f"{place}: 'VARCHAR'" for place in by_place)
    reader = (
        f"FROM read_csv([{paths}], {CSV_OPTIONS}, delim = {literal(layout.delimiter)}, skip = {layout.lines_before}, "
        f"columns = {{{names}}}{LONG_LINES if long_lines else ''})"
    )
    used = {sql for sql, _ in types.values() if sql in by_place}
    numbers = numbered(f"SELECT file, {', '.join(sorted(used))} {reader}", len(files))
    select = f"SELECT file, row, {typed_columns(layout.name, source, types)} FROM ({numbers})"
    return Rows(select, frozenset(columns).intersection(source.extra_names), layout.header)


def _parquet_rows(connection: duckdb.DuckDBPyConnection, source: Source, files: Sequence[SourceFile]) -> list[Rows]:
    """The rows of Parquet files: one SELECT for files with the same columns of ours.

    Files are not united by name: DuckDB would cast the ids of one file to the type of another's, and change them.
    """
    groups: dict[tuple[object, ...], list[SourceFile]] = {}
    names: dict[str, None] = {}
    for file in files:
        reader = f"read_parquet({literal(escaped(file.path))}, hive_partitioning = false)"
        types = _types(connection, f"SELECT * FROM {reader}", {})
        columns = _existing(connection, source, find_columns(source, types), types, reader, {})
        if (
            "body" not in columns
            and source.needs_body
            and connection.execute(f"SELECT count(*) FROM {reader}").fetchone() == (0,)
        ):
            continue
        needs_time = not source.has_partition and not has_day_in_path(source, [file.name])
        _check(source, file.name, columns, types, needs_time=needs_time)
        names |= dict.fromkeys(types)
        described = _describe(connection, columns, reader, {})
        groups.setdefault((find_name(types, ROW_NUMBER), *described.items()), []).append(file)
    found = []
    for (number, *columns_and_types), group in groups.items():
        by_name: dict[str, tuple[str, str]] = dict(columns_and_types)  # type: ignore[arg-type]
        select = _parquet_select(source, group, dict(by_name), has_number=bool(number))
        found.append(Rows(select, frozenset(by_name).intersection(source.extra_names), list(names)))
    return found


def _parquet_select(
    source: Source, files: Sequence[SourceFile], types: dict[str, tuple[str, str]], *, has_number: bool
) -> str:
    """types: SQL and type of each of our columns. has_number: whether the files have a column `file_row_number`."""
    paths = ", ".join(literal(escaped(file.path)) for file in files)
    reader = (
        f"read_parquet([{paths}], union_by_name = true, filename = {literal(FILE)}, "
        f"file_row_number = {str(not has_number).lower()}, hive_partitioning = false)"
    )
    types.setdefault("published_at", (time_in_path(source, files), "VARCHAR"))
    names = ", ".join(f"{sql} AS {name}" for name, (sql, _) in types.items() if name != "published_at")
    read = f"SELECT {FILE} AS file, {names}, {types['published_at'][0]} AS published_at"
    if has_number:
        numbers = numbered(f"{read} FROM {reader}", len(files))
    else:
        numbers = f"{read}, {ROW_NUMBER} + 1 AS row FROM {reader}"
    by_name = {name: (name, kind) for name, (_, kind) in types.items()}
    return f"SELECT file, row, {typed_columns(files[0].name, source, by_name)} FROM ({numbers})"


def _describe(
    connection: duckdb.DuckDBPyConnection, columns: Mapping[str, str], relation: str, parameters: Mapping[str, object]
) -> dict[str, tuple[str, str]]:
    """SQL and type of each of our columns."""
    selected = ", ".join(f"{sql} AS {name}" for name, sql in columns.items())
    described = connection.execute(f"DESCRIBE SELECT {selected} FROM {relation}", parameters or None).fetchall()
    # by place: of a table, DuckDB describes the column "ID" AS id as ID
    return {name: (sql, str(kind)) for (name, sql), (_, kind, *_) in zip(columns.items(), described, strict=True)}


def _existing(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    columns: Mapping[str, str],
    names: Iterable[str],
    relation: str,
    parameters: Mapping[str, object],
) -> dict[str, str]:
    """The columns, without the further ones whose path leads to no field: another file may have it."""
    plain = set(map(quoted, names))
    existing = dict(columns)
    for name in source.extra_names:
        if name in existing and existing[name] not in plain:
            try:
                connection.execute(f"DESCRIBE SELECT {existing[name]} FROM {relation}", parameters or None)
            except duckdb.BinderException:
                del existing[name]
    return existing


def _types(connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, object]) -> dict[str, str]:
    described = connection.execute(f"DESCRIBE {query}", parameters or None).fetchall()
    return {name: str(kind) for name, kind, *_ in described}


def _check(source: Source, place: str, columns: Mapping[str, str], names: Iterable[str], *, needs_time: bool) -> None:
    if "body" not in columns and source.needs_body:
        raise no_column(place, "body", source.column("body"), names)
    if needs_time and "published_at" not in columns:
        hint = "" if source.kind is Kind.FILES else DAY_OF_A_QUERY
        raise no_column(place, "published_at", source.column("published_at"), names, hint=hint)


def _check_extra(source: Source, place: str, found: Collection[str], names: Sequence[str], hint: str = "") -> None:
    """Raise SourceError if a further column was not found. names: of all columns; none if there are no rows."""
    for name, ours in zip(source.extra_names, source.extra, strict=True):
        if names and name not in found:
            raise no_column(place, ours, source.column(ours), dict.fromkeys(names), hint=hint)


def _no_rows(source: Source) -> str:
    further = "".join(f", '' AS {name}" for name in source.extra_names)
    return f"""
        SELECT '' AS file, 0 AS row, '' AS id, '' AS title, '' AS body, '' AS url, NULL::TIMESTAMPTZ AS time,
            '' AS time_text, NULL::VARCHAR AS problem{further} WHERE false
    """
