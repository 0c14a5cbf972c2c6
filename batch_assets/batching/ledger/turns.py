"""The turns of threads and processes with a database file. One has it at a time.

A lock file beside the database keeps other processes of this project away. If another thread of this process waits,
the one that ends its turn leaves lock file and database open for it: to close and open them takes longer than most
statements. After `LONGEST_SECONDS`, the other processes get their turn.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
from filelock import FileLock, Timeout

from batch_assets.batching.ledger.instances import Attached, attach, end

LONGEST_SECONDS = 0.5
POLL_SECONDS = 0.02  # how often a process tries to lock the file
_turns: dict[str, "Turn"] = {}
_guard = threading.Lock()


class Turn:
    """The present turn of this process with one file. Only the thread that holds `lock` uses the other attributes.

    waiting: how many threads of this process wait for the lock.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.waiting = 0
        self.file_lock: FileLock | None = None
        self.began = 0.0
        self.kept: Attached | None = None
        self.pause_seconds = 0.0

    def begin(self, timeout_seconds: float) -> None:
        """Lock the file, unless the thread before has left it locked. Raises filelock.Timeout."""
        if self.file_lock is not None:
            return
        time.sleep(self.pause_seconds)
        lock = FileLock(f"{self.path}.lock", timeout=timeout_seconds, poll_interval=POLL_SECONDS)
        lock.acquire()
        self.file_lock, self.began = lock, time.monotonic()

    @property
    def is_handed_over(self) -> bool:
        """Whether a thread that ends its turn leaves everything open for another one."""
        return self.waiting > 0 and time.monotonic() - self.began < LONGEST_SECONDS

    def end(self) -> None:
        """Close the database, and unlock the file."""
        if self.kept is not None:
            end(self.kept)
            self.kept = None
        if self.file_lock is not None:
            self.file_lock.release()
            self.file_lock = None
        # while other processes try to lock the file
        self.pause_seconds = 2 * POLL_SECONDS if self.waiting else 0.0


@contextmanager
def turn(path: str, timeout_seconds: float) -> Iterator[None]:
    """A turn with this file. Raises filelock.Timeout."""
    ours = _turn_of(path)
    with _guard:
        ours.waiting += 1
    is_ours = ours.lock.acquire(timeout=timeout_seconds)
    with _guard:
        ours.waiting -= 1
    if not is_ours and not ours.lock.acquire(blocking=False):
        raise Timeout(f"{path}.lock")
    try:
        if not is_ours:  # the turn was handed over to this thread just when it gave up
            raise Timeout(f"{path}.lock")
        ours.begin(timeout_seconds)
        yield
    finally:
        if not ours.is_handed_over:
            ours.end()
        ours.lock.release()


@contextmanager
def opened_in_turn(path: str, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the file, within a `turn`. Raises what `instances.attach` raises."""
    ours = _turn_of(path)
    if ours.kept is not None and ours.kept.read_only and not read_only:
        end(ours.kept)
        ours.kept = None
    attached, ours.kept = ours.kept or attach(path, read_only=read_only), None
    try:
        with attached.connection() as connection:
            yield connection
    except BaseException:
        attached.instance.close()
        raise
    if ours.is_handed_over and not attached.has_temporary_files:
        ours.kept = attached
    else:
        end(attached)


def _turn_of(path: str) -> Turn:
    with _guard:
        return _turns.setdefault(path, Turn(path))


def _forget_turns() -> None:
    """In a forked child: the locks may be held by threads that it does not have."""
    global _guard
    _guard = threading.Lock()
    _turns.clear()


os.register_at_fork(after_in_child=_forget_turns)
