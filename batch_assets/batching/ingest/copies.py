"""Copies of files in an encoding or with line ends that DuckDB cannot read. Line numbers do not change."""

import shutil
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO

BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def encoding_of(beginning: bytes) -> str:
    """The encoding that the byte-order mark of a text says; UTF-8 without one."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if beginning.startswith(mark):
            return encoding
    return "utf-8"


def copy_as_utf8(name: str, stream: BinaryIO | None, encoding: str, scratch: Path) -> Path:
    """A copy in UTF-8 without a byte-order mark. Raises OSError, UnicodeError."""
    if stream is None:
        raise OSError(f"the file is in {encoding}. Decompress it, or store it as UTF-8 without a byte-order mark.")
    copy = _new_file(name, scratch)
    with (
        stream,
        TextIOWrapper(stream, encoding, newline="") as text,
        copy.open("w", newline="", encoding="utf-8") as out,
    ):
        shutil.copyfileobj(text, out)
    return copy


def copy_with_one_line_end(name: str, stream: BinaryIO, scratch: Path) -> Path:
    """A copy of a CSV file that ends each row with a line feed. Values do not change, line ends in quotes neither.

    DuckDB's strict mode refuses a file with several line ends; its other mode changes values with a wrong quote. A row
    that is no CSV is copied as it is. Raises OSError, UnicodeError.
    """
    copy = _new_file(name, scratch)
    with (
        stream,
        TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="") as text,
        copy.open("w", newline="", encoding="utf-8", errors="surrogateescape") as out,
    ):
        for record in _records(text):
            out.write(record)
    return copy


def _records(lines: TextIOWrapper) -> Iterator[str]:
    """The rows of a CSV file, each with a line feed as its end."""
    parts: list[str] = []
    quotes = 0
    for line in lines:
        parts.append(line)
        quotes += line.count('"')
        if quotes % 2 == 0:
            yield "".join(parts).rstrip("\r\n") + "\n"
            parts.clear()
    yield "".join(parts)


def _new_file(name: str, scratch: Path) -> Path:
    number = len(list(scratch.glob("copy_*")))
    kind = ".csv" if ".csv" in name.lower() or ".tsv" in name.lower() else ".jsonl"
    return scratch / f"copy_{number}{kind}"
