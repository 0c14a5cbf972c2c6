"""The creation of one batch: a POST that costs money, sent once, and searched for before it is sent again."""

import time
from enum import Enum, auto

import openai

from batch_assets.batching.ledger import transitions, withdrawal
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.outcomes import CANCELLED_BY_USER
from batch_assets.batching.ledger.owners import is_cancelled, is_claimed_by
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import UNREADABLE, RemoteBatch, error_message, read_batch
from batch_assets.batching.safety.clean_errors import logger_without_secrets
from batch_assets.batching.submission.errors import (
    CreationFailure,
    SubmissionError,
    creation_failure,
    refused,
    taken_over,
    unreachable,
)
from batch_assets.batching.submission.find import CLAIM, SUBMISSION, WAREHOUSE, find_batch
from batch_assets.batching.submission.submitter import Submitter
from batch_assets.batching.submission.upload import record_refusal, upload

MAX_LOST_ANSWERS = 3

logger = logger_without_secrets(__name__)


class Outcome(Enum):
    """What a run did with a submission."""

    CREATED = auto()  # it created the batch
    FOUND = auto()  # it found the batch that an earlier attempt created
    NOTHING = auto()  # it withdrew the submission, or left it to another run, or stopped before


def create(submitter: Submitter, submission: Submission, *, was_begun: bool) -> tuple[RemoteBatch, Outcome]:
    """The batch of a claimed submission whose file is uploaded. The SDK must not repeat the POST.

    `was_begun`: an earlier run has claimed the submission, so it may have created the batch. Raises SubmissionError,
    also before a POST if another run has taken over.
    """
    timing = submitter.timing
    metadata = _metadata(submitter, submission)
    lost_answers, not_found = 0, 0
    while True:
        # before each POST: much time may have passed since the last one
        check_claim(submitter.database, submission)
        _stop_if_cancelled(submitter.database, submission)
        try:
            return _post(submitter, submission, metadata), Outcome.CREATED
        except (openai.OpenAIError, *UNREADABLE) as caught:
            error = caught
        failure = creation_failure(error)

        if failure is CreationFailure.ANSWER_LOST:
            logger.warning("No answer to the creation of a batch (%s); searching for it.", error_message(error))
            if isinstance(error, openai.RateLimitError):
                time.sleep(timing.rate_limit_seconds * 2**lost_answers)
            found = find_batch(submitter.client, submission, submitter.warehouse_id, timing)
            if found is not None:
                return found, Outcome.FOUND
            lost_answers += 1
            if lost_answers == MAX_LOST_ANSWERS:
                raise unreachable(f"create a batch for {submission.path.name}", error) from error
            continue

        if failure is CreationFailure.METADATA_REFUSED and metadata:
            logger.warning("This API takes no metadata: after a lost answer, only its file identifies a batch.")
            metadata = {}
            continue

        nothing_sent = lost_answers == 0 and not was_begun
        if failure is CreationFailure.FILE_NOT_FOUND and not_found <= len(timing.file_not_found_pauses_seconds):
            submission = _retry_file(submitter, submission, not_found, nothing_sent=nothing_sent)
            not_found += 1
            continue

        record_refusal(submitter.database, submission, error_message(error), nothing_sent=nothing_sent)
        raise refused("create a batch", submission, error) from error


def _metadata(submitter: Submitter, submission: Submission) -> dict[str, str]:
    return {
        WAREHOUSE: submitter.warehouse_id,
        SUBMISSION: submission.id,
        CLAIM: submission.claim_token or "",
        "partition": submission.day,
    }


def _post(submitter: Submitter, submission: Submission, metadata: dict[str, str]) -> RemoteBatch:
    once = submitter.client.with_options(max_retries=0, timeout=submitter.timing.create_timeout_seconds)
    batch = once.batches.create(
        input_file_id=submission.file_id or "",
        endpoint=submission.endpoint,  # type: ignore[arg-type]  # one of the SDK's literals
        completion_window="24h",  # the only one there is
        metadata=metadata or openai.omit,
    )
    return read_batch(batch)


def _retry_file(submitter: Submitter, submission: Submission, not_found: int, *, nothing_sent: bool) -> Submission:
    """Wait for the uploaded file to be found; after the last pause, upload it again."""
    pauses = submitter.timing.file_not_found_pauses_seconds
    if not_found < len(pauses):
        time.sleep(pauses[not_found])
        return submission
    # as a first upload: the file that the API does not find must not be taken for the new one
    without_file = transitions.record_upload(submitter.database, submission, None)
    return upload(submitter, without_file, may_exist=False, nothing_sent=nothing_sent)


def check_claim(database: Database, submission: Submission) -> None:
    """Raise SubmissionError if another run has taken over: Dagster may report a run as ended that is still alive."""
    if not is_claimed_by(database, submission):
        raise taken_over(submission)


def _stop_if_cancelled(database: Database, submission: Submission) -> None:
    """Withdraw the submission if the user has cancelled it since it was claimed: no batch of it exists, or none was
    found."""
    with database.reading() as connection:
        if not is_cancelled(connection, submission):
            return
    withdrawal.withdraw(database, submission, because=CANCELLED_BY_USER)
    raise SubmissionError(
        f"The user has cancelled {submission.day}: the run created no batch of {submission.path.name}.", is_final=True
    )
