"""Rows that a reader left out: which lines of which files they are, and what is wrong with them."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from typing import BinaryIO, NamedTuple

import duckdb

from batch_assets.batching.ingest.csv_records import ENCODING, split_records
from batch_assets.batching.ingest.errors import shortened
from batch_assets.batching.ingest.files import Format, SourceFile, open_file
from batch_assets.batching.ingest.long_rows import long_row_error

MAX_RECORDED = 1_000  # malformed rows of a source that are recorded; all are counted
MAX_TEXT_BYTES = 100_000  # of one of them


class BrokenRow(NamedTuple):
    """A row of a CSV file that DuckDB did not read.

    file: its name. path: what DuckDB read. offset: of one of the row's bytes in the decompressed file.
    """

    file: str
    path: str
    record: int
    offset: int
    message: str


@dataclass(frozen=True)
class BrokenRows:
    """The rows that DuckDB did not read: their number, the first of them, and whether a quote is not closed.

    rows: by file and place.
    """

    number: int = 0
    rows: Sequence[BrokenRow] = field(default_factory=tuple)
    structure_is_lost: bool = False

    def of_file(self, file: SourceFile) -> tuple[Sequence[BrokenRow], bool]:
        """The broken rows of a file that are known, and whether these are all of it."""
        rows = [row for row in self.rows if row.path == file.path]
        return rows, self.number == len(self.rows) or file.path < self.rows[-1].path


class Line(NamedTuple):
    """Where a row is in its file: the number of its first line, from 1, and its bytes."""

    number: int
    content: bytes


def read_rejects(connection: duckdb.DuckDBPyConnection, files: Sequence[SourceFile]) -> BrokenRows:
    """The rows that DuckDB's CSV reader has left out since the last call."""
    if not any(file.format is Format.CSV for file in files):
        return BrokenRows()
    # one row may have several errors
    found = connection.execute(
        f"""
        SELECT file_path, min(line), line_byte_position, min(error_type),
            -- an error for each value too many, and for each that is missing
            CASE WHEN bool_or(error_type = 'TOO MANY COLUMNS') THEN max_by(error_message, column_idx)
                ELSE min_by(error_message, column_idx) END,
            count(*) OVER (),
            -- errors after which the rows that follow may be anything
            bool_or(error_type = 'LINE SIZE OVER MAXIMUM' OR (error_type = 'UNQUOTED VALUE' AND (
                csv_line IS NULL OR csv_line = '' OR contains(rtrim(csv_line, chr(10) || chr(13)), chr(10))
            )))
        FROM reject_errors JOIN reject_scans USING (scan_id, file_id)
        GROUP BY file_path, line_byte_position ORDER BY 7 DESC, 1, 3 LIMIT {MAX_RECORDED}
        """
    ).fetchall()
    connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
    names = {file.path: file.name for file in files}
    rows = [
        BrokenRow(names.get(path, path), path, record, offset, _message(kind, message))
        for path, record, offset, kind, message, *_ in found
    ]
    return BrokenRows(found[0][5] if found else 0, rows, bool(found and found[0][6]))


def check_structure(broken: BrokenRows) -> None:
    """Raise SourceError if a quote of a CSV file is not closed: the rows after it cannot be told from its text."""
    if broken.structure_is_lost:
        row = broken.rows[0]
        raise long_row_error(row.file, f"{row.record} (line breaks in quotes not counted)")


def find_lines(
    file: SourceFile,
    rows: Collection[int],
    broken: Sequence[BrokenRow] = (),
    *,
    with_content: Collection[int] = (),
    all_broken: bool = True,
) -> tuple[dict[int, Line], dict[int, Line]]:
    """The lines of these rows of a file, by their number; and those of its broken rows, by their offset.

    with_content: the rows whose bytes are wanted, too.
    all_broken: whether `broken` has all broken rows of the file, and not only the first ones.
    Empty where rows are not lines: Parquet, a JSON array, a file that only DuckDB can decompress.
    """
    lines: dict[int, Line] = {}
    lines_of_broken: dict[int, Line] = {}
    stream = open_file(file.path) if file.format in (Format.CSV, Format.JSON_LINES) else None
    if stream is None:
        return {}, {}
    offsets = sorted(row.offset for row in broken)
    last, row, next_broken = max(rows, default=0), 0, 0
    with stream:
        for number, start, content in _csv_records(stream, file) if file.format is Format.CSV else _json_lines(stream):
            if next_broken < len(offsets) and start <= offsets[next_broken] < start + len(content):
                lines_of_broken[offsets[next_broken]] = Line(number, content[:MAX_TEXT_BYTES])
                next_broken += 1
                continue
            if next_broken == len(offsets) and not all_broken:
                break  # some of the rows from here on are broken, and it is not known which
            row += 1
            if row in rows:
                lines[row] = Line(number, content[:MAX_TEXT_BYTES] if row in with_content else b"")
            if row >= last and next_broken >= len(offsets):
                break
    return lines, lines_of_broken


def what_is_wrong(content: bytes) -> str:
    """Why a line of a JSON file is malformed."""
    try:
        value = json.loads(content)
    except UnicodeDecodeError:
        return "the line is not UTF-8"
    except json.JSONDecodeError as error:
        return f"the line is no JSON: {error.msg} in column {error.colno}"
    except (ValueError, RecursionError):
        return "the line is no JSON that can be read"
    return "the line has half of a surrogate pair" if isinstance(value, dict) else "the line is no JSON object"


def _csv_records(stream: BinaryIO, file: SourceFile) -> Iterator[tuple[int, int, bytes]]:
    """The rows of a CSV file: the number of the first line, the offset, and the bytes. Without the header."""
    header_passed = False
    with TextIOWrapper(stream, ENCODING, newline="\n") as lines:
        for line, start, content, _ in split_records(lines, file.delimiter):
            # DuckDB passes over empty lines, except in a file with one column
            if header_passed and (content.strip("\r\n") or len(file.header) == 1):
                yield line, start, content.encode(ENCODING)
            header_passed = header_passed or line > file.lines_before


def _json_lines(stream: Iterable[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """The lines of a JSON file that are not empty, in the same way."""
    start = 0
    for number, line in enumerate(stream, start=1):
        if line.strip():
            yield number, start, line
        start += len(line)


def _message(kind: str, message: str) -> str:
    if kind in ("TOO MANY COLUMNS", "MISSING COLUMNS"):
        numbers = [word for word in message.split() if word.isdigit()]
        values = f"it has {numbers[1]} values, and the header {numbers[0]}" if len(numbers) == 2 else "its values"
        return f"{values}: quote values with the delimiter in them"
    if kind == "INVALID ENCODING":
        return "it is not UTF-8: convert the file"
    if kind == "UNQUOTED VALUE":
        return 'text follows a quoted value: double the quotes in it ("")'
    return shortened(f"{kind.lower()}: {message}", 120)
