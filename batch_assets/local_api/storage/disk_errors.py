"""Error messages for a disk that is full, or a folder that is not writable."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from batch_assets.local_api.wire.errors import ApiError, server_error

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# SQLite's code is FULL for a full disk, and IOERR for a quota or a limit on the size of files.
_SQLITE_DISK_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def storage_error(error: Exception) -> ApiError:
    """The error of a request that ended with an OSError or sqlite3.Error: 507 for a full disk, otherwise 500.

    The official SDK repeats the request after either.
    """
    if not is_full(error):
        return server_error()
    message = (
        f"The local Batch API could not store this: {_reason(error)}. Earlier files are not damaged, "
        "and batches continue when the disk has space again. Free some space on its disk, then try again."
    )
    return ApiError(507, message, kind="server_error", code="insufficient_storage")


def is_full(error: Exception) -> bool:
    if isinstance(error, sqlite3.Error):
        # The lower byte is the kind of error; the other bytes are details.
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_DISK_FULL
    return isinstance(error, OSError) and error.errno in _DISK_FULL


@contextlib.contextmanager
def writable(directory: Path) -> Iterator[None]:
    """Turns errors of the directory within the block into an OSError whose message is for the user."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise OSError(
            f"The local Batch API can't keep its files in {directory}: {_reason(error)}. "
            "Free some space, give it the right to write there, or choose another directory."
        ) from error


def check_writable(directory: Path) -> None:
    """Raises OSError when no file can be written."""
    path = directory / f"probe-{os.getpid()}"
    try:
        path.write_bytes(b"\0" * 4096)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
