"""Background execution: a few worker threads execute the lines of all batches, a time slice at a time.

A worker takes a batch from the queue and a line of it, puts the batch at the end of the queue, and executes the line,
and further ones until the end of its time slice, a hundredth of a second later. So a small batch does not wait for a
large one, `concurrency` bounds the work of all batches together, and a fast engine is not slowed down by a queue, a
lock and a system call for each line.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from typing import Any, NamedTuple

from batch_assets.local_api.batches import batches
from batch_assets.local_api.batches.batch_row import BatchStatus
from batch_assets.local_api.batches.batch_run import BatchRun, Line
from batch_assets.local_api.batches.finalizing import finalize
from batch_assets.local_api.batches.line_execution import execute_line
from batch_assets.local_api.batches.opening import open_run
from batch_assets.local_api.batches.recording import record, save_progress
from batch_assets.local_api.batches.result_files import Result
from batch_assets.local_api.batches.run_queue import RunQueue
from batch_assets.local_api.batches.validation import ValidationCancelledError
from batch_assets.local_api.endpoints import registry
from batch_assets.local_api.engines.engine_choice import Engines
from batch_assets.local_api.engines.remote_engine import EngineUnavailableError
from batch_assets.local_api.settings import Settings
from batch_assets.local_api.storage.database import Store, add_to_counter

logger = logging.getLogger(__name__)

# Lines are fast when so many fit into a time slice.
_FAST_LINES = 8


class Progress(NamedTuple):
    """How many requests of a batch are executed."""

    completed: int
    failed: int


class Executor:
    """Owns the worker threads."""

    def __init__(self, store: Store, settings: Settings, engines: Engines) -> None:
        self._store = store
        self._settings = settings
        self.engines = engines
        self._queue = RunQueue(settings.limits.open_batches)
        self._stop = threading.Event()
        self._direct_lock = threading.Lock()
        self._direct_in_flight = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"local-api-worker-{number}", daemon=True)
            for number in range(settings.concurrency)
        ]

    def recover(self) -> None:
        """Queue the batches that had not ended when the server stopped. Raises OSError and sqlite3.Error."""
        unfinished = batches.unfinished_batches(self._store)
        for path in self._settings.work_directory.iterdir():
            if path.name not in unfinished:  # the batch ended, and the server before it could remove the folder
                shutil.rmtree(path, ignore_errors=True)
        for batch_id in unfinished:
            self.submit(batch_id)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop after the lines that engines of this process execute now. The next start executes the rest.

        Requests to another server are ended, and belong to the rest.
        """
        self._stop.set()
        self._queue.close()
        self.engines.abandon()
        for thread in self._threads:
            thread.join()
        for run in self._queue.runs():
            if run.opened and not run.broken and run.result_files is not None:
                try:
                    save_progress(run, self._store)
                except Exception:  # the next start reads the result files, so no result is lost
                    logger.exception("Could not save the progress of batch %s.", run.batch_id)
            run.close()

    def submit(self, batch_id: str) -> None:
        self._queue.add(batch_id)

    def cancel(self, batch_id: str) -> None:
        """End a batch soon, after the database has it as `cancelling`."""
        self._queue.stop_run(batch_id)
        self.engines.abandon()

    def progress(self, batch_id: str) -> Progress | None:
        """The counts of a batch that runs, newer than the database's; None for other batches."""
        run = self._queue.find(batch_id)
        results = run.result_files if run is not None else None
        return None if results is None else Progress(results.completed, results.failed)

    def uncounted(self) -> int:
        """Executed requests that are not in the database's counter yet."""
        runs = self._queue.runs()
        return sum(run.results.executed - run.counted for run in runs if run.result_files is not None)

    def in_flight(self) -> int:
        return self._direct_in_flight + sum(run.in_flight for run in self._queue.runs())

    def execute_directly(self, endpoint: str, body: object) -> dict[str, Any]:
        """Execute one request that is in no batch. Raises ApiError."""
        with self._direct_lock:
            self._direct_in_flight += 1
        try:
            return registry.answer(self.engines, endpoint, body, stop=self._stop, attempts=1)
        except EngineUnavailableError as error:
            raise error.response_error from error
        finally:
            with self._direct_lock:
                self._direct_in_flight -= 1
            with self._store.transaction() as connection:
                add_to_counter(connection, "requests_executed", 1)

    def _work(self) -> None:
        """What each worker thread does until the server stops."""
        while (run := self._queue.next()) is not None:
            try:
                self._serve(run)
            except ValidationCancelledError:
                continue  # the server stops
            except Exception:
                seconds = self._settings.timing.batch_retry_seconds
                logger.exception(
                    "Batch %s: an error ended the execution. The server continues in %g s.", run.batch_id, seconds
                )
                run.broken = True
                run.stop.set()
                self._reopen_if_idle(run)

    def _serve(self, run: BatchRun) -> None:
        """Open a run, or execute some of its lines, or end it; and queue it again, unless another worker will."""
        if not run.opened:
            self._open(run)
            return
        line = run.take_line_or_suspend()
        # Where lines take no time, a second worker at the same batch would only wait for the first one's lock.
        is_exclusive = line is not None and run.has_fast_lines
        if line is not None:
            if not is_exclusive:
                self._requeue(run)
            self._execute_time_slice(run, line)
        if self._end_if_idle(run):
            return
        if is_exclusive or run.resume():
            self._requeue(run)

    def _open(self, run: BatchRun) -> None:
        if open_run(run, self._store, self._settings) is BatchStatus.FAILED:
            self._queue.remove(run)
            return
        first_line_at = min(run.created_at + self._settings.timing.first_line_seconds, run.expires_at)
        self._queue.put(run, max(first_line_at, run.due_at(self._settings.batch_seconds)))

    def _requeue(self, run: BatchRun) -> None:
        self._queue.put(run, run.due_at(self._settings.batch_seconds))

    def _execute_time_slice(self, run: BatchRun, first: Line) -> None:
        """Execute a line, and more while there is time, and record the results together."""
        deadline = time.monotonic() + self._settings.timing.time_slice_seconds
        one_line_only = self._settings.latency_seconds or self._settings.batch_seconds or self.engines.is_remote
        line: Line | None = first
        taken = 0
        executed: dict[int, Result] = {}
        try:
            while line is not None:
                taken += 1
                result = execute_line(run, line, self.engines, self._settings)
                if result is not None:
                    executed[line.index] = result
                line = None if one_line_only or time.monotonic() >= deadline else run.take_line()
            run.has_fast_lines = taken >= _FAST_LINES
        finally:
            try:
                record(run, self._store, executed)
            finally:
                with run.lock:
                    run.in_flight -= taken

    def _end_if_idle(self, run: BatchRun) -> bool:
        """Finalize or reopen a run that has no work left. True when no worker may queue the run again."""
        if self._queue.is_closed:
            return True
        if run.broken:
            self._reopen_if_idle(run)
            return True
        if run.claim_end(time.time(), self._settings.batch_seconds):
            finalize(run, self._store, self._settings)
            self._queue.remove(run)
        return run.ended

    def _reopen_if_idle(self, run: BatchRun) -> None:
        """Replace a broken run by a new one, which reads the batch's files again, once no line of it is in flight."""
        if self._queue.is_closed or run.in_flight:
            return
        fresh = self._queue.replace(run)
        if fresh is not None:
            self._queue.put(fresh, time.time() + self._settings.timing.batch_retry_seconds)
