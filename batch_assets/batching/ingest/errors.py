"""Errors of a source as sentences: what could not be read, and what the user can do. Never the text of an article."""

import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import duckdb

from batch_assets.batching.safety.outside_text import as_message

MAX_DETAIL = 240  # characters of another program's message: the whole error stays below about 600
MAX_NAME = 160
MAX_NAMES = 12  # of columns
EXTENSION = re.compile(r"extension:? [\"'](\w+)", re.IGNORECASE)


class SourceError(Exception):
    """The source cannot be read as articles; the message says what was found and what to do."""


@contextmanager
def errors_of(location: str, *, is_query: bool) -> Iterator[None]:
    """Errors of DuckDB and of files, as SourceErrors. is_query: the location itself is no file with rows.

    Without their causes, which Dagster would store: DuckDB's own message contains the whole URL.
    """
    try:
        yield
    except duckdb.Error as error:
        raise SourceError(explain(error, location, is_query=is_query)) from None
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        raise unreadable(str(getattr(error, "filename", None) or location), error) from None


def unreadable(name: str, error: Exception) -> SourceError:
    """That a file cannot be opened, decompressed or decoded."""
    reason = getattr(error, "strerror", None) or str(error)
    return SourceError(
        f"{shortened(name, MAX_NAME)} could not be read, and the day was not changed: {shortened(str(reason))}"
    )


def shortened(text: str, length: int = MAX_DETAIL) -> str:
    """The text for a message, cut in its middle to the length: the beginning and the end of a path say the most."""
    text = as_message(text)
    kept = (length - 3) // 2
    return text if len(text) <= length else f"{text[:kept]} … {text[-kept:]}"


def names_of(columns: Iterable[str]) -> str:
    """The names of columns for a message; of many, the first ones."""
    found = list(columns)
    shown: list[str] = []
    for name in found[:MAX_NAMES]:
        if sum(map(len, shown)) + len(name) > MAX_DETAIL:
            break
        shown.append(shortened(name, 40))
    more = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
    return (", ".join(shown) or "none") + more


def explain(error: duckdb.Error, location: str, *, is_query: bool = False) -> str:
    """The error of DuckDB about this location as sentences. is_query: the location itself is no file with rows."""
    message = str(error)
    name = shortened(as_message(location), MAX_NAME)
    missing = EXTENSION.search(message)
    if missing and ("download" in message or "not found" in message or "install" in message.lower()):
        extension = missing[1]
        return (
            f"{name} needs DuckDB's extension {extension}, which is not installed and could not be downloaded. On a "
            f"machine with access to the internet, run `INSTALL {extension}` in DuckDB {duckdb.__version__}, and copy "
            "the folder ~/.duckdb/extensions to this machine; or download the data, and name the files."
        )
    if "No files found" in message and not is_query:
        return no_file(location)
    if "maximum_object_size" in message or "Maximum line size" in message:
        named = re.search(r'file "([^"\n]+)"', message)  # one of those of a glob
        file = shortened(named[1], MAX_NAME) if named else name
        return f"{file} has a row of over 32 MB, which cannot be read, and the day was not changed. Split the text."
    remedy = (
        " Repair the file, or write one object in each line (.jsonl): then only lines that are no JSON are set aside."
        if "Malformed JSON" in message
        else ""
    )
    # the first sentence: DuckDB then prints the options of its reader, and the text of the line
    detail = as_message(re.split(r"\n\s*\n|\n *Possible|\nLINE \d", message)[0], location)
    return f"{name} could not be read, and the day was not changed. DuckDB says: {shortened(detail)}{remedy}"


def no_file(location: str) -> str:
    """That a path or a glob leads to no file."""
    hint = "" if "://" in location else " A relative path begins in the folder in which Dagster was started."
    return f"BATCH_ASSETS_SOURCE leads to {shortened(location, MAX_NAME)}, where there is no file.{hint}"


def no_column(place: str, ours: str, name: str, columns: Iterable[str], *, hint: str = "") -> SourceError:
    """That rows lack the column for our `body` or `published_at`, or a further one. name: the source's name."""
    shown = shortened(ours, 40)
    meanings = {"body": "must have an article's text", "published_at": "says to which day a row belongs"}
    meaning = meanings.get(ours, "a task uses" if ours == name else f"a task uses as {shown}")
    remedy = {
        "body": "Name the one with the text: BATCH_ASSETS_COLUMNS='body=…'. id, title, url and published_at are "
        "optional.",
        "published_at": "Name the one with the time: BATCH_ASSETS_COLUMNS='published_at=…'. Or put {partition} into "
        "BATCH_ASSETS_SOURCE where the path has the day.",
    }
    of_task = (
        f"Name the one that is meant: BATCH_ASSETS_COLUMNS='{shown}=…'. Or remove it from the columns of the task."
    )
    return SourceError(
        f"{shortened(place, MAX_NAME)} has no column `{shortened(name, 40)}`, which {meaning}. Its columns are: "
        f"{names_of(columns)}. {hint or remedy.get(ours, of_task)}"
    )
