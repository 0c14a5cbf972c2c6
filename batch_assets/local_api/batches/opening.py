"""The opening of a batch: a new one is validated; one that ran before a restart goes on with what it has."""

from __future__ import annotations

import shutil

from batch_assets.local_api.batches import batches, quota, validation
from batch_assets.local_api.batches.batch_row import BatchRow, BatchStatus
from batch_assets.local_api.batches.batch_run import BatchRun
from batch_assets.local_api.batches.line_checks import Problem
from batch_assets.local_api.batches.recording import save_progress
from batch_assets.local_api.batches.result_files import Results
from batch_assets.local_api.batches.validation import ValidationCancelledError, ValidationResult
from batch_assets.local_api.settings import Settings
from batch_assets.local_api.storage import files
from batch_assets.local_api.storage.database import Store
from batch_assets.local_api.wire import strict_json

# A line has some kilobytes: this reads many at a time.
_READ_BYTES = 128 * 1024


def open_run(run: BatchRun, store: Store, settings: Settings) -> BatchStatus:
    """Validate a batch, and open its files. Returns its status: `failed` when it has ended thereby.

    Raises ValidationCancelledError when the server stops during the validation.
    """
    row = batches.find_batch(store, run.batch_id)
    run.seq, run.created_at, run.expires_at = row.seq, row.created_at, row.expires_at
    if row.status is BatchStatus.VALIDATING:
        _validate(row, run, store, settings)
        row = batches.find_batch(store, run.batch_id)
    if row.status is BatchStatus.FAILED:
        return row.status
    if row.status is BatchStatus.CANCELLING:
        run.stop.set()
    run.done = bytearray(row.total)
    # A batch that was cancelled before its lines were known has no files, and ends with counts of zero.
    if row.in_progress_at is not None:
        _open_files(row, run, store, settings)
    run.opened = True
    return row.status


def _validate(row: BatchRow, run: BatchRun, store: Store, settings: Settings) -> None:
    """validating → in_progress or failed. A batch that is cancelled meanwhile stays as it is."""
    settings.input_path(row.id).parent.mkdir(exist_ok=True)
    try:
        result = _check_input(row, run, store, settings)
    except ValidationCancelledError:
        if batches.find_batch(store, row.id).status is BatchStatus.CANCELLING:
            return
        raise
    problems = result.problems or quota.start_batch(store, settings, row.id, result)
    if problems and batches.move_to_failed(store, row.id, problems):
        shutil.rmtree(settings.input_path(row.id).parent, ignore_errors=True)


def _check_input(row: BatchRow, run: BatchRun, store: Store, settings: Settings) -> ValidationResult:
    problems = _link_input(row, store, settings)
    if problems:
        return ValidationResult(problems=problems)
    return validation.validate(settings.input_path(row.id), row.endpoint, settings.limits, stopped=run.stop.is_set)


def _link_input(row: BatchRow, store: Store, settings: Settings) -> list[Problem]:
    """Link the input into the work folder, so that a deletion of the file object does not disturb the batch."""
    file = files.find_file(store, row.input_file_id)
    if file is None:
        return [validation.file_not_found(row.input_file_id)]
    if file["purpose"] != "batch":
        return [validation.wrong_purpose(row.input_file_id, file["purpose"])]
    path = settings.input_path(row.id)
    path.unlink(missing_ok=True)  # of an earlier start, perhaps an incomplete copy
    try:
        files.link_or_copy(files.content_path(settings, row.input_file_id), path)
    except FileNotFoundError:  # a client deletes it at this moment
        return [validation.file_not_found(row.input_file_id)]
    return []


def _open_files(row: BatchRow, run: BatchRun, store: Store, settings: Settings) -> None:
    path = settings.input_path(row.id)
    run.result_files = Results(path.parent)
    run.input_file = path.open("rb", buffering=_READ_BYTES)
    _mark_recorded_lines(run)
    # Adds what was recorded but not yet counted when the server was killed.
    run.counted = row.completed + row.failed
    save_progress(run, store)


def _mark_recorded_lines(run: BatchRun) -> None:
    """Find the lines of the input that have a result already."""
    recorded, run.results.recorded = run.results.recorded, set()
    if not recorded or run.input_file is None:
        return
    for index, data in enumerate(run.input_file):
        if strict_json.loads(data)["custom_id"] in recorded:
            run.done[index] = 1
    run.input_file.seek(0)
