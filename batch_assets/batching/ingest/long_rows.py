"""Finds rows of CSV files that DuckDB leaves out without a message: what follows a quote that is not closed, and rows
that are too long.

If DuckDB is to leave out broken rows, it says nothing of a row that is longer than its buffer: 32 MB, or 512 MB if a
row may have 32 MB; nor, if it reads a file in one piece, of a last row whose quotes are not closed.
"""

import re
from collections.abc import Sequence
from io import TextIOWrapper
from typing import BinaryIO

from batch_assets.batching.ingest.csv_records import ENCODING, MAX_ROW_BYTES, split_records
from batch_assets.batching.ingest.errors import MAX_NAME, SourceError, shortened
from batch_assets.batching.ingest.files import Format, SourceFile, open_file

CHUNK_BYTES = 1 << 22  # several of them are in any row that is too long for DuckDB's smallest buffer
BLANKS = 32  # before a quote, that are looked over
# An odd number of quotes before a delimiter or a line end: a value begins or ends here. Two are a quote in a text.
EDGE_OF_VALUE = re.compile(rb'(?<!")(?:"")*"[,;\t|\r\n]')


def has_long_rows(files: Sequence[SourceFile]) -> bool:
    """Whether a CSV file may have a row of over 4 MB, or cannot be looked at.

    A part of a file without a line end, or in quotes without the edge of a value, may be in a long row; only then, or
    if the last quote may open a value, the file is read row by row. Raises SourceError if a row has over 32 MB, or a
    quote that is not closed.
    """
    found = False
    for file in files:
        if file.format is not Format.CSV:
            continue
        stream = open_file(file.path)
        if stream is None:
            found = True
            continue
        with stream:
            may_be_long, may_be_open = _look_through(stream, file.delimiter.encode())
        found = found or may_be_long
        if may_be_long or may_be_open:
            _check_each_row(file)
    return found


def long_row_error(name: str, line: str) -> SourceError:
    """That the rows after a line cannot be told from its text."""
    return SourceError(
        f"{shortened(name, MAX_NAME)} could not be read, and the day was not changed: the row in line {line} opens a "
        "quote that is not closed, or has over 32 MB. Put each value with a quote, a comma or a line break into "
        'quotes, and double the quotes in it: "".'
    )


def _look_through(stream: BinaryIO, delimiter: bytes) -> tuple[bool, bool]:
    """Whether a row may be long, and whether the file may end within quotes."""
    has_quotes = lacks_edges = lacks_ends = False
    before, last_quote = b"", b""
    while chunk := stream.read(CHUNK_BYTES):
        has_quotes = has_quotes or b'"' in chunk
        with_before = before + chunk
        place = with_before.rfind(b'"')
        if place > 0 or (place == 0 and not before):
            last_quote = with_before[max(place - BLANKS, 0) : place + 2]
        before = with_before[-BLANKS - 1 :]
        if len(chunk) == CHUNK_BYTES:
            lacks_ends = lacks_ends or (b"\n" not in chunk and b"\r" not in chunk)
            lacks_edges = lacks_edges or EDGE_OF_VALUE.search(chunk) is None
    # after x" and the end of a value, no quotes are open: the quote closes a value, or is one in a value without
    # quotes; as is that after x and blanks
    closes = re.search(rb'[^ "\r\n%b] *"[\r\n%b]?\Z' % (2 * (re.escape(delimiter),)), last_quote)
    return lacks_ends or (has_quotes and lacks_edges), bool(last_quote and not closes)


def _check_each_row(file: SourceFile) -> None:
    stream = open_file(file.path)
    assert stream is not None  # it was opened before
    with stream, TextIOWrapper(stream, ENCODING, newline="\n") as lines:
        for record in split_records(lines, file.delimiter):
            if len(record.content) > MAX_ROW_BYTES or not record.is_closed:
                raise long_row_error(file.name, str(record.line))
