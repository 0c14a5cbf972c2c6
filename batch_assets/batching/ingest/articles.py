"""Replaces a day in `raw_articles` by the present rows of the source.

No row of a source is dropped silently. Rows that are no article go to `rejected_article` with file, line and reason:
those of a day with the day, and those that belong to no day (`malformed`, `undated`) without one, once for each file.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from batch_assets.batching.counting import counted
from batch_assets.batching.ingest.check import Checked, check_rows
from batch_assets.batching.ingest.errors import MAX_NAME, SourceError, errors_of, shortened
from batch_assets.batching.ingest.source import Kind, Source
from batch_assets.batching.ingest.stage import Staged, connection_to, stage
from batch_assets.batching.ingest.unchanged import check_unchanged
from batch_assets.batching.ingest.values import staged_rows
from batch_assets.batching.ledger.database import Database, transaction

__all__ = ["Ingested", "Source", "SourceError", "ingest_day"]

REJECTED = "source_file, source_row, source_line, article_id, title, body, url, reason, message"


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


def ingest_day(database: Database, *, source: Source | str, day: str, keep_if_empty: bool = False) -> Ingested:
    """Replace the day in `raw_articles` and `rejected_article` by the present rows of the source.

    source: a `Source`, or only its location. Without `{partition}` or `$day` in it, `published_at` (UTC if it has no
    zone) selects the day's rows.
    keep_if_empty: do not change a day that has articles if the source has none for it now.
    Raises SourceError; then, the articles of the day were not changed.
    """
    source = Source(source) if isinstance(source, str) else source
    with _scratch_folder() as scratch:
        errors = errors_of(source.of_day(day), is_query=source.kind is not Kind.FILES)
        with connection_to(database, source, scratch) as connection, errors:
            staged = stage(connection, source, day, scratch)
            checked = None if staged.is_empty else check_rows(connection, source, staged)
            check_unchanged(staged.states)
        with database.writing() as connection:
            with transaction(connection):
                _record_rows_without_day(connection, staged, checked)
            if checked and staged.malformed > source.max_malformed_share * staged.total:
                raise _too_many_malformed(source, staged, checked)
            with transaction(connection):
                return _replace_day(connection, day, staged, checked, keep_if_empty=keep_if_empty)


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="batch_assets_"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _too_many_malformed(source: Source, staged: Staged, checked: Checked) -> SourceError:
    return SourceError(
        f"{shortened(source.location, MAX_NAME)} could not be read, and the day was not changed: "
        f"{staged.malformed:,} of {counted(staged.total, 'row')} are malformed, and at most "
        f"{source.max_malformed_share:.1%} may be (`max_malformed_share` of `ArticleSource`). {checked.first_malformed}"
        " They are in `rejected_article`, with the reason `malformed`."
    )


def _record_rows_without_day(connection: duckdb.DuckDBPyConnection, staged: Staged, checked: Checked | None) -> None:
    """Replace what `rejected_article` has of malformed and undated rows of the files that were read."""
    connection.execute(
        """
        DELETE FROM rejected_article
        WHERE partition_date IS NULL AND source_file IN (SELECT unnest(CAST(? AS VARCHAR[])))
        """,
        [list(staged.names)],
    )
    if checked:
        if not staged.names and not staged.selects_day:  # a query or a table, with all its rows
            connection.execute("DELETE FROM rejected_article WHERE partition_date IS NULL")
        connection.execute(
            f"""
            INSERT INTO rejected_article (partition_date, {REJECTED})
            SELECT NULL, {REJECTED} FROM {staged_rows(checked.rejected)} WHERE NOT of_day
            """
        )


def _replace_day(
    connection: duckdb.DuckDBPyConnection,
    day: str,
    staged: Staged,
    checked: Checked | None,
    *,
    keep_if_empty: bool,
) -> Ingested:
    of_day = "WHERE partition_date = CAST(? AS DATE)"
    before = connection.execute(f"SELECT count(*) FROM raw_articles {of_day}", [day]).fetchone()
    assert before is not None  # an aggregate has one row
    ingested = Ingested(
        articles=checked.articles if checked else 0,
        rejected=checked.reasons if checked else {},
        undated=staged.undated,
        files=len(staged.names),
        malformed=staged.malformed,
        articles_before=before[0],
        is_kept=bool(keep_if_empty and before[0] and not (checked and checked.articles)),
        in_several_files=checked.in_several_files if checked else 0,
    )
    if ingested.is_kept:
        return ingested
    for table in ("pruned_day", "raw_articles", "rejected_article"):
        connection.execute(f"DELETE FROM {table} {of_day}", [day])
    if checked:
        connection.execute(
            f"""
            INSERT INTO raw_articles (partition_date, article_id, title, body, url, published_at)
            SELECT CAST(? AS DATE), article_id, title, body, url, published_at
            FROM {staged_rows(staged.path)}
            ANTI JOIN (SELECT place FROM {staged_rows(checked.rejected)} WHERE of_day) AS rejected
                ON rejected.place = file_row_number
            WHERE problem IS NULL
            """,
            [day],
        )
        connection.execute(
            f"""
            INSERT INTO rejected_article (partition_date, {REJECTED})
            SELECT CAST(? AS DATE), {REJECTED} FROM {staged_rows(checked.rejected)} WHERE of_day
            """,
            [day],
        )
    return ingested
