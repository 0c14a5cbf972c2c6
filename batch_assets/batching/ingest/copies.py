"""Copies of files in an encoding or with line ends that DuckDB cannot read. Line numbers do not change."""

import re
import shutil
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO

from batch_assets.batching.ingest.csv_records import ENCODING, UTF8_MARK, split_records

BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
# A file of articles begins with ASCII: a header, or a bracket.
WITHOUT_MARK = {
    re.compile(rb"[^\x00]\x00\x00\x00[^\x00]\x00\x00\x00", re.DOTALL): "utf-32-le",
    re.compile(rb"\x00\x00\x00[^\x00]\x00\x00\x00[^\x00]", re.DOTALL): "utf-32-be",
    re.compile(rb"[^\x00]\x00[^\x00]\x00", re.DOTALL): "utf-16-le",
    re.compile(rb"\x00[^\x00]\x00[^\x00]", re.DOTALL): "utf-16-be",
}


def encoding_of(beginning: bytes) -> str:
    """The encoding of a text, by its byte-order mark or by where its first characters have zeros; else UTF-8."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if beginning.startswith(mark):
            return encoding
    return next((encoding for pattern, encoding in WITHOUT_MARK.items() if pattern.match(beginning)), "utf-8")


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


def copy_with_one_line_end(name: str, stream: BinaryIO, delimiter: str, scratch: Path) -> Path:
    """A copy of a CSV file that ends each row with a line feed. Values do not change, line ends in quotes neither.

    DuckDB's strict mode refuses a file with several line ends; its other mode changes values with a wrong quote. A row
    that is no CSV is copied as it is. Raises OSError.
    """
    copy = _new_file(name, scratch)
    with (
        stream,
        TextIOWrapper(stream, ENCODING, newline="") as lines,
        copy.open("w", newline="", encoding=ENCODING) as out,
    ):
        for record in split_records(lines, delimiter):
            # without a byte-order mark, after which DuckDB does not see that a name begins with a quote
            content = record.content.removeprefix(UTF8_MARK) if record.start == 0 else record.content
            out.write(content.rstrip("\r\n") + "\n")
    return copy


def _new_file(name: str, scratch: Path) -> Path:
    number = len(list(scratch.glob("copy_*")))
    kind = ".csv" if ".csv" in name.lower() or ".tsv" in name.lower() else ".jsonl"
    return scratch / f"copy_{number}{kind}"
