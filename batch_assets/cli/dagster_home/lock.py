"""One `dev` for each Dagster home: two daemons on one would both evaluate its sensors."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENDING_SECONDS = 20.0  # how long processes of a killed `dev` may take to end


class AlreadyRunningError(Exception):
    """Another process holds the lock."""


@contextmanager
def exclusive_lock(path: Path) -> Iterator[int]:
    """Hold the lock of this file; yields its descriptor, which children inherit to hold the lock as well.

    The lock is free when each process that inherited the descriptor has ended. If the process that took the lock has
    ended, and its children are still ending, this waits for them. Raises AlreadyRunningError, and OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + ENDING_SECONDS
        while not _try_to_lock(descriptor):
            if _holder_is_running(descriptor) or time.monotonic() > deadline:
                raise AlreadyRunningError
            time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_to_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder_is_running(descriptor: int) -> bool:
    holder = os.pread(descriptor, 20, 0)
    if not holder.isdigit():
        return True  # it has just taken the lock, and has not written its process id yet
    try:
        os.kill(int(holder), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
