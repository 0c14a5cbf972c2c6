"""A day's articles: from a file, glob or URL that DuckDB reads, into `raw_articles`.

A source is read outside the warehouse, into a Parquet file, and only then inserted: it may be slow or far
away, and the database file is not to be locked meanwhile. Nothing that a source holds is dropped silently:
rows without text, and second rows of one id, go to `rejected_article` with the reason.
"""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.safety.outside_text import as_message

ARTICLE_COLUMNS = ("id", "title", "body", "url", "published_at")
CSV_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")
PARQUET_ENDINGS = (".parquet", ".parq", ".pq")
JSON_ENDINGS = tuple(name + packing for name in (".jsonl", ".ndjson", ".json") for packing in ("", ".gz", ".zst"))
ROWS_AT_ONCE = 2048  # of a staged file: whoever reads it has a group of rows in memory, for each thread
# Whether a text has anything to read: a character that is no white space, separator, control or format mark.
HAS_TEXT = r"[^\s\p{Z}\p{C}]"


class SourceError(Exception):
    """The source cannot be read as articles; the message says what was found and what to do."""


@dataclass(frozen=True)
class Ingested:
    """What became of a day's rows. `undated` counts rows of the whole source that belong to no day."""

    articles: int
    rejected: dict[str, int] = field(default_factory=dict)
    undated: int = 0
    files: int = 0


def ingest_day(database: Database, *, source: str, day: str) -> Ingested:
    """Replace the day in `raw_articles` and `rejected_article` by what the source holds now.

    `source` is a path, glob or URL of JSONL, JSON, CSV or Parquet; `{partition}` in it stands for the day.
    Without it, `published_at` (UTC where it names no zone) selects the day. Raises SourceError.
    """
    staging = Path(tempfile.mkdtemp(prefix="batch_assets_"))
    try:
        staged = staging / "day.parquet"
        undated, files = _stage(source, day, staged)
        with database.writing() as connection, transaction(connection):
            return _replace_day(connection, day, staged, undated, files)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _stage(source: str, day: str, staged: Path) -> tuple[int, int]:
    """Write the day's rows to a Parquet file; returns (rows that belong to no day, files read)."""
    path = source.replace("{partition}", day)
    # One thread, since each has a group of rows in memory, and keeps what it read until its turn comes. No limit on
    # memory: how large the groups of rows of a Parquet file are is the source's choice, and one of them must fit.
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        connection.execute(f"SET temp_directory = '{staged.parent.as_posix()}'")
        try:
            rows, files, has_dates = _rows_of(connection, path)
            if "{partition}" not in source and not has_dates:
                raise SourceError(
                    f"{as_message(path)} has no column `published_at` that would tell which rows belong to {day}. "
                    "Add it, or put {partition} into BATCH_ASSETS_SOURCE where the path holds the day."
                )
            dated = f"SELECT *, try_cast(published_at AS TIMESTAMPTZ) AS published FROM {rows}"
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
                        coalesce(regexp_matches(body, '{HAS_TEXT}'), false) AS has_text
                    FROM ({dated}) WHERE {is_of_day}
                ) TO '{staged.as_posix()}' (FORMAT parquet, ROW_GROUP_SIZE {ROWS_AT_ONCE})
                """,
                {"path": path} if "{partition}" in source else {"path": path, "day": day},
            )
            undated = 0
            if "{partition}" not in source:
                undated = _count(connection, f"SELECT count(*) FROM ({dated}) WHERE published IS NULL", {"path": path})
                if undated and undated == _count(connection, f"SELECT count(*) FROM ({dated})", {"path": path}):
                    raise SourceError(
                        f"None of the {undated} rows of {as_message(path)} has a `published_at` that can be read "
                        "as a time, such as 2026-01-05 or 2026-01-05T08:00:00+01:00, so they belong to no day."
                    )
        except duckdb.Error as error:
            # alone: DuckDB's own words, which Dagster would store as the cause, have the whole URL in them
            raise SourceError(_explain(error, path)) from None
    return undated, files


def _rows_of(connection: duckdb.DuckDBPyConnection, path: str) -> tuple[str, int, bool]:
    """SQL that yields the five columns as text; the number of files; whether there are dates."""
    reader, options = _reader_of(path)
    columns = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {reader}(?{options})", [path]).fetchall()]
    if columns == ["json"] and _count(connection, "SELECT coalesce(max(size), 0) FROM read_blob(?)", [path]) == 0:
        columns = list(ARTICLE_COLUMNS)  # files without a byte in them: a day without articles
    by_name = {column.lower(): column for column in columns}
    if "body" not in by_name:
        raise SourceError(
            f"{as_message(path)} has no column `body`, which must hold an article's text. Its columns are: "
            f"{as_message(', '.join(columns)) or 'none'}. Rename the one with the text to `body`; `id`, `title`, `url` "
            "and `published_at` are optional."
        )
    names = {name: by_name[name] for name in ARTICLE_COLUMNS if name in by_name}
    if reader == "read_json":
        # explicit types: detection would turn the id "007" into 7, and rows without a key into errors
        options = ", columns = {" + ", ".join(f"{_quoted(n)}: 'VARCHAR'" for n in names.values()) + "}"
    selected = ", ".join(
        f"CAST({_quoted(names[name])} AS VARCHAR) AS {name}" if name in names else f"NULL::VARCHAR AS {name}"
        for name in ARTICLE_COLUMNS
    )
    files = _count(connection, "SELECT count(*) FROM glob(?)", [path]) if "://" not in path else 1
    return f"(SELECT {selected} FROM {reader}($path{options}))", files, "published_at" in names


def _reader_of(path: str) -> tuple[str, str]:
    name = path.lower().split("?")[0]
    if name.endswith(CSV_ENDINGS):
        # explicit: detection sees the first 20,480 rows only, and would take later quotes for text
        return "read_csv", """, all_varchar = true, header = true, quote = '"', escape = '"', union_by_name = true"""
    if name.endswith(PARQUET_ENDINGS):
        return "read_parquet", ", union_by_name = true"
    if name.endswith(JSON_ENDINGS):
        return "read_json", ""
    raise SourceError(
        f"BATCH_ASSETS_SOURCE is {as_message(path)}, which is none of the kinds that can be read: it must end in "
        ".jsonl, .ndjson, .json, .csv, .tsv or .parquet (with .gz or .zst, if need be)."
    )


def _explain(error: duckdb.Error, path: str) -> str:
    detail = as_message(str(error).split("\n\nLINE ")[0].strip(), path)
    path = as_message(path)
    if "No files found" in detail:
        return (
            f"BATCH_ASSETS_SOURCE leads to {path}, where there is no file. A relative path is looked up from the "
            "folder that Dagster was started in."
        )
    return f"{path} could not be read, and the day was left as it was. DuckDB says: {detail}"


def _replace_day(connection: duckdb.DuckDBPyConnection, day: str, staged: Path, undated: int, files: int) -> Ingested:
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE row_check AS
        SELECT
            file_row_number AS row,
            CASE
                WHEN NOT has_text THEN 'empty_body'
                -- of several rows of one id the first that has a text counts
                WHEN row_number() OVER (PARTITION BY article_id, has_text ORDER BY file_row_number) > 1
                    THEN 'duplicate_id'
            END AS reason
        FROM read_parquet(?, file_row_number = true)
        """,
        [str(staged)],
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
        {"day": day, "staged": str(staged)},
    )
    connection.execute("DELETE FROM rejected_article WHERE partition_date = CAST(? AS DATE)", [day])
    connection.execute(
        """
        INSERT INTO rejected_article (partition_date, source_row, article_id, title, body, url, reason)
        SELECT CAST($day AS DATE), file_row_number + 1, article_id, title, body, url, reason
        FROM read_parquet($staged, file_row_number = true)
        JOIN row_check ON row = file_row_number AND reason IS NOT NULL
        """,
        {"day": day, "staged": str(staged)},
    )
    rejected = connection.execute(
        "SELECT reason, count(*) FROM row_check WHERE reason IS NOT NULL GROUP BY reason ORDER BY reason"
    ).fetchall()
    articles = _count(connection, "SELECT count(*) FROM row_check WHERE reason IS NULL")
    return Ingested(articles=articles, rejected=dict(rejected), undated=undated, files=files)


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _count(connection: duckdb.DuckDBPyConnection, statement: str, parameters: object = None) -> int:
    row = connection.execute(statement, parameters).fetchone()
    return int(row[0]) if row else 0
