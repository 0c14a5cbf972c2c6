"""Creates a batch. The POST costs money, so after a lost answer `create` searches for the batch before another POST."""

import time

import openai

from batch_assets.batching.ledger import transitions, withdrawal
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.outcomes import CANCELLED_BY_USER
from batch_assets.batching.ledger.owners import is_cancelled, is_claimed_by
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import UNREADABLE_ERRORS, RemoteBatch, error_message, read_batch
from batch_assets.batching.provider.connection import refused_address
from batch_assets.batching.safety.clean_errors import logger_without_secrets
from batch_assets.batching.submission.errors import (
    CreationFailure,
    SubmissionError,
    creation_failure,
    refused_error,
    taken_over_error,
    unreachable_error,
)
from batch_assets.batching.submission.find import CLAIM_TOKEN_KEY, SUBMISSION_ID_KEY, WAREHOUSE_ID_KEY, find_batch
from batch_assets.batching.submission.submitter import SubmissionOutcome, Submitter
from batch_assets.batching.submission.upload import record_refusal, upload

MAX_LOST_ANSWERS = 3

logger = logger_without_secrets(__name__)


def create(submitter: Submitter, submission: Submission, *, was_begun: bool) -> tuple[RemoteBatch, SubmissionOutcome]:
    """The batch of a claimed submission whose file is uploaded.

    `was_begun`: an earlier run has claimed the submission, so it may have created the batch. Raises SubmissionError,
    also before a POST if another run has taken over.
    """
    timing = submitter.timing
    metadata = _metadata(submitter, submission)
    lost_answers, not_found = 0, 0
    while True:
        # before each POST, since much time may have passed since the last one
        _check_claim(submitter.database, submission)
        _stop_if_cancelled(submitter.database, submission)
        try:
            return _post(submitter, submission, metadata), SubmissionOutcome.CREATED
        except (openai.OpenAIError, *UNREADABLE_ERRORS) as caught:
            error = caught
        failure = creation_failure(error)

        if failure is CreationFailure.ANSWER_LOST:
            if refused_address(error):  # the POST was not sent, and a search would find no server either
                raise unreachable_error(f"create a batch for {submission.path.name}", error) from error
            logger.warning("No answer to the creation of a batch (%s); searching for it.", error_message(error))
            if isinstance(error, openai.RateLimitError):
                time.sleep(timing.rate_limit_seconds * 2**lost_answers)
            found = find_batch(submitter.client, submission, submitter.warehouse_id, timing)
            if found is not None:
                return found, SubmissionOutcome.FOUND
            lost_answers += 1
            if lost_answers == MAX_LOST_ANSWERS:
                raise unreachable_error(f"create a batch for {submission.path.name}", error) from error
            continue

        if failure is CreationFailure.METADATA_REFUSED and metadata:
            logger.warning("This API accepts no metadata: after a lost answer, only its file identifies a batch.")
            metadata = {}
            continue

        no_batch_can_exist = lost_answers == 0 and not was_begun
        if failure is CreationFailure.FILE_NOT_FOUND and not_found <= len(timing.file_not_found_pauses_seconds):
            submission = _retry_file(submitter, submission, not_found, no_batch_can_exist=no_batch_can_exist)
            not_found += 1
            continue

        assert isinstance(error, openai.APIStatusError)  # nothing else is a refusal
        record_refusal(submitter.database, submission, error, no_batch_can_exist=no_batch_can_exist)
        raise refused_error("create a batch", submission, error) from error


def _metadata(submitter: Submitter, submission: Submission) -> dict[str, str]:
    return {
        WAREHOUSE_ID_KEY: submitter.warehouse_id,
        SUBMISSION_ID_KEY: submission.id,
        CLAIM_TOKEN_KEY: submission.claim_token or "",
        "task": submission.task,
        "partition": submission.day,
    }


def _post(submitter: Submitter, submission: Submission, metadata: dict[str, str]) -> RemoteBatch:
    # the SDK must not repeat the POST
    client = submitter.client.with_options(max_retries=0, timeout=submitter.timing.create_timeout_seconds)
    batch = client.batches.create(
        input_file_id=submission.file_id or "",
        endpoint=submission.endpoint,  # type: ignore[arg-type]  # one of the SDK's literals
        completion_window="24h",  # the only value that OpenAI accepts
        metadata=metadata or openai.omit,
    )
    return read_batch(batch)


def _retry_file(
    submitter: Submitter, submission: Submission, not_found: int, *, no_batch_can_exist: bool
) -> Submission:
    """Wait until the API may find the uploaded file; after the last pause, upload it again."""
    pauses = submitter.timing.file_not_found_pauses_seconds
    if not_found < len(pauses):
        time.sleep(pauses[not_found])
        return submission
    # as a first upload: the run must not use the file that the API does not find
    without_file = transitions.record_upload(submitter.database, submission, None)
    return upload(submitter, without_file, may_exist=False, no_batch_can_exist=no_batch_can_exist)


def _check_claim(database: Database, submission: Submission) -> None:
    """Raise SubmissionError if another run has taken over. Dagster may report a run as ended that is still alive."""
    if not is_claimed_by(database, submission):
        raise taken_over_error(submission)


def _stop_if_cancelled(database: Database, submission: Submission) -> None:
    """Withdraw the submission if the user has cancelled it since the claim: the run knows no batch of it."""
    with database.reading() as connection:
        if not is_cancelled(connection, submission):
            return
    withdrawal.withdraw(database, submission, because=CANCELLED_BY_USER)
    raise SubmissionError(
        f"The user has cancelled {submission.day}: the run created no batch of {submission.path.name}.", is_final=True
    )
