"""The rows of a source as one SELECT, whatever it consists of: files of several formats, a query, or a table.

Its columns: file, row (in the file, from 1), id, title, body, url (text), time (a TIMESTAMPTZ) or time_text (a text
with a time), and problem: `malformed`, `not_text` or NULL.
"""

from collections.abc import Iterable, Mapping, Sequence

import duckdb

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
    literal,
    numbered,
    quoted,
    time_in_path,
    typed_columns,
)

DAY_OF_A_QUERY = (
    "Name the one with the time: BATCH_ASSETS_COLUMNS='published_at=…'. Or make BATCH_ASSETS_SOURCE a query that "
    "selects the day's rows with the parameter $day."
)
LONG_LINES = ", max_line_size = 33554432"  # 32 MB; with DuckDB's default of 2 MB it needs 300 MB less
# To read CSV exactly as it is: no comments, no sampling, and a record of each row that is left out.
CSV_OPTIONS = """
    auto_detect = false, header = true, quote = '"', escape = '"', comment = '', store_rejects = true,
    rejects_limit = 0, filename = 'file', hive_partitioning = false
"""


def rows_of_files(
    connection: duckdb.DuckDBPyConnection, source: Source, files: Sequence[SourceFile], *, long_lines: bool
) -> str:
    """The rows of files. long_lines: whether a row of a CSV file may have 32 MB. Raises SourceError."""
    groups: dict[SourceFile, list[SourceFile]] = {}
    for file in files:
        groups.setdefault(file.layout, []).append(file)
    selects = []
    for layout, group in groups.items():
        if layout.format is Format.CSV:
            selects.append(_csv_rows(source, group, long_lines=long_lines))
        elif layout.format is Format.PARQUET:
            selects.append(_parquet_rows(connection, source, group))
        else:
            selects.append(json_rows(connection, source, group))
    return " UNION ALL ".join(f"({select})" for select in selects)


def rows_of_query(connection: duckdb.DuckDBPyConnection, source: Source, query: Query, *, name: str) -> str:
    """The rows of a query. Raises SourceError."""
    relation = f"({query.sql}\n)"
    types = _types(connection, f"SELECT * FROM {relation}", query.parameters)
    columns = find_columns(source, types)
    _check(source, name, columns, types, needs_time=not query.selects_day)
    described = _describe(connection, columns, relation, query.parameters)
    filename = find_name(types, "filename")  # DuckDB's own column, if the query selects it
    file = f"CAST({quoted(filename)} AS VARCHAR)" if filename else "NULL::VARCHAR"
    selected = typed_columns(name, source, described)
    return f"SELECT {file} AS file, row_number() OVER () AS row, {selected} FROM {relation}"


def _csv_rows(source: Source, files: Sequence[SourceFile], *, long_lines: bool) -> str:
    layout = files[0]
    by_place = {f"c{place}": name for place, name in enumerate(layout.header)}
    columns = find_columns(source, layout.header)
    needs_time = not source.has_partition and not has_day_in_path(source, [file.name for file in files])
    _check(source, layout.name, columns, layout.header, needs_time=needs_time)
    # by place: a header may have a name twice
    places = {f'"{name}"': place for place, name in reversed(by_place.items())}
    types = {ours: (places.get(sql, sql), "VARCHAR") for ours, sql in columns.items()}
    if "published_at" not in types:
        types["published_at"] = (time_in_path(source, "file"), "VARCHAR")
    paths = ", ".join(literal(escaped(file.path)) for file in files)
    names = ", ".join(f"{place}: 'VARCHAR'" for place in by_place)
    reader = (
        f"FROM read_csv([{paths}], {CSV_OPTIONS}, delim = {literal(layout.delimiter)}, skip = {layout.lines_before}, "
        f"columns = {{{names}}}{LONG_LINES if long_lines else ''})"
    )
    used = {sql for sql, _ in types.values() if sql in by_place}
    numbers = numbered(f"SELECT file, {', '.join(sorted(used))} {reader}", len(files))
    return f"SELECT file, row, {typed_columns(layout.name, source, types)} FROM ({numbers})"


def _parquet_rows(connection: duckdb.DuckDBPyConnection, source: Source, files: Sequence[SourceFile]) -> str:
    paths = ", ".join(literal(escaped(file.path)) for file in files)
    reader = (
        f"read_parquet([{paths}], union_by_name = true, filename = 'file', file_row_number = true, "
        "hive_partitioning = false)"
    )
    types = _types(connection, f"SELECT * EXCLUDE (file, file_row_number) FROM {reader}", {})
    columns = find_columns(source, types)
    needs_time = not source.has_partition and not has_day_in_path(source, [file.name for file in files])
    _check(source, files[0].name, columns, types, needs_time=needs_time)
    described = _describe(connection, columns, reader, {})
    if "published_at" not in described:
        described["published_at"] = (time_in_path(source, "file"), "VARCHAR")
    return f"SELECT file, file_row_number + 1 AS row, {typed_columns(files[0].name, source, described)} FROM {reader}"


def _describe(
    connection: duckdb.DuckDBPyConnection, columns: Mapping[str, str], relation: str, parameters: Mapping[str, object]
) -> dict[str, tuple[str, str]]:
    """SQL and type of each of our columns."""
    selected = ", ".join(f"{sql} AS {ours}" for ours, sql in columns.items())
    types = _types(connection, f"SELECT {selected} FROM {relation}", parameters)
    return {ours: (sql, types[ours]) for ours, sql in columns.items()}


def _types(connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, object]) -> dict[str, str]:
    described = connection.execute(f"DESCRIBE {query}", parameters or None).fetchall()
    return {name: str(kind) for name, kind, *_ in described}


def _check(source: Source, place: str, columns: Mapping[str, str], names: Iterable[str], *, needs_time: bool) -> None:
    if "body" not in columns:
        raise no_column(place, "body", source.column("body"), names)
    if needs_time and "published_at" not in columns:
        hint = "" if source.kind is Kind.FILES else DAY_OF_A_QUERY
        raise no_column(place, "published_at", source.column("published_at"), names, hint=hint)
