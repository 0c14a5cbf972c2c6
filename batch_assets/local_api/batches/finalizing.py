"""The end of a batch: its results become file objects, and its status completed, expired or cancelled."""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path
from typing import NamedTuple

from batch_assets.local_api.batches import batches
from batch_assets.local_api.batches.batch_row import BatchStatus
from batch_assets.local_api.batches.batch_run import BatchRun
from batch_assets.local_api.batches.recording import save_progress
from batch_assets.local_api.batches.result_files import Results
from batch_assets.local_api.settings import Settings
from batch_assets.local_api.storage import files
from batch_assets.local_api.storage.database import Store
from batch_assets.local_api.wire import ids, strict_json

logger = logging.getLogger(__name__)

_UNEXECUTED_AT_A_TIME = 1000


class _ResultFile(NamedTuple):
    """A result file that is not empty, under the id that its file object gets."""

    file_id: str
    filename: str
    size_bytes: int


def finalize(run: BatchRun, store: Store, settings: Settings) -> None:
    """End a batch that has no lines in flight.

    May be repeated from any point after a crash. The results stay in the work folder until the end of the transaction
    that adds the file objects and sets the final status.
    """
    work = settings.input_path(run.batch_id).parent
    if run.result_files is None:
        work.mkdir(exist_ok=True)
        run.result_files = Results(work)
    status = _final_status(run, store)
    if status is not BatchStatus.COMPLETED:
        _record_unexecuted_lines(run, "batch_cancelled" if status is BatchStatus.CANCELLED else "batch_expired")
    save_progress(run, store)
    _end_batch(run, status, store, settings)
    run.close()
    with contextlib.suppress(OSError):  # the next start of the server removes it
        shutil.rmtree(work)


def _final_status(run: BatchRun, store: Store) -> BatchStatus:
    if not batches.move_to_finalizing(store, run.batch_id):
        return BatchStatus.CANCELLED
    return BatchStatus.COMPLETED if all(run.done) else BatchStatus.EXPIRED


def _record_unexecuted_lines(run: BatchRun, code: str) -> None:
    """Write an error line for each line without a result."""
    if run.input_file is None:  # the batch was cancelled before its lines were known
        return
    run.input_file.seek(0)
    custom_ids: list[str] = []
    for index, data in enumerate(run.input_file):
        if not run.done[index]:
            custom_ids.append(strict_json.loads(data)["custom_id"])
            run.done[index] = 1
        if len(custom_ids) >= _UNEXECUTED_AT_A_TIME:
            run.results.append_unexecuted(custom_ids, code)
            custom_ids.clear()
    run.results.append_unexecuted(custom_ids, code)


def _link_result_file(path: Path, filename: str, settings: Settings) -> _ResultFile | None:
    """Link a result file to a new file id; None for an empty file, which gets no file object."""
    size_bytes = path.stat().st_size
    if not size_bytes:
        return None
    file = _ResultFile(ids.new_file_id(), filename, size_bytes)
    files.link_or_copy(path, files.content_path(settings, file.file_id))
    return file


def _end_batch(run: BatchRun, status: BatchStatus, store: Store, settings: Settings) -> None:
    row = batches.find_batch(store, run.batch_id)
    results = run.results
    output = _link_result_file(results.output_path, f"{run.batch_id}_output.jsonl", settings)
    error = _link_result_file(results.error_path, f"{run.batch_id}_error.jsonl", settings)
    files.sync_directory(settings.files_directory)
    seconds = row.output_expires_after_seconds or settings.timing.batch_file_expiry_seconds
    with store.transaction() as connection:
        for file in (output, error):
            if file is not None:
                files.insert_file(connection, file.file_id, file.filename, "batch_output", file.size_bytes, seconds)
        batches.set_ended(
            connection,
            run.batch_id,
            status,
            output_file_id=None if output is None else output.file_id,
            error_file_id=None if error is None else error.file_id,
            completed=results.completed,
            failed=results.failed,
            usage=results.usage,
        )
    counts = (results.completed, results.failed, row.total - results.executed)
    logger.info("%s: %s, %d completed, %d failed, %d without an answer", run.batch_id, status, *counts)
