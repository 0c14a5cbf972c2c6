"""Background execution: a few worker threads that serve all batches in turn.

A worker takes the batch that has waited longest, takes a line of it, puts the batch back at the end of
the queue, and executes the line, and further ones until its turn is over, which is after a hundredth of a
second. So a small batch is not stuck behind a large one, `concurrency` bounds the work of all batches
together, and an engine that is fast is not slowed down by a queue, a lock and a system call for each line.
"""

from __future__ import annotations

import heapq
import logging
import shutil
import threading
import time
from collections import deque
from typing import Any

from batch_assets.local_api.batches import batches, validation
from batch_assets.local_api.batches.batch_run import Line, Run, finish_run, open_run, record, save_progress
from batch_assets.local_api.batches.result_files import Answer, make_answer
from batch_assets.local_api.endpoints import registry
from batch_assets.local_api.engines.engine_choice import Engines
from batch_assets.local_api.engines.remote_engine import PATIENT_TRIES, EngineUnavailableError
from batch_assets.local_api.settings import Settings
from batch_assets.local_api.storage.database import Store, add_to_counter
from batch_assets.local_api.wire import ids, strict_json
from batch_assets.local_api.wire.errors import ApiError, server_error

logger = logging.getLogger(__name__)

# Each open batch holds three file descriptors; the others wait as `validating`, oldest first.
_MAXIMUM_OPEN = 64
# After an error that isn't the batch's fault, such as a full disk.
_RETRY_SECONDS = 5.0
# Also bounds what a kill can undo: results are recorded at the end of a turn.
_TURN_SECONDS = 0.01
_QUICK_LINES = 8  # in a turn


class Executor:
    """Owns the worker threads and the queue; everything else about a batch is in its Run."""

    def __init__(self, store: Store, settings: Settings, engines: Engines) -> None:
        self._store = store
        self._settings = settings
        self.engines = engines
        self._halt = threading.Event()
        self._wake = threading.Condition()
        self._stopping = False
        self._runs: dict[str, Run] = {}
        self._waiting: deque[Run] = deque()
        self._ready: deque[Run] = deque()
        self._delayed: list[tuple[float, int, Run]] = []
        self._sequence = 0
        self._open = 0
        self._direct = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"local-api-worker-{number}", daemon=True)
            for number in range(settings.concurrency)
        ]

    def take_up(self) -> None:
        """Take up the batches that had not ended when the server stopped. Raises OSError and sqlite3.Error."""
        active = batches.active_batches(self._store)
        for path in self._settings.work_directory.iterdir():
            if path.name not in active:  # ended just before the server did
                shutil.rmtree(path, ignore_errors=True)
        for batch_id in active:
            self.submit(batch_id)

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop after the lines that are being executed now; the rest is for the next start.

        Those that wait for another server are abandoned, and belong to the rest.
        """
        with self._wake:
            self._stopping = True
            self._halt.set()
            for run in self._runs.values():
                run.stop.set()
            self._wake.notify_all()
        self.engines.abandon()
        for thread in self._threads:
            thread.join()
        for run in self._runs.values():
            if run.opened and not run.broken and run._results is not None:
                try:
                    save_progress(run, self._store)
                except Exception:  # nothing is lost: the next start reads the results themselves
                    logger.exception("Could not save the progress of batch %s.", run.batch_id)
            run.close()

    def submit(self, batch_id: str) -> None:
        with self._wake:
            run = self._runs[batch_id] = Run(batch_id)
            self._waiting.append(run)
            self._wake.notify()

    def cancel(self, batch_id: str) -> None:
        """Make a batch that the database calls `cancelling` end soon."""
        with self._wake:
            run = self._runs.get(batch_id)
            if run is None:
                return
            run.stop.set()
            if run in self._waiting:
                self._waiting.remove(run)
                self._waiting.appendleft(run)
            for entry in self._delayed:
                if entry[2] is run:
                    self._delayed.remove(entry)
                    heapq.heapify(self._delayed)
                    self._ready.append(run)
                    break
            self._wake.notify_all()
        self.engines.abandon()

    def progress(self, batch_id: str) -> tuple[int, int] | None:
        """Completed and failed requests of a batch that runs, newer than the database's; else None."""
        run = self._runs.get(batch_id)
        results = run._results if run is not None else None
        return None if results is None else (results.completed, results.failed)

    def uncounted(self) -> int:
        """Executed requests that are not in the database's counter yet."""
        runs = list(self._runs.values())
        return sum(run._results.executed - run.counted for run in runs if run._results is not None)

    def in_flight(self) -> int:
        return self._direct + sum(run.in_flight for run in list(self._runs.values()))

    def answer_now(self, endpoint: str, body: object) -> dict[str, Any]:
        """Execute one request outside of any batch; raises ApiError."""
        with self._wake:
            self._direct += 1
        try:
            return registry.answer(self.engines, endpoint, body, stop=self._halt, tries=1)
        except EngineUnavailableError as unavailable:
            raise unavailable.error from unavailable
        finally:
            with self._wake:
                self._direct -= 1
            with self._store.transaction() as connection:
                add_to_counter(connection, "requests_executed", 1)

    def _work(self) -> None:
        while (run := self._next()) is not None:
            try:
                self._step(run)
            except validation.ValidationCancelledError:
                continue  # the server stops
            except Exception:
                logger.exception("Batch %s will be taken up again in %g s.", run.batch_id, _RETRY_SECONDS)
                run.broken = True
                run.stop.set()
                self._reopen_if_idle(run)

    def _next(self) -> Run | None:
        """The run to serve next, out of the queue; waits for one. None when the server stops."""
        with self._wake:
            while not self._stopping:
                now = time.time()
                while self._delayed and self._delayed[0][0] <= now:
                    self._ready.append(heapq.heappop(self._delayed)[2])
                if self._waiting and (self._open < _MAXIMUM_OPEN or self._waiting[0].stop.is_set()):
                    self._open += 1
                    return self._waiting.popleft()
                if self._ready:
                    return self._ready.popleft()
                self._wake.wait(max(0.0, self._delayed[0][0] - now) if self._delayed else None)
            return None

    def _put_back(self, run: Run, due: float) -> None:
        with self._wake:
            if due <= time.time() or run.stop.is_set():
                self._ready.append(run)
            else:
                self._sequence += 1
                heapq.heappush(self._delayed, (due, self._sequence, run))
            self._wake.notify()

    def _step(self, run: Run) -> None:
        if not run.opened:
            if open_run(run, self._store, self._settings):
                run.opened = True
                self._put_back(run, run.due(self._settings.batch_seconds))
            else:
                self._forget(run)
            return
        line = run.take(park=True)
        if line is not None:
            # Where lines take no time, a second worker at the same batch would only be in the way.
            alone = run.quick
            if not alone:
                self._put_back(run, run.due(self._settings.batch_seconds))
            self._take_turn(run, line)
            if not self._finish_if_idle(run) and (alone or run.unpark()):
                self._put_back(run, run.due(self._settings.batch_seconds))
        elif not self._finish_if_idle(run) and run.unpark():
            # The run pauses, since the engine had no time for a line; or a clock was set back.
            self._put_back(run, run.due(self._settings.batch_seconds))

    def _take_turn(self, run: Run, line: Line | None) -> None:
        """Execute a line, and more while they take no time, and record the results together."""
        until = time.monotonic() + _TURN_SECONDS
        paced = self._settings.latency_seconds or self._settings.batch_seconds or self.engines.waits
        taken = 0
        executed: dict[int, Answer] = {}
        try:
            while line is not None:
                taken += 1
                if (answer := self._execute(run, line)) is not None:
                    executed[line.index] = answer
                line = None if paced or time.monotonic() >= until else run.take()
            run.quick = taken >= _QUICK_LINES
        finally:
            try:
                record(run, self._store, executed)
            finally:
                with run.lock:
                    run.in_flight -= taken

    def _execute(self, run: Run, line: Line) -> Answer | None:
        """The answer to a line; None when it was not executed."""
        latency = self._settings.latency_seconds
        if latency and run.stop.wait(min(latency, max(0.0, run.expires_at - time.time()))):
            return None  # the batch ends, or the server stops
        if latency and time.time() >= run.expires_at:
            return None
        request = strict_json.loads(line.data)
        faults = self._settings.fault_injector.faults
        fate = faults.fate(run.seq, request["custom_id"])
        if fate == "expire":
            return None  # not done: so the batch ends as expired
        if fate == "drop":
            with run.lock:
                run.done[line.index] = 1
            return None
        try:
            if fate == "fail":
                status, body = faults.failure()
            else:
                status, body = 200, self._answer(run, line, request)
        except EngineUnavailableError as unavailable:
            line.failures += unavailable.failures
            if run.give_back(line, unavailable.after_seconds) and not run.stop.is_set():
                logger.warning("Batch %s pauses: %s", run.batch_id, unavailable.error.message)
            return None
        except ApiError as error:
            status, body = error.status, error.body()
        except Exception:
            logger.exception("The engine failed on %r of batch %s.", request["custom_id"], run.batch_id)
            status, body = 500, server_error().body()
        return make_answer(request["custom_id"], status, ids.new_line_request_id(), body)

    def _answer(self, run: Run, line: Line, request: dict[str, Any]) -> dict[str, Any]:
        tries = PATIENT_TRIES - line.failures
        return registry.answer(self.engines, request["url"], request["body"], stop=run.stop, tries=tries)

    def _finish_if_idle(self, run: Run) -> bool:
        """End the run when nothing of it is left to do; True when it has left the queue."""
        if self._stopping:
            return True
        if run.broken:
            self._reopen_if_idle(run)
            return True
        if run.claim_end(time.time(), self._settings.batch_seconds):
            finish_run(run, self._store, self._settings)
            self._forget(run)
        return run.ended

    def _reopen_if_idle(self, run: Run) -> None:
        """Start a broken run again from what is on the disk, once no worker is busy with it."""
        if self._stopping or run.in_flight:
            return
        with self._wake:
            if self._runs.get(run.batch_id) is not run:
                return
            run.close()
            fresh = self._runs[run.batch_id] = Run(run.batch_id)
            self._ready = deque(other for other in self._ready if other is not run)
            self._delayed = [entry for entry in self._delayed if entry[2] is not run]
            heapq.heapify(self._delayed)
        self._put_back(fresh, time.time() + _RETRY_SECONDS)

    def _forget(self, run: Run) -> None:
        with self._wake:
            self._runs.pop(run.batch_id, None)
            self._open -= 1
            self._wake.notify()
