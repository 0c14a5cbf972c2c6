"""Folders and files that no other user can read: modes 0700 and 0600, from their creation.

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
    """Make the folder, and missing folders above it, for this user only (mode 0700).

    The mode of an existing folder stays, unless the folder is recognized as ours: then other users lose their rights.
    holds: names, or patterns of names, of all files that we ever put there; see `_is_ours`.
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
    """Whether the folder is this user's, is not shared on purpose, and holds our files and no others.

    So a home folder, `/tmp`, a team's folder or a project's folder is never recognized as ours: it holds other files,
    or other users may write there. (The user's own group may: some systems make all folders so.) An empty folder is
    not recognized either.
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
    """Write a file with mode 0600, all of it or nothing. For one writer at a time."""
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
    """The text of a file of this user that no other user may read; None for any other file, or none."""
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
