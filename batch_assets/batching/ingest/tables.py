"""Writes the rows of a source into the tables of the warehouse: `raw_articles` and `rejected_article`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from batch_assets.batching.ingest.check import Checked
from batch_assets.batching.ingest.source import Source
from batch_assets.batching.ingest.stage import Staged
from batch_assets.batching.ingest.values import staged_rows
from batch_assets.batching.ledger.database import fixed_join_order, parsed, transaction
from batch_assets.batching.sql_text import literal

PLACE = "source_file, source_row, source_line"
OF_DAY = "WHERE source = ? AND partition_date = CAST(? AS DATE)"


@dataclass(frozen=True)
class ReadRows:
    """The rows of a source: those that were staged, what they are, and by day the files that have them."""

    source: Source
    staged: Staged
    checked: Checked
    files: Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class Ingested:
    """The numbers of a day's rows.

    rejected: rows of the day in `rejected_article`, by reason.
    undated, malformed: rows of the whole source that belong to no day.
    files: files that were read; 0 for a query or a table.
    articles_before: articles that the day had before.
    is_kept: the source has no article for the day now, and the day was not changed.
    in_several_files: ids that rows of several files have; one row of each id counts.
    """

    articles: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    undated: int = 0
    files: int = 0
    malformed: int = 0
    articles_before: int = 0
    is_kept: bool = False
    in_several_files: int = 0


def has_articles(connection: duckdb.DuckDBPyConnection, source: str, day: str) -> bool:
    """Whether the day has articles of the source with this name."""
    return connection.execute(f"SELECT 1 FROM raw_articles {OF_DAY} LIMIT 1", [source, day]).fetchone() is not None


def record_rows_without_day(connection: duckdb.DuckDBPyConnection, rows: ReadRows) -> None:
    """Replace what `rejected_article` has of malformed and undated rows of the files that were read."""
    staged = rows.staged
    with transaction(connection):
        connection.execute(
            """
            DELETE FROM rejected_article
            WHERE source = ? AND partition_date IS NULL AND source_file IN (SELECT unnest(CAST(? AS VARCHAR[])))
            """,
            [rows.source.name, list(staged.names)],
        )
        if not staged.names and not staged.selects_day:  # a query or a table, with all its rows
            connection.execute(
                "DELETE FROM rejected_article WHERE source = ? AND partition_date IS NULL", [rows.source.name]
            )
        if rows.checked.without_day:
            connection.execute(
                f"""
                INSERT INTO rejected_article (source, partition_date, {PLACE}, body, reason, message)
                SELECT ?, NULL, {PLACE}, body, reason, message FROM {staged_rows([rows.checked.without_day])}
                """,
                [rows.source.name],
            )


def replace_rows_of_day(
    connection: duckdb.DuckDBPyConnection, day: str, rows: ReadRows, *, keep_if_empty: bool
) -> Ingested:
    """Replace the source's rows of the day in `raw_articles` and `rejected_article`, in one transaction."""
    of_day = [rows.source.name, day]
    articles, reasons = rows.checked.articles.get(day, 0), rows.checked.reasons.get(day, {})
    with transaction(connection):
        before = 0
        is_kept = False
        if keep_if_empty and not articles:
            before = _number(connection, f"SELECT count(*) FROM raw_articles {OF_DAY}", of_day)
            is_kept = before > 0
        if not is_kept:
            connection.execute(parsed(f"DELETE FROM pruned_day {OF_DAY}"), of_day)
            connection.execute(parsed(f"DELETE FROM rejected_article {OF_DAY}"), of_day)
            before = _number(connection, f"DELETE FROM raw_articles {OF_DAY}", of_day)
            _insert_articles(connection, day, rows)
            if reasons:
                _insert_rejected(connection, day, rows)
    return Ingested(
        articles,
        reasons,
        undated=rows.staged.undated,
        files=len(rows.staged.names),
        malformed=rows.staged.malformed,
        articles_before=before,
        is_kept=is_kept,
        in_several_files=rows.checked.in_several_files.get(day, 0),
    )


def _insert_articles(connection: duckdb.DuckDBPyConnection, day: str, rows: ReadRows) -> None:
    if not rows.checked.articles.get(day):
        return
    are_articles = f"WHERE day = DATE {literal(day)} AND problem IS NULL AND has_text"
    name = [rows.source.name]
    columns = "source, partition_date, article_id, title, body, url, published_at"
    selected = "CAST(? AS VARCHAR), day, article_id, title, body, url, published_at"
    if rows.source.extra:
        columns, selected = f"{columns}, extra", f"{selected}, {_extra(rows.source)}"
    select = f"SELECT {selected} FROM {staged_rows(rows.files[day])}"
    if not {"duplicate_id", "older_version"}.intersection(rows.checked.reasons.get(day, ())):
        connection.execute(f"INSERT INTO raw_articles ({columns}) {select} {are_articles}", name)
        return
    with fixed_join_order(connection):
        connection.execute(
            f"""
            INSERT INTO raw_articles ({columns})
            {select} ANTI JOIN (SELECT place FROM {_rejected(day, rows)}) AS rejected USING (place) {are_articles}
            """,
            name,
        )


def _extra(source: Source) -> str:
    """SQL of the map of the further columns. Each is a key, also without a value: so a plan knows that it was read."""
    pairs = [f"({literal(ours)}, {name})" for name, ours in zip(source.extra_names, source.extra, strict=True)]
    return f"map_from_entries([{', '.join(pairs)}])"


def _insert_rejected(connection: duckdb.DuckDBPyConnection, day: str, rows: ReadRows) -> None:
    with fixed_join_order(connection):
        connection.execute(
            f"""
            INSERT INTO rejected_article (source, partition_date, {PLACE}, article_id, title, body, url, reason)
            SELECT CAST(? AS VARCHAR), staged.day, {PLACE}, article_id, title, body, url, reason
            FROM {staged_rows(rows.files[day])} AS staged
            JOIN {_rejected(day, rows)} AS rejected USING (place)
            WHERE staged.day = DATE {literal(day)}
            """,
            [rows.source.name],
        )


def _rejected(day: str, rows: ReadRows) -> str:
    assert rows.checked.rejected is not None  # the day has rejected rows
    return f"(FROM {staged_rows([rows.checked.rejected])} WHERE day = DATE {literal(day)})"


def _number(connection: duckdb.DuckDBPyConnection, statement: str, parameters: Sequence[str]) -> int:
    """The number that a SELECT has as its result, or of the rows that a DELETE has deleted."""
    row = connection.execute(parsed(statement), parameters).fetchone()
    assert row is not None  # both have one
    return int(row[0])
