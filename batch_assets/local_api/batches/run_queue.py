"""The batches that have not ended, and the order in which worker threads serve them.

A batch is in one of three places: `unopened`, until a worker has validated it; `ready`, for the next worker; `delayed`,
until its next line is due. While a worker serves a batch that no other worker may serve, and while the batch is
suspended, it is in none.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from typing import NamedTuple

from batch_assets.local_api.batches.batch_run import BatchRun


class _Delayed(NamedTuple):
    """A heap entry. The sequence number keeps the order of runs that are due at the same time."""

    due_at: float
    sequence: int
    run: BatchRun


class RunQueue:
    """Safe for threads. maximum_open: how many batches may be open at the same time."""

    def __init__(self, maximum_open: int) -> None:
        self._maximum_open = maximum_open
        self._changed = threading.Condition()
        self._closed = False
        self._runs: dict[str, BatchRun] = {}
        self._unopened: deque[BatchRun] = deque()
        self._ready: deque[BatchRun] = deque()
        self._delayed: list[_Delayed] = []
        self._sequence = 0
        self._open_count = 0

    @property
    def is_closed(self) -> bool:
        return self._closed

    def find(self, batch_id: str) -> BatchRun | None:
        return self._runs.get(batch_id)

    def runs(self) -> list[BatchRun]:
        return list(self._runs.values())

    def add(self, batch_id: str) -> None:
        """Add a batch that is to be opened."""
        with self._changed:
            run = self._runs[batch_id] = BatchRun(batch_id)
            self._unopened.append(run)
            self._changed.notify()

    def next(self) -> BatchRun | None:
        """Take the next run to serve from the queue, and wait for one. None when the queue is closed."""
        with self._changed:
            while not self._closed:
                now = time.time()
                while self._delayed and self._delayed[0].due_at <= now:
                    self._ready.append(heapq.heappop(self._delayed).run)
                # A batch that is stopped before its opening ends at once, however many batches are open.
                if self._unopened and (self._open_count < self._maximum_open or self._unopened[0].stop.is_set()):
                    self._open_count += 1
                    return self._unopened.popleft()
                if self._ready:
                    return self._ready.popleft()
                self._changed.wait(max(0.0, self._delayed[0].due_at - now) if self._delayed else None)
            return None

    def put(self, run: BatchRun, due_at: float) -> None:
        """Put a run at the end of the queue, from the time when it is due. A stopped run is due at once."""
        with self._changed:
            if due_at <= time.time() or run.stop.is_set():
                self._ready.append(run)
            else:
                self._sequence += 1
                heapq.heappush(self._delayed, _Delayed(due_at, self._sequence, run))
            self._changed.notify()

    def stop_run(self, batch_id: str) -> None:
        """Stop a run, and let a worker serve it soon. A run that has ended is left alone."""
        with self._changed:
            run = self._runs.get(batch_id)
            if run is None:
                return
            run.stop.set()
            if run in self._unopened:
                self._unopened.remove(run)
                self._unopened.appendleft(run)
            if self._remove_delayed(run):
                self._ready.append(run)
            self._changed.notify_all()

    def remove(self, run: BatchRun) -> None:
        """Remove a run that has ended."""
        with self._changed:
            self._runs.pop(run.batch_id, None)
            self._open_count -= 1
            self._changed.notify()

    def replace(self, run: BatchRun) -> BatchRun | None:
        """Close a broken run. Returns the new run for its batch; None when another thread was first."""
        with self._changed:
            if self._runs.get(run.batch_id) is not run:
                return None
            run.close()
            fresh = self._runs[run.batch_id] = BatchRun(run.batch_id)
            self._ready = deque(other for other in self._ready if other is not run)
            self._remove_delayed(run)
            return fresh

    def close(self) -> None:
        """Stop all runs, and end the waiting of all workers."""
        with self._changed:
            self._closed = True
            for run in self._runs.values():
                run.stop.set()
            self._changed.notify_all()

    def _remove_delayed(self, run: BatchRun) -> bool:
        """Whether the run was delayed; if so, it is no longer. The caller holds the lock."""
        kept = [entry for entry in self._delayed if entry.run is not run]
        if len(kept) == len(self._delayed):
            return False
        self._delayed = kept
        heapq.heapify(self._delayed)
        return True
