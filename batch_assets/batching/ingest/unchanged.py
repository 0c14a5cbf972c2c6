"""Whether the files of a source are still those that were read. Rows may be appended: they count the next time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from batch_assets.batching.ingest.errors import MAX_NAME, SourceError, shortened
from batch_assets.batching.ingest.globbing import is_remote

COMPARED_BYTES = 4096  # before the end of a file that has grown since


class State(NamedTuple):
    """Which file it is, and its content as far as one look can tell."""

    inode: int
    size: int
    changed: int
    end: bytes


def states_of(names: Sequence[str]) -> Mapping[str, State]:
    """The states of the local ones of these files. Raises OSError."""
    return {name: _state(name) for name in names if not is_remote(name)}


def check_unchanged(states: Mapping[str, State]) -> None:
    """Raise SourceError if a file was replaced, changed or deleted since; OSError if it cannot be opened."""
    for name, before in states.items():
        if not Path(name).exists():
            raise SourceError(_sentence(name, "deleted"))
        found = Path(name).stat()
        if before[:3] == (found.st_ino, found.st_size, found.st_mtime_ns):
            continue
        is_longer = found.st_ino == before.inode and found.st_size > before.size
        if not is_longer or _state(name, size=before.size).end != before.end:
            raise SourceError(_sentence(name, "changed"))


def _state(name: str, *, size: int | None = None) -> State:
    """The state of a file; with size, as if it ended there."""
    with Path(name).open("rb") as file:
        found = Path(name).stat()
        end = found.st_size if size is None else size
        file.seek(max(end - COMPARED_BYTES, 0))
        return State(found.st_ino, end, found.st_mtime_ns, file.read(min(end, COMPARED_BYTES)))


def _sentence(name: str, what: str) -> str:
    return (
        f"{shortened(name, MAX_NAME)} was {what} while it was read, and the day was not changed. Materialize the day "
        "again when the file is complete. A program that writes files of a source should write each under another name "
        "first, and then rename it."
    )
