"""Decides about each staged row whether it is an article, and finds where the others are: file, row and line."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import duckdb

from batch_assets.batching.ingest.errors import MAX_NAME, shortened
from batch_assets.batching.ingest.malformed import MAX_RECORDED, Line, find_lines, what_is_wrong
from batch_assets.batching.ingest.source import Source
from batch_assets.batching.ingest.stage import Staged
from batch_assets.batching.ingest.values import literal, staged_rows

MAX_LINES = 100_000  # rows of a day whose lines are looked for; of the others, the number of the row is known
NO_ARTICLE = "reason IN ('malformed', 'undated')"  # and of no day


@dataclass(frozen=True)
class Checked:
    """What the staged rows are.

    rejected: a Parquet file of the rows that are no article: the columns of `rejected_article`, of_day, and place,
        which is the number of the staged row.
    reasons: how many rows of the day there are for each reason.
    in_several_files: ids that rows of several files have.
    first_malformed: a sentence about the first malformed row.
    """

    rejected: Path
    articles: int
    reasons: Mapping[str, int]
    in_several_files: int
    first_malformed: str


class _RowWithoutDay(NamedTuple):
    file: str | None
    row: int | None
    line: int | None
    body: str | None
    reason: str
    message: str | None


def check_rows(connection: duckdb.DuckDBPyConnection, source: Source, staged: Staged) -> Checked:
    """Check the staged rows, and write those that are no article to a Parquet file beside them."""
    _give_reasons(connection, source, staged)
    without_day = _find_rows(connection, staged)
    rejected = staged.path.with_name("rejected.parquet")
    _write(connection, staged, without_day, rejected)
    reasons = connection.execute(
        f"SELECT reason, count(*) FROM row_check WHERE NOT {NO_ARTICLE} GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    several = """
        SELECT count(*) FROM (
            SELECT article_id FROM row_check WHERE reason IS NULL OR reason IN ('duplicate_id', 'older_version')
            GROUP BY article_id HAVING count(DISTINCT file) > 1
        )
    """
    return Checked(
        rejected,
        articles=_count(connection, "SELECT count(*) FROM row_check WHERE reason IS NULL"),
        reasons=dict(reasons),
        in_several_files=_count(connection, several) if reasons else 0,
        first_malformed=next((_sentence(row) for row in without_day if row.reason == "malformed"), ""),
    )


def _give_reasons(connection: duckdb.DuckDBPyConnection, source: Source, staged: Staged) -> None:
    """Create the table `row_check`: each staged row, and why it is no article of the day."""
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE source_file (file VARCHAR, name VARCHAR, file_place BIGINT);
        CREATE OR REPLACE TEMP TABLE row_line (file VARCHAR, row BIGINT, line BIGINT)
        """
    )
    files = [(file.path, file.name, place) for place, file in enumerate(staged.files)]
    _insert(connection, "source_file", {"file": "VARCHAR", "name": "VARCHAR", "file_place": "BIGINT"}, files)
    newest = "published_at DESC NULLS LAST, " if source.newest_by == "published_at" else ""
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE row_check AS
        SELECT
            file_row_number AS place, file, row, article_id,
            CASE
                WHEN problem IS NOT NULL THEN problem
                WHEN NOT has_text THEN 'empty_body'
                WHEN row_number() OVER (
                    PARTITION BY article_id, has_text AND problem IS NULL
                    ORDER BY {newest}file_place DESC NULLS LAST, row DESC
                ) > 1 THEN 'duplicate_id'
            END AS reason
        FROM {staged_rows(staged.path)} LEFT JOIN source_file USING (file)
        """
    )
    if not _count(connection, "SELECT count(*) FROM row_check WHERE reason = 'duplicate_id'"):
        return
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE repeated AS
        SELECT place, row_check.article_id, reason, sha256(to_json([title, body, url])::VARCHAR) AS content
        FROM {staged_rows(staged.path)}
        JOIN row_check ON place = file_row_number
        SEMI JOIN (SELECT article_id FROM row_check WHERE reason = 'duplicate_id') AS several
            ON several.article_id = row_check.article_id
        WHERE reason IS NULL OR reason = 'duplicate_id';

        UPDATE row_check SET reason = 'older_version' FROM repeated AS older
        JOIN repeated AS newest ON newest.article_id = older.article_id AND newest.reason IS NULL
        WHERE row_check.place = older.place AND older.reason = 'duplicate_id' AND older.content <> newest.content
        """
    )


def _find_rows(connection: duckdb.DuckDBPyConnection, staged: Staged) -> list[_RowWithoutDay]:
    """The rows without a day. Fills `row_line` with the lines of the day's rows that are no article."""
    found = connection.execute(
        f"""
        (SELECT file, row, reason FROM row_check WHERE reason = 'malformed' ORDER BY place LIMIT {MAX_RECORDED})
        UNION ALL
        (SELECT file, row, reason FROM row_check WHERE reason = 'undated' ORDER BY place LIMIT {MAX_RECORDED})
        UNION ALL
        (SELECT file, row, reason FROM row_check WHERE NOT {NO_ARTICLE} ORDER BY place LIMIT {MAX_LINES})
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


def _write(
    connection: duckdb.DuckDBPyConnection, staged: Staged, without_day: Sequence[_RowWithoutDay], rejected: Path
) -> None:
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE row_without_day
        (file VARCHAR, row BIGINT, line BIGINT, body VARCHAR, reason VARCHAR, message VARCHAR)
        """
    )
    columns = {name: "BIGINT" if name in ("row", "line") else "VARCHAR" for name in _RowWithoutDay._fields}
    _insert(connection, "row_without_day", columns, without_day)
    connection.execute(
        f"""
        COPY (
            SELECT true AS of_day, place, coalesce(name, staged.file) AS source_file, staged.row AS source_row,
                line AS source_line, staged.article_id, title, body, url, reason, NULL::VARCHAR AS message
            FROM {staged_rows(staged.path)} AS staged
            JOIN row_check ON place = file_row_number AND NOT {NO_ARTICLE}
            LEFT JOIN row_line ON row_line.file = staged.file AND row_line.row = staged.row
            LEFT JOIN source_file ON source_file.file = staged.file
            UNION ALL
            SELECT false, NULL, file, row, line, NULL, NULL, body, NULL, reason, message FROM row_without_day
        ) TO {literal(str(rejected))} (FORMAT parquet, ROW_GROUP_SIZE 2048)
        """
    )


def _sentence(row: _RowWithoutDay) -> str:
    place = f"line {row.line}" if row.line else f"row {row.row}"
    file, message = shortened(row.file or "the source", MAX_NAME // 2), shortened((row.message or "").rstrip("."), 120)
    return f"The first is {place} of {file}: {message}."


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


def _count(connection: duckdb.DuckDBPyConnection, statement: str) -> int:
    row = connection.execute(statement).fetchone()
    return int(row[0]) if row else 0
