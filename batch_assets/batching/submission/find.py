"""Searches for a batch that an earlier attempt may have created, by the claim token in its metadata."""

import time
from datetime import timedelta

import openai

from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import RemoteBatch, error_message, list_batches
from batch_assets.batching.safety.clean_errors import logger_without_secrets
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets.batching.timing import Timing

logger = logger_without_secrets(__name__)

# Keys of a batch's metadata. No other attempt, day, database or account has the same claim token.
WAREHOUSE_ID_KEY, SUBMISSION_ID_KEY, CLAIM_TOKEN_KEY = "warehouse_id", "submission_id", "claim_token"
KEY_OF_THE_FIRST_VERSION, ATTEMPT_OF_THE_FIRST_VERSION = "submission_key", "attempt"
# How much older than its claim a batch may be. The claim has the time of the API, if the API tells the time.
CLOCK_SKEW = timedelta(hours=3)
ALWAYS_READ = 300  # batches at the beginning of the list, whatever their time


def find_batch(
    client: openai.OpenAI, submission: Submission, warehouse_id: str, timing: Timing, *, always_read: int = ALWAYS_READ
) -> RemoteBatch | None:
    """The batch of this submission: by its metadata or, if the API keeps none, by its file; None if there is none.

    Searches several times, with the pauses `timing.find_batch_pauses_seconds`. Each search reads the list from its
    beginning to some hours before the claim. Raises SubmissionError if the API does not return the list: then the
    batch may exist, and the run must not create another one.
    """
    for number, pause_seconds in enumerate(timing.find_batch_pauses_seconds, start=1):
        if number > 1:
            logger.info(
                "The list has no batch of %s; search %s of %s in %.0f s.",
                *(submission.path.name, number, len(timing.find_batch_pauses_seconds), pause_seconds),
            )
        time.sleep(pause_seconds)
        try:
            found = _search(client, submission, warehouse_id, always_read)
        except openai.OpenAIError as error:
            raise SubmissionError(
                f"The API did not return its list of batches ({error_message(error)}), so it is not known whether the "
                "batch of an earlier attempt exists. The run created no other one. Materialize `openai_batch` again "
                "when the API answers."
            ) from error
        if found is not None:
            return found
    return None


def _search(client: openai.OpenAI, submission: Submission, warehouse_id: str, always_read: int) -> RemoteBatch | None:
    earliest = None if submission.claimed_at is None else submission.claimed_at - CLOCK_SKEW
    for position, batch in enumerate(list_batches(client, since=None)):
        if batch.id not in submission.earlier_batch_ids and is_of(batch, submission, warehouse_id):
            return batch
        is_too_old = earliest is not None and batch.created_at is not None and batch.created_at < earliest
        if is_too_old and position >= always_read:
            return None
    return None


def is_of(batch: RemoteBatch, submission: Submission, warehouse_id: str) -> bool:
    """Whether the batch was created for this submission.

    A ledger that was restored from a backup may not know the claim token. Then the ids of the database and the
    submission decide.
    """
    if CLAIM_TOKEN_KEY in batch.metadata:
        return batch.metadata[CLAIM_TOKEN_KEY] in submission.claim_tokens or (
            batch.metadata.get(WAREHOUSE_ID_KEY) == warehouse_id
            and batch.metadata.get(SUBMISSION_ID_KEY) == submission.id
        )
    if KEY_OF_THE_FIRST_VERSION in batch.metadata:
        key, attempt = batch.metadata[KEY_OF_THE_FIRST_VERSION], batch.metadata.get(ATTEMPT_OF_THE_FIRST_VERSION, "1")
        return f"{key}/{attempt}" in submission.claim_tokens
    return submission.file_id is not None and batch.input_file_id == submission.file_id
