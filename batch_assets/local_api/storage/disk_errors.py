"""What is said when the disk does not take what it is given."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from batch_assets.local_api.wire.errors import ApiError, server_error

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# SQLite says FULL for a full disk, and IOERR for a quota or a limit on the size of files.
_SQLITE_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def storage_error(error: Exception) -> ApiError:
    """The HTTP answer to a request that an OSError or sqlite3.Error ended: 507 for want of room, else 500.

    The official SDK tries again after either.
    """
    if not is_full(error):
        return server_error()
    message = (
        f"The local Batch API could not store this: {_reason(error)}. What was stored before is unharmed, "
        "and batches go on when there is room again. Free some space on its disk, then try again."
    )
    return ApiError(507, message, kind="server_error", code="insufficient_storage")


def is_full(error: Exception) -> bool:
    if isinstance(error, sqlite3.Error):
        # The lower byte is the kind of error, the rest says more about it.
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_NO_ROOM
    return isinstance(error, OSError) and error.errno in _NO_ROOM


@contextlib.contextmanager
def writable(directory: Path) -> Iterator[None]:
    """Turns what goes wrong with the directory inside of the block into an OSError that is a sentence."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise OSError(
            f"The local Batch API can't keep its files in {directory}: {_reason(error)}. "
            "Free some space, give it the right to write there, or choose another directory."
        ) from error


def try_to_write(directory: Path) -> None:
    """Raises OSError where no file can be written."""
    path = directory / f"probe-{os.getpid()}"
    try:
        path.write_bytes(b"\0" * 4096)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
