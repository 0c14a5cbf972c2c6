"""Finds the files of a path or glob. A folder that cannot be opened is an error: DuckDB's own glob leaves it out."""

import errno
import os
import re
from collections.abc import Iterator
from fnmatch import translate
from pathlib import Path

from batch_assets.batching.ingest.errors import MAX_NAME, SourceError, no_file, shortened

MAGIC = re.compile(r"[*?\[]")


def is_remote(location: str) -> bool:
    """Whether a path is a URL, such as https:// or s3://."""
    return "://" in location


def find_files(location: str) -> list[str]:
    """The files of a local path or glob (`*`, `?`, `[…]`, `**` for folders at any depth), sorted. Raises SourceError.

    A path that exists is itself, whatever characters its name has. A wildcard does not find hidden files.
    """
    try:
        if _exists(location):
            return [_file(location)]
        parts = Path(location).parts
        plain = next((number for number, part in enumerate(parts) if MAGIC.search(part)), len(parts))
        found = sorted(set(_expand(Path(*parts[:plain]), parts[plain:]))) if plain < len(parts) else []
    except OSError as error:
        raise SourceError(
            f"{shortened(str(error.filename or location), MAX_NAME)} could not be opened ({error.strerror}), so the "
            "articles in it are not known, and the day was not changed. Allow this user to read it, or name a narrower "
            "path."
        ) from None
    if not found:
        raise SourceError(no_file(location))
    return found


def escaped(path: str) -> str:
    """The path of one file, for a function of DuckDB that takes a glob."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _exists(path: str | Path) -> bool:
    """Raises OSError if it cannot be known; `Path.exists` and, in newer versions of Python, `Path.is_dir` do not."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise
    return True


def _file(location: str) -> str:
    if not Path(location).is_dir():
        return location
    raise SourceError(
        f"BATCH_ASSETS_SOURCE is the folder {shortened(location, MAX_NAME)}. Name the files in it, such as "
        f"{shortened(str(Path(location) / '*.jsonl'), MAX_NAME)}."
    )


def _expand(folder: Path, parts: tuple[str, ...]) -> Iterator[str]:
    part, *rest = parts
    if part == "**":
        yield from _expand(folder, tuple(rest) or ("*",))
        for entry in _entries(folder):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _expand(folder / entry.name, parts)
        return
    if not MAGIC.search(part) and rest:  # a folder: it need not be listed
        if _exists(folder / part) and (folder / part).is_dir():
            yield from _expand(folder / part, tuple(rest))
        return
    matches = re.compile(translate(part)).match
    for entry in _entries(folder):
        is_hidden = entry.name.startswith(".") and not part.startswith(".")
        if is_hidden or not (entry.name == part or matches(entry.name)):
            continue
        if rest and entry.is_dir():
            yield from _expand(folder / entry.name, tuple(rest))
        elif not rest and not entry.is_dir():
            yield str(folder / entry.name)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    if not _exists(folder) or not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return list(entries)
