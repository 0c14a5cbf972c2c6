"""A batch in memory, from its opening to its end: which line is next, and which lines have results.

The server can make it again after a kill. The status is in the database, the input and the results are in the batch's
work folder, and `opening.open_run` reads them.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import BinaryIO

from batch_assets.local_api.batches.result_files import Results

# Between attempts to reach an engine that takes no requests now: doubled from the first to the longest.
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 60.0


@dataclass(slots=True)
class Line:
    """A line of the input file."""

    index: int
    data: bytes
    failed_attempts: int = 0
    """Failed attempts of the engine at this line, until now."""


@dataclass
class BatchRun:
    """The state of a batch that runs. Worker threads share it, and hold `lock` for the fields that are under it.

    stop: set when no further line may be executed: the batch is cancelled, expired or broken, or the server stops.
    opened: the input is validated, and its files are open.
    broken: an error happened that a new opening from the disk may repair.
    has_fast_lines: there was time for many lines in the last time slice.

    Under `lock`:
    ended: a worker has begun to finalize the batch.
    in_flight: number of lines that workers have taken and not recorded yet.
    index: of the next line of the input.
    done: `done[i]` is 1 when line i has its result.
    deferred: lines for which the engine had no time. While there are any, no line is taken before `paused_until`.
    suspended: the run is in no queue, since there was no line to take.
    """

    batch_id: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)
    opened: bool = False
    broken: bool = False
    has_fast_lines: bool = False
    ended: bool = False
    in_flight: int = 0
    index: int = 0
    done: bytearray = field(default_factory=bytearray)
    deferred: list[Line] = field(default_factory=list)
    suspended: bool = False
    pause_seconds: float = 0.0
    paused_until: float = 0.0
    seq: int = 0
    """The number of the batch on this server."""
    created_at: float = 0.0
    expires_at: float = 0.0
    counted: int = 0
    """Executed lines of this batch that are in the database's counter already."""
    synced_at: float = 0.0
    """On the monotonic clock."""
    input_file: BinaryIO | None = None
    result_files: Results | None = None

    @property
    def results(self) -> Results:
        assert self.result_files is not None, "the run has no result files"
        return self.result_files

    @property
    def has_no_more_lines(self) -> bool:
        return self.index >= len(self.done) and not self.deferred

    def take_line(self) -> Line | None:
        """The next line to execute, which is in flight from now on; None when there is none now."""
        with self.lock:
            return self._take_line()

    def take_line_or_suspend(self) -> Line | None:
        """The same. Without a line, the run is suspended: the caller must not queue it until `resume` is True."""
        with self.lock:
            line = self._take_line()
            self.suspended = line is None
            return line

    def _take_line(self) -> Line | None:
        if time.time() >= self.expires_at:
            self.stop.set()
        line = None if self.stop.is_set() or self.input_file is None else self._next_line(self.input_file)
        if line is not None:
            self.in_flight += 1
        return line

    def _next_line(self, file: BinaryIO) -> Line | None:
        if self.deferred:
            return self.deferred.pop() if time.time() >= self.paused_until else None
        while not self.has_no_more_lines:
            data = file.readline()
            index, self.index = self.index, self.index + 1
            if not self.done[index]:
                return Line(index, data)
        return None

    def mark_done(self, line: Line) -> None:
        with self.lock:
            self.done[line.index] = 1

    def defer_line(self, line: Line, retry_after_seconds: float | None) -> bool:
        """Keep a line for later, since the engine had no time for it, and pause the run.

        retry_after_seconds: how long to pause; None doubles the pause of the last time.
        Returns True when the pause begins now, and False when the run pauses already, because of another line.
        """
        with self.lock:
            self.deferred.append(line)
            now = time.time()
            begins = now >= self.paused_until
            if retry_after_seconds is None and not begins:
                return False
            if retry_after_seconds is None:
                self.pause_seconds = min(max(2 * self.pause_seconds, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
                retry_after_seconds = self.pause_seconds
            self.paused_until = max(self.paused_until, now + retry_after_seconds)
            return begins

    def resume(self) -> bool:
        """End the suspension, once there is a line to take or no line in flight.

        True for exactly one caller, which must queue the run.
        """
        with self.lock:
            has_work = not self.in_flight or (bool(self.deferred) and not self.stop.is_set())
            if not self.suspended or self.ended or not has_work:
                return False
            self.suspended = False
            return True

    def claim_end(self, now: float, batch_seconds: float) -> bool:
        """True for exactly one caller, which must finalize the batch: no line is left to execute or in flight."""
        with self.lock:
            is_early = now < self.created_at + batch_seconds and not self.stop.is_set()
            has_work = not self.has_no_more_lines and not self.stop.is_set()
            if self.ended or self.in_flight or is_early or has_work:
                return False
            self.ended = True
            return True

    def due_at(self, batch_seconds: float) -> float:
        """When the next line is due (or the end, after the last line), with the lines spread over `batch_seconds`."""
        if self.deferred:
            return min(self.paused_until, self.expires_at)
        share = self.index / len(self.done) if self.done else 1.0
        return min(self.created_at + batch_seconds * share, self.expires_at)

    def close(self) -> None:
        if self.input_file is not None:
            self.input_file.close()
            self.input_file = None
        if self.result_files is not None:
            self.result_files.close()
