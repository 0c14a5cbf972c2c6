"""What is on this disk of a day's ended batches: their result files, and what the ledger knows of their end.

It is all that is needed to load them: the API may have forgotten the batch by now, or be another one.
"""

import json
from itertools import islice
from pathlib import Path

from batch_assets.batching.collection.ended_batches import EndedBatch
from batch_assets.batching.ledger import batch_transitions, submissions
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import RemoteBatch, now_utc


def stored_of_day(database: Database, day: str, data_folder: Path) -> list[Submission]:
    """What the day waits for, has ended, and whose result files are here."""
    waited_for = submissions.uncollected(database, day, data_folder)
    return [submission for submission in waited_for if is_stored(submission, data_folder)]


def is_stored(submission: Submission, data_folder: Path) -> bool:
    """Whether the batch has ended, and all of its result files are here."""
    return submission.state is State.ENDED and all(path.exists() for path in result_files(submission, data_folder))


def result_files(submission: Submission, data_folder: Path) -> list[Path]:
    """Where the result files were stored."""
    return [data_folder / path for path in (submission.output_path, submission.error_path) if path is not None]


def ended_batch(submission: Submission, data_folder: Path) -> EndedBatch:
    """The batch and its files, as they are loaded."""
    batch = batch_transitions.as_it_ended(submission)
    return EndedBatch(
        submission_id=submission.id,
        batch_id=batch.id,
        model=submission.model,
        status=batch.status,
        ended_at=batch.ended_at or now_utc(),
        files=result_files(submission, data_folder),
        api=submission.api,
        max_output_tokens=submission.request_max_output_tokens,
        is_refresh=submission.is_refresh,
        planned_at=submission.planned_at,
        reasons=_refused_requests(batch, submission.path),
        reason=_reason(batch),
    )


def _refused_requests(batch: RemoteBatch, request_path: Path) -> dict[str, tuple[str, str]]:
    """Which requests OpenAI's validation named by their line, and what it said of them."""
    errors = {error.line: (error.code, error.message) for error in batch.errors if error.line}
    if not errors or not request_path.exists():
        return {}
    refused: dict[str, tuple[str, str]] = {}
    with request_path.open("rb") as file:
        for number, line in enumerate(islice(file, max(errors)), start=1):
            if number in errors:
                refused[json.loads(line)["custom_id"]] = errors[number]
    return refused


def _reason(batch: RemoteBatch) -> tuple[str, str] | None:
    """What is to be said of the requests that nothing else is said of; None: their line is missing."""
    if batch.status != "failed":
        return None
    for error in batch.errors:
        if error.line is None:
            return error.code, error.message
    return "batch_failed", "Other requests of the batch failed OpenAI's validation, so it ran none of them."
