"""Finds rows of CSV files that are too long for DuckDB, which leaves them out without a message.

If DuckDB is to leave out broken rows, it says nothing of a row that is longer than its buffer: 32 MB, or 512 MB if a
row may have 32 MB. A quote that is not closed makes such a row of all that follows.
"""

import re
from collections.abc import Sequence
from io import TextIOWrapper
from typing import BinaryIO

from batch_assets.batching.ingest.csv_records import ENCODING, MAX_ROW_BYTES, split_records
from batch_assets.batching.ingest.errors import MAX_NAME, SourceError, shortened
from batch_assets.batching.ingest.files import Format, SourceFile, open_file

CHUNK_BYTES = 1 << 22  # several of them are in any row that is too long for DuckDB's smallest buffer
# An odd number of quotes before a delimiter or a line end: a value begins or ends here. Two are a quote in a text.
EDGE_OF_VALUE = re.compile(rb'(?<!")(?:"")*"[,;\t|\r\n]')


def has_long_rows(files: Sequence[SourceFile]) -> bool:
    """Whether a CSV file may have a row of over 4 MB, or cannot be looked at. Raises SourceError if one has over 32 MB.

    A part of a file without a line end, or in quotes without the edge of a value, may be in a long row; only then the
    file is read row by row.
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
            may_be_long = _may_have_long_rows(stream)
        if may_be_long:
            found = True
            _check_each_row(file)
    return found


def long_row_error(name: str, line: str) -> SourceError:
    """That the rows after a line cannot be told from its text."""
    return SourceError(
        f"{shortened(name, MAX_NAME)} could not be read, and the day was not changed: the row in line {line} opens a "
        "quote that is not closed, or has over 32 MB. Put each value with a quote, a comma or a line break into "
        'quotes, and double the quotes in it: "".'
    )


def _may_have_long_rows(stream: BinaryIO) -> bool:
    has_quotes = lacks_edges = False
    while chunk := stream.read(CHUNK_BYTES):
        has_quotes = has_quotes or b'"' in chunk
        if len(chunk) < CHUNK_BYTES:
            break
        if b"\n" not in chunk and b"\r" not in chunk:
            return True
        lacks_edges = lacks_edges or EDGE_OF_VALUE.search(chunk) is None
    return has_quotes and lacks_edges


def _check_each_row(file: SourceFile) -> None:
    stream = open_file(file.path)
    assert stream is not None  # it was opened before
    with stream, TextIOWrapper(stream, ENCODING, newline="\n") as lines:
        for record in split_records(lines, file.delimiter):
            if len(record.content) > MAX_ROW_BYTES:
                raise long_row_error(file.name, str(record.line))
