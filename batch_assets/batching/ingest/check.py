"""Decides about each staged row whether it is an article, and finds where the others are: file, row and line.

One pass for all days, so that each file is searched for lines once.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import duckdb

from batch_assets.batching.ingest.errors import MAX_NAME, shortened
from batch_assets.batching.ingest.malformed import MAX_RECORDED, Line, find_lines, what_is_wrong
from batch_assets.batching.ingest.source import Source
from batch_assets.batching.ingest.stage import Staged
from batch_assets.batching.ingest.values import staged_rows
from batch_assets.batching.ledger.database import fixed_join_order
from batch_assets.batching.sql_text import literal

MAX_LINES = 100_000  # rows of the days whose lines are looked for; of the others, the number of the row is known


@dataclass(frozen=True)
class Checked:
    """What the staged rows are.

    rejected: a Parquet file of the days' rows that are no article: day, place (that of the staged row), source_file,
        source_row, source_line, reason. None if there is none.
    without_day: a Parquet file of the rows that belong to no day: source_file, source_row, source_line, body, reason,
        message. None if there is none.
    articles: by day, how many there are; a day without rows is not in it.
    reasons: by day, how many rows there are for each reason.
    in_several_files: by day, ids that rows of several files have.
    first_malformed: a sentence about the first malformed row.
    """

    rejected: Path | None = None
    without_day: Path | None = None
    articles: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    in_several_files: Mapping[str, int] = field(default_factory=dict)
    first_malformed: str = ""


class _RowWithoutDay(NamedTuple):
    file: str | None
    row: int | None
    line: int | None
    body: str | None
    reason: str
    message: str | None


def check_rows(
    connection: duckdb.DuckDBPyConnection, source: Source, staged: Staged, scratch: Path, *, memory_limit: str
) -> Checked:
    """Check the staged rows, and write those that are no article to Parquet files in the folder `scratch`.

    memory_limit: for the statement whose memory would grow with the number of rows. Raises duckdb.Error, OSError.
    """
    rows = staged_rows(staged.paths)
    articles: dict[str, int] = dict(
        connection.execute(f"SELECT day::VARCHAR, count(*) FROM {rows} WHERE day IS NOT NULL GROUP BY ALL").fetchall()
    )
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE no_article AS
        SELECT place, day, file, row, coalesce(problem, 'empty_body') AS reason
        FROM {rows} WHERE problem IS NOT NULL OR NOT has_text
        """
    )
    in_several_files = _find_repeated(connection, source, staged, memory_limit)
    reasons: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for day, reason, number in connection.execute(
        "SELECT day::VARCHAR, reason, count(*) FROM no_article WHERE day IS NOT NULL GROUP BY ALL ORDER BY ALL"
    ).fetchall():
        reasons[day][reason] = number
        articles[day] -= number
    if not reasons and not staged.undated and not staged.malformed:
        return Checked(articles=articles)
    without_day = _find_rows(connection, staged)
    return Checked(
        _write_rejected(connection, scratch / "rejected.parquet") if reasons else None,
        _write_without_day(connection, without_day, scratch / "without_day.parquet") if without_day else None,
        articles,
        reasons,
        in_several_files,
        first_malformed=next((_sentence(row) for row in without_day if row.reason == "malformed"), ""),
    )


def _find_repeated(
    connection: duckdb.DuckDBPyConnection, source: Source, staged: Staged, memory_limit: str
) -> dict[str, int]:
    """Add to `no_article` the rows of an id that has a newer row. Returns, by day, the ids in several files."""
    rows = staged_rows(staged.paths)
    _create(connection, "source_file", {"file": "VARCHAR", "name": "VARCHAR", "file_place": "BIGINT"})
    files = [(file.path, file.name, place) for place, file in enumerate(staged.files)]
    _insert(connection, "source_file", {"file": "VARCHAR", "name": "VARCHAR", "file_place": "BIGINT"}, files)
    connection.execute("SET memory_limit = ?", [memory_limit])
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE repeated AS
        SELECT day, article_id FROM {rows} WHERE problem IS NULL AND has_text GROUP BY ALL HAVING count(*) > 1
        """
    )
    connection.execute("RESET memory_limit")
    if connection.execute("FROM repeated LIMIT 1").fetchone() is None:
        return {}
    # without a body, an article is what its further columns say
    texts = ", ".join(("title", "body", "url", *(() if source.needs_body else source.extra_names)))
    newest = "published_at DESC NULLS LAST, " if source.newest_by == "published_at" else ""
    with fixed_join_order(connection):
        connection.execute(
            f"""
            CREATE OR REPLACE TEMP TABLE version AS
            SELECT place, day, file, row, article_id, content,
                row_number() OVER versions AS version, first_value(content) OVER versions AS newest_content
            FROM (
                SELECT * EXCLUDE (title, body, url), sha256(to_json([{texts}])::VARCHAR) AS content
                FROM {rows} SEMI JOIN repeated USING (day, article_id) LEFT JOIN source_file USING (file)
                WHERE problem IS NULL AND has_text
            )
            WINDOW versions AS (
                PARTITION BY day, article_id ORDER BY {newest}file_place DESC NULLS LAST, row DESC
            )
            """
        )
    connection.execute(
        """
        INSERT INTO no_article (place, day, file, row, reason)
        SELECT place, day, file, row,
            CASE WHEN content = newest_content THEN 'duplicate_id' ELSE 'older_version' END AS reason
        FROM version WHERE version > 1
        """
    )
    several = """
        SELECT day::VARCHAR, count(*) FROM (
            SELECT day, article_id FROM version GROUP BY ALL HAVING count(DISTINCT file) > 1
        ) GROUP BY ALL
    """
    return dict(connection.execute(several).fetchall())


def _find_rows(connection: duckdb.DuckDBPyConnection, staged: Staged) -> list[_RowWithoutDay]:
    """The rows without a day. Fills `row_line` with the lines of the days' rows that are no article."""
    _create(connection, "row_line", {"file": "VARCHAR", "row": "BIGINT", "line": "BIGINT"})
    found = connection.execute(
        f"""
        (SELECT file, row, reason FROM no_article WHERE reason = 'malformed' ORDER BY place LIMIT {MAX_RECORDED})
        UNION ALL
        (SELECT file, row, reason FROM no_article WHERE reason = 'undated' ORDER BY place LIMIT {MAX_RECORDED})
        UNION ALL
        (SELECT file, row, reason FROM no_article WHERE day IS NOT NULL ORDER BY place LIMIT {MAX_LINES})
        """
    ).fetchall()
    by_file: defaultdict[str | None, dict[int, str]] = defaultdict(dict)
    for file, row, reason in found:
        by_file[file][row] = reason
    files = {file.path: file for file in staged.files}
    without_day: list[_RowWithoutDay] = []
    for path in sorted({*by_file, *(file.path for file in staged.files)}, key=str):  # None: of a query
        reasons = by_file.get(path, {})
        broken, all_broken = staged.broken.of_file(files[path]) if path in files else ([], True)
        if not reasons and not broken:
            continue
        name, lines = path, dict[int, Line]()
        if path in files:
            name = files[path].name
            malformed = {row for row, reason in reasons.items() if reason == "malformed"}
            lines, lines_of_broken = find_lines(
                files[path], reasons, broken, with_content=malformed, all_broken=all_broken
            )
            for row_of_csv in broken:
                line = lines_of_broken.get(row_of_csv.offset)
                text = line.content.decode("utf-8", "replace") if line else None
                number = line.number if line else row_of_csv.record
                without_day.append(_RowWithoutDay(name, None, number, text, "malformed", row_of_csv.message))
        without_day.extend(_without_day(name, reasons, lines))
        of_day = [
            (path, row, line.number) for row, line in lines.items() if reasons[row] not in ("malformed", "undated")
        ]
        _insert(connection, "row_line", {"file": "VARCHAR", "row": "BIGINT", "line": "BIGINT"}, of_day)
    return without_day


def _without_day(name: str | None, reasons: Mapping[int, str], lines: Mapping[int, Line]) -> list[_RowWithoutDay]:
    rows = []
    for row, reason in reasons.items():
        line = lines.get(row)
        number = line.number if line else None
        if reason == "malformed":
            content = line.content if line else None
            text = content.decode("utf-8", "replace") if content else None
            message = what_is_wrong(content) if content else "the row is no JSON object"
            rows.append(_RowWithoutDay(name, row, number, text, reason, message))
        elif reason == "undated":
            rows.append(
                _RowWithoutDay(
                    name, row, number, None, reason, "its time cannot be read, or is before 1900 or after tomorrow"
                )
            )
    return rows


def _write_rejected(connection: duckdb.DuckDBPyConnection, path: Path) -> Path:
    connection.execute(
        f"""
        COPY (
            SELECT day, place, coalesce(name, no_article.file) AS source_file, no_article.row AS source_row,
                line AS source_line, reason
            FROM no_article
            LEFT JOIN row_line ON row_line.file = no_article.file AND row_line.row = no_article.row
            LEFT JOIN source_file ON source_file.file = no_article.file
            WHERE day IS NOT NULL ORDER BY day, place
        ) TO {literal(str(path))} (FORMAT parquet, ROW_GROUP_SIZE 2048)
        """
    )
    return path


def _write_without_day(connection: duckdb.DuckDBPyConnection, rows: Sequence[_RowWithoutDay], path: Path) -> Path:
    columns = {name: "BIGINT" if name in ("row", "line") else "VARCHAR" for name in _RowWithoutDay._fields}
    _create(connection, "row_without_day", columns)
    _insert(connection, "row_without_day", columns, rows)
    connection.execute(
        f"""
        COPY (
            SELECT file AS source_file, row AS source_row, line AS source_line, body, reason, message
            FROM row_without_day
        ) TO {literal(str(path))} (FORMAT parquet, ROW_GROUP_SIZE 2048)
        """
    )
    return path


def _sentence(row: _RowWithoutDay) -> str:
    place = f"line {row.line}" if row.line else f"row {row.row}"
    file, message = shortened(row.file or "the source", MAX_NAME // 2), shortened((row.message or "").rstrip("."), 120)
    return f"The first is {place} of {file}: {message}."


def _create(connection: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, str]) -> None:
    definition = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} ({definition})")


def _insert(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    columns: Mapping[str, str],
    rows: Sequence[tuple[object, ...]],
) -> None:
    """Insert rows in one statement: a statement for each row takes a millisecond. columns: their types."""
    if rows:
        values = [list(of_column) for of_column in zip(*rows, strict=True)]
        selected = ", ".join(f"unnest(CAST(? AS {kind}[]))" for kind in columns.values())
        connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {selected}", values)
