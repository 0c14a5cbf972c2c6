"""Reads a day's articles from a file, glob or URL into `raw_articles`.

DuckDB first reads the source into a Parquet file outside of the warehouse, and then inserts that file: a source may be
slow, and must not lock the database meanwhile. No row of a source is dropped silently: rows without text, and second
rows of one id, go to `rejected_article` with the reason.
"""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import duckdb

from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.safety.outside_text import as_message

ARTICLE_COLUMNS = ("id", "title", "body", "url", "published_at")
CSV_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")
PARQUET_ENDINGS = (".parquet", ".parq", ".pq")
JSON_ENDINGS = tuple(name + suffix for name in (".jsonl", ".ndjson", ".json") for suffix in ("", ".gz", ".zst"))
ROW_GROUP_ROWS = 2048  # of the staged file: each thread that reads it has a group of rows in memory
# A text has a character that is no white space, separator, control or format mark.
TEXT_PATTERN = r"[^\s\p{Z}\p{C}]"


class SourceError(Exception):
    """The source cannot be read as articles; the message says what was found and what to do."""


@dataclass(frozen=True)
class Ingested:
    """The numbers of a day's rows. `undated` counts rows of the whole source that belong to no day."""

    articles: int
    rejected: dict[str, int] = field(default_factory=dict)
    undated: int = 0
    files: int = 0


def ingest_day(database: Database, *, source: str, day: str) -> Ingested:
    """Replace the day in `raw_articles` and `rejected_article` by the present rows of the source.

    `source` is a path, glob or URL of JSONL, JSON, CSV or Parquet; `{partition}` in it stands for the day.
    Without it, `published_at` (UTC if it has no zone) selects the day. Raises SourceError.
    """
    staging = Path(tempfile.mkdtemp(prefix="batch_assets_"))
    try:
        staged = _stage(source, day, staging / "day.parquet")
        with database.writing() as connection, transaction(connection):
            return _replace_day(connection, day, staged)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _Staged(NamedTuple):
    """A Parquet file with a day's rows. `undated`: rows of the source that belong to no day; `files`: files read."""

    path: Path
    undated: int
    files: int


class _SourceRows(NamedTuple):
    """`sql` selects the five columns of a source as text. `has_dates`: whether it has the column `published_at`."""

    sql: str
    files: int
    has_dates: bool


def _stage(source: str, day: str, staged: Path) -> _Staged:
    """Write the day's rows to the Parquet file `staged`."""
    path = source.replace("{partition}", day)
    # One thread, since each has a group of rows in memory, and keeps it until it can write. No limit on memory: the
    # source decides how large the groups of rows of a Parquet file are, and one group must fit into memory.
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        connection.execute(f"SET temp_directory = '{staged.parent.as_posix()}'")
        try:
            rows = _source_rows(connection, path)
            if "{partition}" not in source and not rows.has_dates:
                raise SourceError(
                    f"{as_message(path)} has no column `published_at`, so the rows of {day} are not known. "
                    "Add the column, or put {partition} into BATCH_ASSETS_SOURCE where the path has the day."
                )
            dated = f"SELECT *, try_cast(published_at AS TIMESTAMPTZ) AS published FROM {rows.sql}"
            is_of_day = "true" if "{partition}" in source else "published::DATE = CAST($day AS DATE)"
            connection.execute(
                f"""
                COPY (
                    SELECT
                        coalesce(
                            nullif(trim(id), ''),
                            -- a source without ids: the same text gets the same id, on any day
                            left(sha256(concat_ws(chr(31), coalesce(title, ''), coalesce(body, ''), url)), 20)
                        ) AS article_id,
                        title, body, url, published::TIMESTAMP AS published_at,
                        coalesce(regexp_matches(body, '{TEXT_PATTERN}'), false) AS has_text
                    FROM ({dated}) WHERE {is_of_day}
                ) TO '{staged.as_posix()}' (FORMAT parquet, ROW_GROUP_SIZE {ROW_GROUP_ROWS})
                """,
                {"path": path} if "{partition}" in source else {"path": path, "day": day},
            )
            undated = 0
            if "{partition}" not in source:
                undated = _count(connection, f"SELECT count(*) FROM ({dated}) WHERE published IS NULL", {"path": path})
                if undated and undated == _count(connection, f"SELECT count(*) FROM ({dated})", {"path": path}):
                    raise SourceError(
                        f"{as_message(path)} has {counted(undated, 'row')}, and none of them has a `published_at` that "
                        "is a time, such as 2026-01-05 or 2026-01-05T08:00:00+01:00, so no row belongs to a day."
                    )
        except duckdb.Error as error:
            # without the cause, which Dagster would store: DuckDB's own message contains the whole URL
            raise SourceError(_explain(error, path)) from None
    return _Staged(staged, undated, rows.files)


def _source_rows(connection: duckdb.DuckDBPyConnection, path: str) -> _SourceRows:
    reader, options = _reader_of(path)
    described = connection.execute(f"DESCRIBE SELECT * FROM {reader}(?{options})", [path]).fetchall()
    columns: list[str] = [name for name, *_ in described]
    if columns == ["json"] and _count(connection, "SELECT coalesce(max(size), 0) FROM read_blob(?)", [path]) == 0:
        columns = list(ARTICLE_COLUMNS)  # only empty files: a day without articles
    by_name = {column.lower(): column for column in columns}
    if "body" not in by_name:
        raise SourceError(
            f"{as_message(path)} has no column `body`, which must have an article's text. Its columns are: "
            f"{as_message(', '.join(columns)) or 'none'}. Rename the one with the text to `body`; `id`, `title`, `url` "
            "and `published_at` are optional."
        )
    names = {name: by_name[name] for name in ARTICLE_COLUMNS if name in by_name}
    if reader == "read_json":
        # explicit types: with detected ones, DuckDB reads the id "007" as 7, and fails for a row without a key
        options = ", columns = {" + ", ".join(f"{_quoted(n)}: 'VARCHAR'" for n in names.values()) + "}"
    selected = ", ".join(
        f"CAST({_quoted(names[name])} AS VARCHAR) AS {name}" if name in names else f"NULL::VARCHAR AS {name}"
        for name in ARTICLE_COLUMNS
    )
    files = _count(connection, "SELECT count(*) FROM glob(?)", [path]) if "://" not in path else 1
    return _SourceRows(f"(SELECT {selected} FROM {reader}($path{options}))", files, "published_at" in names)


def _reader_of(path: str) -> tuple[str, str]:
    """The function of DuckDB that reads the path, and its options. Raises SourceError."""
    name = path.lower().split("?")[0]
    if name.endswith(CSV_ENDINGS):
        # explicit: detection reads only the first 20,480 rows, and would read later quotes as text
        return "read_csv", """, all_varchar = true, header = true, quote = '"', escape = '"', union_by_name = true"""
    if name.endswith(PARQUET_ENDINGS):
        return "read_parquet", ", union_by_name = true"
    if name.endswith(JSON_ENDINGS):
        return "read_json", ""
    raise SourceError(
        f"BATCH_ASSETS_SOURCE is {as_message(path)}, which is none of the kinds that can be read: it must end in "
        ".jsonl, .ndjson, .json, .csv, .tsv or .parquet, or in one of these with .gz or .zst."
    )


def _explain(error: duckdb.Error, path: str) -> str:
    detail = as_message(str(error).split("\n\nLINE ")[0].strip(), path)
    path = as_message(path)
    if "No files found" in detail:
        return (
            f"BATCH_ASSETS_SOURCE leads to {path}, where there is no file. A relative path begins in the folder in "
            "which Dagster was started."
        )
    return f"{path} could not be read, and the day was not changed. DuckDB says: {detail}"


def _replace_day(connection: duckdb.DuckDBPyConnection, day: str, staged: _Staged) -> Ingested:
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE row_check AS
        SELECT
            file_row_number AS row,
            CASE
                WHEN NOT has_text THEN 'empty_body'
                -- of several rows with one id, the first that has a text counts
                WHEN row_number() OVER (PARTITION BY article_id, has_text ORDER BY file_row_number) > 1
                    THEN 'duplicate_id'
            END AS reason
        FROM read_parquet(?, file_row_number = true)
        """,
        [str(staged.path)],
    )
    connection.execute("DELETE FROM pruned_day WHERE partition_date = CAST(? AS DATE)", [day])
    connection.execute("DELETE FROM raw_articles WHERE partition_date = CAST(? AS DATE)", [day])
    connection.execute(
        """
        INSERT INTO raw_articles (partition_date, article_id, title, body, url, published_at)
        SELECT CAST($day AS DATE), article_id, title, body, url, published_at
        FROM read_parquet($staged, file_row_number = true)
        ANTI JOIN (SELECT row AS file_row_number FROM row_check WHERE reason IS NOT NULL) USING (file_row_number)
        """,
        {"day": day, "staged": str(staged.path)},
    )
    connection.execute("DELETE FROM rejected_article WHERE partition_date = CAST(? AS DATE)", [day])
    connection.execute(
        """
        INSERT INTO rejected_article (partition_date, source_row, article_id, title, body, url, reason)
        SELECT CAST($day AS DATE), file_row_number + 1, article_id, title, body, url, reason
        FROM read_parquet($staged, file_row_number = true)
        JOIN row_check ON row = file_row_number AND reason IS NOT NULL
        """,
        {"day": day, "staged": str(staged.path)},
    )
    rejected = connection.execute(
        "SELECT reason, count(*) FROM row_check WHERE reason IS NOT NULL GROUP BY reason ORDER BY reason"
    ).fetchall()
    articles = _count(connection, "SELECT count(*) FROM row_check WHERE reason IS NULL")
    return Ingested(articles=articles, rejected=dict(rejected), undated=staged.undated, files=staged.files)


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _count(connection: duckdb.DuckDBPyConnection, statement: str, parameters: object = None) -> int:
    row = connection.execute(statement, parameters).fetchone()
    return int(row[0]) if row else 0
