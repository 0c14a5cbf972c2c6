"""The lock of a server's directory: one server for a directory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from batch_assets.local_api.serving import discovery
from batch_assets.local_api.storage import disk_errors

# In which a server that has just started writes its URL.
_STARTING_SECONDS = 5.0


class AlreadyRunningError(Exception):
    """Another process serves the directory. url: None when it does not answer (yet)."""

    def __init__(self, directory: Path, url: str | None) -> None:
        where = f"at {url}" if url else "but does not answer"
        super().__init__(f"A local Batch API is already running for {directory}, {where}.")
        self.url = url


@contextlib.contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which the system releases when the process ends. Raises AlreadyRunningError."""
    lock = FileLock(discovery.lock_path(directory), mode=0o600)
    with disk_errors.writable(directory):
        acquired = _acquire(lock)
    if not acquired:
        deadline = time.monotonic() + _STARTING_SECONDS
        while (url := discovery.running_url(directory)) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        raise AlreadyRunningError(directory, url)
    try:
        with disk_errors.writable(directory):
            discovery.remove_discovery(directory)  # of a server that was killed
        yield
    finally:
        with contextlib.suppress(OSError):
            discovery.remove_discovery(directory)
        lock.release()


def _acquire(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
