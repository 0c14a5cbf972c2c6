"""What a file of articles is: its format, and for CSV its delimiter and its header, from its first bytes.

DuckDB's detection is not used for CSV and JSON: it samples the beginning of a file, takes `#` for a comment, and drops
JSON keys that come later.
"""

import csv
import gzip
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import BinaryIO

import duckdb

from batch_assets.batching.ingest.copies import copy_as_utf8, copy_with_one_line_end, encoding_of
from batch_assets.batching.ingest.csv_records import split_records
from batch_assets.batching.ingest.errors import MAX_NAME, SourceError, shortened, unreadable
from batch_assets.batching.ingest.globbing import MAGIC, escaped, find_files, is_remote

PEEKED_BYTES = 65_536
BYTES_AT_ONCE = 1 << 20
DELIMITERS = (",", ";", "\t", "|")
COMPRESSED = (".gz", ".zst")


class Format(Enum):
    """How the rows are in a file."""

    CSV = "csv"
    JSON_LINES = "newline_delimited"
    JSON_ARRAY = "array"
    JSON_VALUES = "unstructured"  # objects one after the other, each on several lines
    PARQUET = "parquet"


FORMATS = {
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".jsonl": Format.JSON_LINES,
    ".ndjson": Format.JSON_LINES,
    ".json": Format.JSON_VALUES,
    ".parquet": Format.PARQUET,
    ".parq": Format.PARQUET,
    ".pq": Format.PARQUET,
}


@dataclass(frozen=True)
class SourceFile:
    """A file with rows.

    name: its path or URL. path: what DuckDB reads, the same or a copy in UTF-8.
    delimiter, header, lines_before: of a CSV file; the lines before its header are empty, or `sep=;`.
    """

    name: str
    path: str
    format: Format
    delimiter: str = ","
    header: tuple[str, ...] = ()
    lines_before: int = 0

    @property
    def layout(self) -> "SourceFile":
        """What it shares with other files that DuckDB can read in one call."""
        return replace(self, name="", path="")


def list_files(
    connection: duckdb.DuckDBPyConnection, location: str, *, body: str, scratch: Path
) -> tuple[list[str], list[SourceFile]]:
    """The names of the files to which the path, glob or URL leads, and those that are not empty. Raises SourceError.

    body: the source's name of the column with the text, by which the delimiter of a CSV file is found.
    scratch: the folder for copies of files in UTF-16, or with a byte-order mark that DuckDB cannot read.
    """
    if is_remote(location):
        has_wildcard = MAGIC.search(location.split("?")[0]) and not location.startswith("http")
        listed = connection.execute("SELECT file FROM glob(?) ORDER BY file", [location]) if has_wildcard else None
        names = [name for (name,) in listed.fetchall()] if listed else [location]
    else:
        names = find_files(location)
    found = [_look_at(connection, name, body, scratch) for name in names]
    return names, [file for file in found if file is not None]


def open_file(path: str) -> BinaryIO | None:
    """The bytes of a local file, decompressed; None where only DuckDB can read it. Raises OSError."""
    if is_remote(path) or path.lower().endswith(".zst"):
        return None
    if path.lower().endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value] # a BinaryIO in all but name
    return Path(path).open("rb")


def with_one_line_end(file: SourceFile, scratch: Path) -> SourceFile:
    """The file, or of a CSV file a copy in which all rows end with a line feed. Raises SourceError."""
    stream = open_file(file.path) if file.format is Format.CSV else None
    if stream is None:
        return file
    return replace(file, path=str(copy_with_one_line_end(file.name, stream, file.delimiter, scratch)))


def _look_at(connection: duckdb.DuckDBPyConnection, name: str, body: str, scratch: Path) -> SourceFile | None:
    """The file; None if it is empty."""
    file = SourceFile(name, name, format_of(name))
    try:
        if file.format is Format.PARQUET:
            return None if not is_remote(name) and Path(name).stat().st_size == 0 else file
        _check_compressed(name)
        beginning = _beginning(connection, name)
        encoding = encoding_of(beginning)
        if encoding != "utf-8" and (encoding != "utf-8-sig" or file.format is not Format.CSV):
            file = replace(file, path=str(copy_as_utf8(name, open_file(name), encoding, scratch)))
            beginning = _beginning(connection, file.path)
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        raise unreadable(name, error) from None
    text = beginning.decode("utf-8-sig", "replace")
    if not text.strip("\x00 \t\r\n\ufeff"):
        return None
    if file.format is Format.CSV:
        file = _csv(file, text, body)
        return with_one_line_end(file, scratch) if _has_odd_lines(file, text) else file
    return replace(file, format=_json_format(text, file.format))


def format_of(name: str) -> Format:
    """The format, by the ending of the name. Raises SourceError."""
    ending = Path(name.lower().split("?")[0] if is_remote(name) else name.lower())
    if ending.suffix in COMPRESSED:
        ending = ending.with_suffix("")
    if ending.suffix in FORMATS:
        return FORMATS[ending.suffix]
    raise SourceError(
        f"BATCH_ASSETS_SOURCE is {shortened(name, MAX_NAME)}, which is none of the kinds that can be read: it must end "
        "in .jsonl, .ndjson, .json, .csv, .tsv or .parquet, or in one of these with .gz or .zst; or be a query, a .sql "
        "file or table:NAME."
    )


def _check_compressed(name: str) -> None:
    """Raise an error if the file's checksum is not that of its content, which DuckDB does not compare."""
    stream = open_file(name) if name.lower().endswith(".gz") else None
    if stream is not None and Path(name).stat().st_size:
        with stream:
            while stream.read(BYTES_AT_ONCE):
                pass


def _beginning(connection: duckdb.DuckDBPyConnection, path: str) -> bytes:
    """The first bytes of a file; of one that only DuckDB can decompress or download, its first lines."""
    stream = open_file(path)
    if stream is not None:
        with stream:
            return stream.read(PEEKED_BYTES)
    line_by_line = "delim = chr(1), quote = '', escape = '', header = false, auto_detect = false, comment = ''"
    with suppress(duckdb.InvalidInputException):  # a line that is too long, or no UTF-8: the first bytes are no CSV
        lines = connection.execute(
            f"FROM read_csv(?, {line_by_line}, columns = {{'line': 'VARCHAR'}}, strict_mode = false, "
            "ignore_errors = true) LIMIT 20",
            [escaped(path)],
        ).fetchall()
        return "".join(f"{line or ''}\n" for (line,) in lines).encode()
    return b"{"


def _json_format(text: str, by_name: Format) -> Format:
    first = text.lstrip("\x00 \t\r\n")
    line, _, others = first.partition("\n")
    line = line.rstrip()
    if first.startswith("["):
        # of a file of lines, one line may be a list: it is no article, but the others may be
        is_line = by_name is Format.JSON_LINES and line.endswith("]") and others.strip()
        return Format.JSON_LINES if is_line else Format.JSON_ARRAY
    # a JSON file whose first line is a part of an object
    is_one_object = line.endswith("}") or len(line) + 1 >= len(first)
    return by_name if by_name is Format.JSON_LINES or not is_one_object else Format.JSON_LINES


def _csv(file: SourceFile, text: str, body: str) -> SourceFile:
    """The file with its delimiter and header: the delimiter with which the header has the column of the text."""
    lines = list(StringIO(text, newline=""))  # not splitlines(), for which a form feed ends a line
    before = 0
    while before < len(lines) and (not lines[before].strip() or lines[before].lower().startswith("sep=")):
        before += 1
    headers = [(delimiter, _first_record(lines[before:], delimiter)) for delimiter in DELIMITERS]
    delimiter, header = max(headers, key=lambda found: (body.lower() in map(str.lower, found[1]), len(found[1])))
    return replace(file, delimiter=delimiter, header=header, lines_before=before)


def _has_odd_lines(file: SourceFile, text: str) -> bool:
    """Whether DuckDB could lose rows of a CSV file: it reads nothing if the lines up to the end of the header end in
    different ways. Of a file with carriage returns only, it does not know the lines.
    """
    records = split_records(StringIO(text, newline=""), file.delimiter)
    header = next((record.content for record in records if record.line > file.lines_before), "")
    names = header.rstrip("\r\n")
    ends_with_return = header[len(names) :] == "\r"
    return bool(file.header) and (file.lines_before > 0 or ends_with_return or bool(re.search(r"[\r\n]", names)))


def _first_record(lines: Sequence[str], delimiter: str) -> tuple[str, ...]:
    try:
        return tuple(name.strip() for name in next(csv.reader(lines, delimiter=delimiter), []))
    except csv.Error:  # a NUL, or a value of more than 131,072 characters: no header
        return ()
