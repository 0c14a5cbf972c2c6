"""One batch while it runs: which line is next, what has been recorded, and how it ends.

Everything here survives a kill -9: the status is in the database, the input and the results are in
the batch's work folder, and `open_run` builds the same run from them again.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from batch_assets.local_api.batches import batches, quota, validation
from batch_assets.local_api.batches.lines import Problem
from batch_assets.local_api.batches.result_files import Answer, Results
from batch_assets.local_api.settings import Settings
from batch_assets.local_api.storage import files
from batch_assets.local_api.storage.database import Store, add_to_counter
from batch_assets.local_api.wire import ids, strict_json

logger = logging.getLogger(__name__)

_SYNC_SECONDS = 0.2
# Between attempts to reach an engine that takes no requests now: doubled from the first to the longest.
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 60.0
# A line is some kilobytes: read many at a time.
_READ_BYTES = 128 * 1024
_UNEXECUTED_AT_A_TIME = 1000


@dataclass(slots=True)
class Line:
    index: int
    data: bytes
    failures: int = 0
    """Tries that ended without an answer, of those that an engine may make."""


@dataclass
class Run:
    """A batch between its creation and its end.

    stop: set when no further line is to be executed: cancelled, expired, broken, or the server stops.
    broken: something went wrong that a fresh start from the disk may mend.
    quick: the last turn had time for many lines.
    in_flight, index, done, returned, results: under `lock`; `done[i]` is 1 when line i has its result.
    returned: lines that the engine had no time for; nothing is taken before `not_before` while there are any.
    parked: no worker has the run in its queue, since there was nothing to take.
    """

    batch_id: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)
    opened: bool = False
    ended: bool = False
    broken: bool = False
    quick: bool = False
    in_flight: int = 0
    index: int = 0
    done: bytearray = field(default_factory=bytearray)
    returned: list[Line] = field(default_factory=list)
    pause_seconds: float = 0.0
    not_before: float = 0.0
    parked: bool = False
    seq: int = 0
    """Which of the server's batches it is."""
    created_at: float = 0.0
    expires_at: float = 0.0
    counted: int = 0
    """Executions of this batch that are in the database's counter already."""
    synced_at: float = 0.0
    _input: BinaryIO | None = None
    _results: Results | None = None

    @property
    def results(self) -> Results:
        assert self._results is not None, "the run is not open"
        return self._results

    @property
    def exhausted(self) -> bool:
        return self.index >= len(self.done) and not self.returned

    def take(self, *, park: bool = False) -> Line | None:
        """The next line to execute, which is in flight from now on; None when there is none (any more).

        park: there being none, the run is parked.
        """
        with self.lock:
            if time.time() >= self.expires_at:
                self.stop.set()
            line = None if self.stop.is_set() or self._input is None else self._next_line(self._input)
            if park:
                self.parked = line is None
            if line is not None:
                self.in_flight += 1
            return line

    def _next_line(self, file: BinaryIO) -> Line | None:
        if self.returned:
            return self.returned.pop() if time.time() >= self.not_before else None
        while not self.exhausted:
            data = file.readline()
            index, self.index = self.index, self.index + 1
            if not self.done[index]:
                return Line(index, data)
        return None

    def give_back(self, line: Line, after_seconds: float | None) -> bool:
        """Take a line back that the engine had no time for; the run pauses so long, or longer each time in a row.

        True when the run was not pausing already, for another line that met the same trouble.
        """
        with self.lock:
            self.returned.append(line)
            now = time.time()
            begins = now >= self.not_before
            if after_seconds is None and not begins:
                return False
            if after_seconds is None:
                self.pause_seconds = min(max(2 * self.pause_seconds, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
                after_seconds = self.pause_seconds
            self.not_before = max(self.not_before, now + after_seconds)
            return begins

    def unpark(self) -> bool:
        """True for exactly one caller, once there is something to take (or nothing in flight) after all."""
        with self.lock:
            more = not self.in_flight or (bool(self.returned) and not self.stop.is_set())
            if not self.parked or self.ended or not more:
                return False
            self.parked = False
            return True

    def claim_end(self, now: float, batch_seconds: float) -> bool:
        """True for exactly one caller, once nothing is left to execute and nothing is in flight."""
        with self.lock:
            waiting = now < self.created_at + batch_seconds and not self.stop.is_set()
            if self.ended or self.in_flight or waiting or not (self.exhausted or self.stop.is_set()):
                return False
            self.ended = True
            return True

    def due(self, batch_seconds: float) -> float:
        """When the next line is due (or the end, after the last), with the lines spread over `batch_seconds`."""
        if self.returned:
            return min(self.not_before, self.expires_at)
        share = self.index / len(self.done) if self.done else 1.0
        return min(self.created_at + batch_seconds * share, self.expires_at)

    def close(self) -> None:
        if self._input is not None:
            self._input.close()
            self._input = None
        if self._results is not None:
            self._results.close()


def open_run(run: Run, store: Store, settings: Settings) -> bool:
    """Validate a new batch, or recover one that ran before; False when it has ended thereby.

    Raises validation.ValidationCancelledError when the server stops in mid-validation.
    """
    row = batches.find_batch(store, run.batch_id)
    work = settings.work_directory / run.batch_id
    run.seq, run.created_at, run.expires_at = row["seq"], row["created_at"], row["expires_at"]
    if row["status"] == "validating" and not _validate(run, store, settings):
        return False
    row = batches.find_batch(store, run.batch_id)
    if row["status"] == "cancelling":
        run.stop.set()
    run.done = bytearray(row["total"])
    if row["in_progress_at"] is None:
        return True  # cancelled before its lines were known: ends with no files, and counts of zero
    run._results = Results(work)
    run._input = (work / "input.jsonl").open("rb", buffering=_READ_BYTES)
    _mark_done(run)
    _catch_up_counter(run, store, row["completed"] + row["failed"])
    return True


def _validate(run: Run, store: Store, settings: Settings) -> bool:
    """validating → in_progress (or cancelling, both True), or → failed (False)."""
    row = batches.find_batch(store, run.batch_id)
    work = settings.work_directory / run.batch_id
    work.mkdir(exist_ok=True)
    problems = _provide_input(row["input_file_id"], run, store, settings)
    result = validation.ValidationResult(problems=problems)
    if not problems:
        path = work / "input.jsonl"
        try:
            result = validation.validate(path, row["endpoint"], stopped=run.stop.is_set)
        except validation.ValidationCancelledError:
            if batches.find_batch(store, run.batch_id)["status"] == "cancelling":
                return True
            raise
    if not result.problems:
        result.problems = quota.begin(store, settings, run.batch_id, result)
        if not result.problems:
            return True
    if batches.move_to_failed(store, run.batch_id, result.problems):
        shutil.rmtree(work, ignore_errors=True)
        return False
    return True


def _provide_input(file_id: str, run: Run, store: Store, settings: Settings) -> list[Problem]:
    """Give the batch a name of its own for its input, so that deleting the file object does it no harm."""
    row = files.find_file(store, file_id)
    if row is None:
        return [validation.file_not_found(file_id)]
    if row["purpose"] != "batch":
        return [validation.wrong_purpose(file_id, row["purpose"])]
    own = settings.work_directory / run.batch_id / "input.jsonl"
    own.unlink(missing_ok=True)  # of an earlier start, perhaps a torn copy
    try:
        files.link_or_copy(files.content_path(settings, file_id), own)
    except FileNotFoundError:  # deleted in this moment
        return [validation.file_not_found(file_id)]
    return []


def _mark_done(run: Run) -> None:
    """Find the lines of the input that have a result already."""
    recorded, run.results.recorded = run.results.recorded, set()
    if not recorded or run._input is None:
        return
    for index, data in enumerate(run._input):
        if strict_json.loads(data)["custom_id"] in recorded:
            run.done[index] = 1
    run._input.seek(0)


def _catch_up_counter(run: Run, store: Store, counted: int) -> None:
    """Count what was recorded but not yet counted when the server was killed."""
    run.counted = counted
    save_progress(run, store)


def record(run: Run, store: Store, executed: Mapping[int, Answer]) -> None:
    """Record answers, by the indices of their lines, together; now and then, sync them and save the counts."""
    with run.lock:
        if run.broken or not executed:
            return
        try:
            run.results.append(executed.values())
            run.pause_seconds = 0.0
            for index in executed:
                run.done[index] = 1
            if time.monotonic() - run.synced_at >= _SYNC_SECONDS:
                save_progress(run, store)
        except BaseException:
            # Still under the lock: after a torn line nothing more may be appended.
            run.broken = True
            raise


def save_progress(run: Run, store: Store) -> None:
    """Sync the results, and put the counts into the database; the caller holds the lock (or is alone)."""
    run.synced_at = time.monotonic()
    results = run.results
    results.sync()
    new = results.executed - run.counted
    with store.transaction() as connection:
        connection.execute(
            "UPDATE batch SET completed = ?, failed = ? WHERE id = ?",
            (results.completed, results.failed, run.batch_id),
        )
        add_to_counter(connection, "requests_executed", max(new, 0))
    run.counted = results.executed


def finish_run(run: Run, store: Store, settings: Settings) -> None:
    """Bring a batch with nothing in flight to its end: completed, expired or cancelled.

    May be repeated from any point after a crash: the results stay in the work folder until the
    transaction that names the result files and the final status.
    """
    work = settings.work_directory / run.batch_id
    if run._results is None:
        work.mkdir(exist_ok=True)
        run._results = Results(work)
    status = "cancelled"
    if batches.move_to_finalizing(store, run.batch_id):
        status = "completed" if all(run.done) else "expired"
    if status != "completed" and run._input is not None:
        _record_unexecuted(run, "batch_cancelled" if status == "cancelled" else "batch_expired")
    save_progress(run, store)
    row = batches.find_batch(store, run.batch_id)
    results = run.results
    produced = [(results.output_path, "output"), (results.error_path, "error")]
    made: dict[str, tuple[str, int]] = {}
    for path, kind in produced:
        if size := path.stat().st_size:
            made[kind] = (ids.new_file_id(), size)
            files.link_or_copy(path, files.content_path(settings, made[kind][0]))
    files.sync_directory(settings.files_directory)
    seconds = row["output_expires_after_seconds"] or files.BATCH_FILE_EXPIRY_SECONDS
    with store.transaction() as connection:
        for kind, (file_id, size) in made.items():
            filename = f"{run.batch_id}_{kind}.jsonl"
            files.insert_file(connection, file_id, filename, "batch_output", size, seconds)
        batches.set_ended(
            connection,
            run.batch_id,
            status,
            output_file_id=made["output"][0] if "output" in made else None,
            error_file_id=made["error"][0] if "error" in made else None,
            completed=results.completed,
            failed=results.failed,
            usage=results.usage,
        )
    counts = (results.completed, results.failed, row["total"] - results.executed)
    logger.info("%s: %s, %d completed, %d failed, %d without an answer", run.batch_id, status, *counts)
    run.close()
    with contextlib.suppress(OSError):  # swept at the next start
        shutil.rmtree(work)


def _record_unexecuted(run: Run, code: str) -> None:
    assert run._input is not None
    run._input.seek(0)
    custom_ids: list[str] = []
    for index, data in enumerate(run._input):
        if not run.done[index]:
            custom_ids.append(strict_json.loads(data)["custom_id"])
            run.done[index] = 1
        if len(custom_ids) >= _UNEXECUTED_AT_A_TIME:
            run.results.append_unexecuted(custom_ids, code)
            custom_ids.clear()
    run.results.append_unexecuted(custom_ids, code)
