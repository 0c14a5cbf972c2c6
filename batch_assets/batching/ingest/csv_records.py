"""The rows of a CSV file as its lines: a quoted value may have line breaks."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

UTF8_MARK = "\xef\xbb\xbf"  # in the encoding below
ENCODING = "latin-1"  # each byte is a character, so places are offsets, and any bytes can be read
MAX_ROW_BYTES = 33_554_432  # of rows that are read at all: 32 MB
FIRST_QUOTE = re.compile(' *"')
REST_OF_VALUE = re.compile(r'[^"]*+(?:""[^"]*+)*+"')  # of a quoted one, with the quote that closes it


class Record(NamedTuple):
    """A row: the number of its first line, from 1, the offset of its first byte, and its text with the line end.

    is_closed: false for the last row of a file that ends within quotes.
    """

    line: int
    start: int
    content: str
    is_closed: bool = True


def split_records(lines: Iterable[str], delimiter: str) -> Iterator[Record]:
    """The rows of the lines. As for DuckDB, a quote opens a value only at its beginning or after blanks: 5" is text."""
    opening = re.compile(re.escape(delimiter) + ' *"')
    parts: list[str] = []
    start = first = 0
    in_quotes = False
    for number, line in enumerate(lines, start=1):
        if not parts:
            first = number
        in_quotes = _ends_in_quotes(line, opening, in_quotes=in_quotes)
        parts.append(line)
        if not in_quotes:
            content = "".join(parts)
            yield Record(first, start, content)
            start += len(content)
            parts.clear()
    if parts:
        yield Record(first, start, "".join(parts), is_closed=False)


def _ends_in_quotes(line: str, opening: re.Pattern[str], *, in_quotes: bool) -> bool:
    """Whether a quoted value continues after the line. in_quotes: whether one continues in it."""
    if '"' not in line:
        return in_quotes
    place = len(UTF8_MARK) if line.startswith(UTF8_MARK) and not in_quotes else 0
    found = None if in_quotes else FIRST_QUOTE.match(line, place)
    if found is not None:
        place, in_quotes = found.end(), True
    while True:
        if in_quotes:
            found = REST_OF_VALUE.match(line, place)
        else:  # "a" "b" is one value
            found = FIRST_QUOTE.match(line, place) if place else None
            found = found or opening.search(line, place)
        if found is None:
            return in_quotes
        place, in_quotes = found.end(), not in_quotes
