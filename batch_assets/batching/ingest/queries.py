"""Queries as sources: a SELECT of the user, a file of statements that ends with one, or a table of the warehouse."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import duckdb

from batch_assets.batching.ingest.errors import MAX_NAME, SourceError, shortened
from batch_assets.batching.ingest.source import IS_QUERY, PARTITION, TABLE_PREFIX, Kind, Source
from batch_assets.batching.ingest.values import quoted
from batch_assets.batching.sql_text import literal

FORM = "A query begins with SELECT, FROM or WITH, and may use the parameter $day"


@dataclass(frozen=True)
class Query:
    """A query, and the values of its parameters. selects_day: it has the day, so all of its rows are of the day."""

    sql: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    selects_day: bool = False


def selects_day(source: Source) -> bool:
    """Whether the source has the day in it, so that it is another one for each day. Raises SourceError, duckdb.Error.

    A statement before the query may have it, too.
    """
    if source.has_partition:
        return True
    if source.kind not in (Kind.QUERY, Kind.SQL_FILE):
        return False
    text = _text(source, source.location)
    return PARTITION in text or any("day" in found.named_parameters for found in duckdb.extract_statements(text))


def prepare_query(connection: duckdb.DuckDBPyConnection, source: Source, day: str) -> Query:
    """The query of a source. The statements before it in a `.sql` file are executed: ATTACH, SET, CREATE VIEW.

    A `.sql` file finds files by paths relative to the working directory or, if there is none, to its own folder.
    Raises SourceError, duckdb.Error.
    """
    kind, location = source.kind, source.of_day(day)
    if kind is Kind.TABLE:
        return Query(_table_query(location))
    name = "The query of BATCH_ASSETS_SOURCE" if kind is Kind.QUERY else shortened(location, MAX_NAME)
    text = _text(source, location)
    has_day = source.has_partition or PARTITION in text
    statements = connection.extract_statements(text.replace(PARTITION, day))
    if not statements or not IS_QUERY.match(statements[-1].query):
        raise SourceError(f"{name} does not end with a query. {FORM}.")
    *before, query = statements
    if before and kind is Kind.QUERY:
        raise SourceError(f"{name} has several statements. Put them into a file that ends in .sql, and name the file.")
    parameters: dict[str, object] = {"day": date.fromisoformat(day)}
    for statement in [*before, query]:
        unknown = set(statement.named_parameters) - set(parameters)
        if unknown:
            raise SourceError(f"{name} has the parameter ${shortened(min(unknown), 40)}; only $day has a value.")
    if kind is Kind.SQL_FILE:
        _find_files_beside(connection, Path(location))
    for statement in before:
        connection.execute(statement.query, parameters if statement.named_parameters else None)
    sql = _without_end(query.query)
    return Query(sql, parameters, True) if query.named_parameters else Query(sql, selects_day=has_day)


def _find_files_beside(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Let DuckDB search for files in the working directory first, then in the folder of this one."""
    folders = (Path.cwd(), file.absolute().parent)
    if not any("," in str(folder) for folder in folders):  # DuckDB separates them by it, and has no quotes
        connection.execute(f"SET file_search_path = {literal(','.join(map(str, folders)))}")


def _text(source: Source, location: str) -> str:
    """The statements of a query or a .sql file. Raises SourceError."""
    if source.kind is Kind.QUERY:
        return location
    try:
        return Path(location).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        name = shortened(location, MAX_NAME)
        raise SourceError(f"{name} could not be read: {shortened(str(error))}") from None


def _table_query(location: str) -> str:
    """The query of `table:NAME` or `table:SCHEMA.NAME`. Raises SourceError."""
    name = location.removeprefix(TABLE_PREFIX).strip()
    parts = re.findall(r'"(?:[^"]|"")*"|[^.]+', name)
    if not name or ".".join(parts) != name or len(parts) > 3:
        raise SourceError(f"{shortened(location, MAX_NAME)} names no table: write table:NAME or table:SCHEMA.NAME.")
    return "SELECT * FROM " + ".".join(part if part.startswith('"') else quoted(part) for part in parts)


def _without_end(sql: str) -> str:
    """The statement without the semicolons that end it, and the comments around them."""
    text = sql.encode()  # a token's place is that of a byte
    end = len(text)
    for place, kind in reversed(duckdb.tokenize(sql)):
        if kind == duckdb.token_type.operator and text[place : place + 1] == b";":
            end = place
        elif kind != duckdb.token_type.comment:
            break
    return text[:end].decode()
