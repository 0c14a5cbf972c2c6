"""Folders and files for the user's eyes only: modes 0700 and 0600, from the moment in which they exist.

Standard library only. The rest of the project makes its folders with it, too.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path


def make_private_folder(folder: Path, *, holds: Iterable[str] = ()) -> None:
    """Make the folder, and those above it that are missing, for this user only (mode 0700).

    A folder that exists stays as it is, unless it is recognized as ours: then what others may do there is taken away.
    `holds` are the names, or patterns of names, of everything that we ever put there; see `_is_ours`.
    """
    missing = []
    lowest = folder
    while not lowest.exists():
        missing.append(lowest)
        lowest = lowest.parent
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    if not missing and _is_ours(folder, tuple(holds)):
        with contextlib.suppress(OSError):  # a file system without modes
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) & 0o700)


def _is_ours(folder: Path, holds: tuple[str, ...]) -> bool:
    """Whether the folder is this user's, is not shared on purpose, and holds our files and nothing else.

    So a home folder, `/tmp`, a team's folder, or that of a project is never taken for ours: it holds other things, or
    others may write there. (The user's own group may: some systems make each folder so.) An empty folder holds nothing
    that says whose it is.
    """
    if os.name == "nt" or not holds:
        return False
    details = folder.stat()
    if details.st_uid != os.geteuid() or details.st_mode & (stat.S_IWOTH | stat.S_ISVTX | stat.S_ISGID):
        return False
    if details.st_mode & stat.S_IWGRP and details.st_gid != os.getegid():
        return False
    names = [path.name for path in folder.iterdir()]
    return bool(names) and all(any(fnmatchcase(name, pattern) for pattern in holds) for name in names)


def write_private_file(path: Path, content: str) -> None:
    """The file with this content and mode 0600; it is there whole, or as it was before. One writer at a time."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # it may have another mode
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def read_private_file(path: Path) -> str | None:
    """The text of a file that is this user's, and that no other user may read; None where there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        details = os.fstat(file.fileno())
        others = stat.S_IRWXG | stat.S_IRWXO
        if not stat.S_ISREG(details.st_mode) or (
            os.name != "nt" and (details.st_uid != os.geteuid() or details.st_mode & others)
        ):
            return None
        return file.read().decode("ascii", errors="replace")
