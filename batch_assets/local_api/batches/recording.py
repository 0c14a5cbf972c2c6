"""The recording of results: in the result files at once, in the database from time to time."""

from __future__ import annotations

import time
from collections.abc import Mapping

from batch_assets.local_api.batches.batch_run import BatchRun
from batch_assets.local_api.batches.result_files import Result
from batch_assets.local_api.storage.database import Store, add_to_counter

_SYNC_SECONDS = 0.2


def record(run: BatchRun, store: Store, executed: Mapping[int, Result]) -> None:
    """Append the results of lines, which are given by index. From time to time, sync them and save the counts."""
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
            # Still under the lock: no thread may append to an incomplete line.
            run.broken = True
            raise


def save_progress(run: BatchRun, store: Store) -> None:
    """Sync the results, and save the counts in the database. The caller holds the lock, or is the only thread."""
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
