"""Uploads a request file after a check of its sha256. After a lost answer, searches for it before a second upload."""

import hashlib
import time
from datetime import UTC
from pathlib import Path

import openai

from batch_assets.batching.ledger import transitions, withdrawal
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.outcomes import Scope
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.provider.connection import refused_address
from batch_assets.batching.safety.clean_errors import logger_without_secrets
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.batching.submission.errors import (
    SubmissionError,
    is_refusal,
    refusal_outcome,
    refused_error,
    unreachable_error,
)
from batch_assets.batching.submission.find import CLOCK_SKEW
from batch_assets.batching.submission.submitter import Submitter

MAX_UPLOADS = 3

logger = logger_without_secrets(__name__)


def upload(submitter: Submitter, submission: Submission, *, may_exist: bool, no_batch_can_exist: bool) -> Submission:
    """Upload the request file, unless an earlier attempt has; deletes further copies of it.

    `may_exist`: an earlier attempt has begun the upload, so the API may have the file. `no_batch_can_exist`: of this
    file. Raises SubmissionError.
    """
    database, timing = submitter.database, submitter.timing
    name = upload_name(submission, submitter.warehouse_id)
    _check_file(database, submission)
    client = submitter.client.with_options(max_retries=0, timeout=timing.upload_timeout_seconds)
    for attempt in range(MAX_UPLOADS):
        if may_exist and (file_id := _find_file(submitter.client, name, submission)):
            return transitions.record_upload(database, submission, file_id)
        try:
            with submission.path.open("rb") as file:  # an open file: the client streams it
                uploaded = client.files.create(file=(name, file), purpose="batch")
            return transitions.record_upload(database, submission, uploaded.id)
        except openai.OpenAIError as error:
            if is_refusal(error):
                record_refusal(database, submission, error, no_batch_can_exist=no_batch_can_exist)
                raise refused_error("take the file", submission, error) from error
            if attempt + 1 == MAX_UPLOADS or refused_address(error):
                raise unreachable_error(f"take the file of {submission.path.name}", error) from error
            logger.warning(
                "Upload %s of %s of %s failed (%s); the run tries again.",
                *(attempt + 1, MAX_UPLOADS, submission.path.name, error_message(error)),
            )
            is_rate_limited = isinstance(error, openai.RateLimitError)
        may_exist = True
        time.sleep(timing.rate_limit_seconds * 2**attempt if is_rate_limited else timing.upload_retry_seconds)
    raise AssertionError("unreachable: the last attempt returns or raises")


def upload_name(submission: Submission, warehouse_id: str) -> str:
    """A file name for this database, submission and attempt: no run uses or deletes the file of another one."""
    return f"{submission.day}-{warehouse_id[:12]}-{submission.file_stem}.jsonl"


def record_refusal(
    database: Database, submission: Submission, error: openai.APIStatusError, *, no_batch_can_exist: bool
) -> None:
    """Record why the API refused.

    With `no_batch_can_exist`, no batch can exist: the claim is released or, after an account error, deferred.
    """
    message, outcome = error_message(error), refusal_outcome(error)
    if not no_batch_can_exist:
        transitions.record_message(database, submission, message)
    elif outcome.scope is Scope.ACCOUNT:
        code = as_message(error.code) if error.code else None
        transitions.defer(database, submission, f"{message.rstrip('.')}. {outcome.remedy}", code, outcome)
    else:
        transitions.release(database, submission, message)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(database: Database, submission: Submission) -> None:
    """Raise SubmissionError, and withdraw the submission, if its request file is not the one that was planned."""
    if not submission.path.exists():
        problem = "does not exist"
    elif submission.sha256 != sha256_of(submission.path):
        problem = "was changed after it was planned"
    else:
        return
    withdrawal.withdraw(database, submission)
    raise SubmissionError(
        f"The request file {submission.path} {problem}. The run sent nothing of it, and its requests are pending "
        f"again. Materialize `batch_request_file` and `openai_batch` of {submission.day}.",
        is_final=True,
    )


def _find_file(client: openai.OpenAI, name: str, submission: Submission) -> str | None:
    """The id of a complete upload of this name. Deletes further ones, which no batch will use."""
    since = submission.claimed_at
    earliest = 0.0 if since is None else (since - CLOCK_SKEW).replace(tzinfo=UTC).timestamp()
    found: list[str] = []
    seen: set[str] = set()
    try:
        for file in client.files.list(purpose="batch", order="desc"):
            if file.id in seen or (file.created_at or earliest) < earliest:
                break  # a server that ignores `after` lists the same files again
            seen.add(file.id)
            if file.filename == name and file.bytes == submission.path.stat().st_size:
                found.append(file.id)
        for orphan in found[1:]:
            client.files.delete(orphan)
    except openai.OpenAIError as error:
        logger.warning("The API did not return its list of files (%s). The run uploads again.", error_message(error))
    return found[0] if found else None
