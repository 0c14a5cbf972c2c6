"""What the tables and their columns hold, in a sentence each: from the DDL, for DuckDB's comments and Dagster's UI."""

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import duckdb

from batch_assets.batching.ledger.schema import TABLES
from batch_assets.batching.sql_text import literal

DEFINITION = re.compile(r"(?P<name>\w+) (?P<type>.+?)(?: NOT NULL)?(?: DEFAULT .+)?,?")


class DescribedColumn(NamedTuple):
    """A column, its type, and what it holds; None if its name says it."""

    name: str
    type: str
    comment: str | None


class DescribedTable(NamedTuple):
    """A table of the DDL, and what one of its rows is."""

    comment: str
    columns: tuple[DescribedColumn, ...]


def described(ddl: str) -> DescribedTable:
    """The comments of a CREATE TABLE statement: of the table before its first column, of a column behind it."""
    comments: list[tuple[str, str, list[str]]] = [("", "", [])]  # name, type, comment; the first one is the table
    for line in ddl.strip().removeprefix("(").removesuffix(")").splitlines():
        definition, _, comment = (part.strip() for part in line.partition("--"))
        if definition and (found := DEFINITION.fullmatch(definition)):
            comments.append((found["name"], found["type"].replace("{text}", "VARCHAR"), []))
        if comment:
            comments[-1][2].append(comment)
    (_, _, of_table), *of_columns = comments
    return DescribedTable(
        " ".join(of_table),
        tuple(DescribedColumn(name, kind, " ".join(text) or None) for name, kind, text in of_columns),
    )


@cache
def described_tables() -> Mapping[str, DescribedTable]:
    """All tables of this version, by name."""
    return {name: described(ddl) for name, ddl in TABLES.items()}


def comment_on_table(connection: duckdb.DuckDBPyConnection, table: str, described_as: str | None = None) -> None:
    """Write the comments of a table of this version into the database.

    described_as: the table whose comments it has; of a result table, those of `summaries` that it has, too.
    """
    comments = described_tables()[described_as or table]
    found = connection.execute(
        "SELECT column_name FROM duckdb_columns() WHERE database_name = current_database() AND table_name = ?", [table]
    )
    present = {name for (name,) in found.fetchall()}
    statements = [f'COMMENT ON TABLE "{table}" IS {literal(comments.comment)}']
    statements += [
        f'COMMENT ON COLUMN "{table}".{column.name} IS {literal(column.comment)}'
        for column in comments.columns
        if column.comment and column.name in present
    ]
    connection.execute(";".join(statements))
