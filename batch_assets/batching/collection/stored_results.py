"""The ended batches of a day whose results are on this disk: result files, and what the ledger recorded at the end.

A run can load them without the API, which may no longer know the batch, or may be another API.
"""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from batch_assets.batching.collection.ended_batches import EndedBatch, FailureReason
from batch_assets.batching.ledger import batch_transitions
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import RemoteBatch, now_utc


def stored_of_day(waited_for: Sequence[Submission], data_folder: Path) -> list[Submission]:
    """Those of the uncollected submissions of a day whose batch has ended, and whose result files are here."""
    return [submission for submission in waited_for if is_stored(submission, data_folder)]


def is_stored(submission: Submission, data_folder: Path) -> bool:
    """Whether the batch has ended, and all of its result files are here."""
    files = result_files(submission, data_folder)
    return submission.state is State.ENDED and all(path.exists() for path in files.values())


def result_files(submission: Submission, data_folder: Path) -> dict[str, Path]:
    """The paths of the stored result files, by kind: "output", "errors"."""
    paths = {"output": submission.output_path, "errors": submission.error_path}
    return {kind: data_folder / path for kind, path in paths.items() if path is not None}


def ended_batch(submission: Submission, data_folder: Path) -> EndedBatch:
    """The batch with its files, ready to load."""
    batch = batch_transitions.recorded_batch(submission)
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
        reported=batch,
        requests=submission.requests,
        endpoint=submission.endpoint,
        vector_length=submission.vector_length,
        output_schema=None if submission.output_schema is None else json.loads(submission.output_schema),
    )


def _refused_requests(batch: RemoteBatch, request_path: Path) -> dict[str, FailureReason]:
    """custom_id → the reason, for the requests whose lines OpenAI's validation refused."""
    errors = {error.line: FailureReason(error.code, error.message) for error in batch.errors if error.line}
    if not errors or not request_path.exists():
        return {}
    refused: dict[str, FailureReason] = {}
    with request_path.open("rb") as file:
        for number, line in enumerate(islice(file, max(errors)), start=1):
            if number in errors:
                refused[json.loads(line)["custom_id"]] = errors[number]
    return refused


def _reason(batch: RemoteBatch) -> FailureReason | None:
    """Why the batch failed as a whole; None if it did not: then a request may lack a line in the results."""
    if batch.status != "failed":
        return None
    for error in batch.errors:
        if error.line is None:
            return FailureReason(error.code, error.message)
    return FailureReason(
        "batch_failed", "Other requests of the batch failed OpenAI's validation, so it ran none of them."
    )
