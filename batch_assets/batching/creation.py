"""A request file's way to OpenAI: the upload, the batch, and the search for what an earlier try may have made.

Nothing is tried again before it was looked for. Raises SubmissionError, in whose message OpenAI has its say.
"""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeGuard

import openai

from batch_assets.batching import ledger
from batch_assets.batching.clean_errors import logger_without_secrets
from batch_assets.batching.database import Database
from batch_assets.batching.ledger import Submission
from batch_assets.batching.remote import UNREADABLE, RemoteBatch, list_batches, now_utc, read_batch, words_of
from batch_assets.batching.results import RETRYABLE_CLIENT_ERRORS

KEY, ATTEMPT = "submission_key", "attempt"  # in a batch's metadata
TRIES = 3
# A list may lag behind a create whose answer was lost: the pauses before each look. A minute in all: it seldom comes to
# that, and a second batch would be paid for.
LOOK_AFTER_SECONDS: tuple[float, ...] = (0.0, 1.0, 4.0, 10.0, 20.0, 25.0)
# A file that was just uploaded may not be found at once: the pauses before each further try with it.
FILE_NOT_FOUND_SECONDS = (1.0, 2.0, 4.0)
RATE_LIMIT_SECONDS = 5.0  # doubles with each try
UPLOAD_PAUSE_SECONDS = 1.0  # after an upload that got lost
CLOCK_SKEW = timedelta(minutes=10)  # between OpenAI's clock and ours, when looking back through a list
CREATE_TIMEOUT_SECONDS = 60.0
UPLOAD_TIMEOUT_SECONDS = 600.0

logger = logger_without_secrets(__name__)


class SubmissionError(Exception):
    """A shard could not be submitted now; the message says why. Running again goes on from there.

    `is_final`: OpenAI refused it for good, so the same again will be refused again.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


def upload(database: Database, client: openai.OpenAI, submission: Submission) -> Submission:
    """Upload the request file, unless an earlier try got through; what that left over is deleted."""
    name = f"{submission.day}-{submission.path.name}"
    if not submission.path.exists():
        ledger.withdraw(database, submission, is_claimed=True)
        raise SubmissionError(
            f"The request file {submission.path} is gone; nothing of it was sent, and its requests are owed again. "
            f"Materialise `batch_request_file` and `openai_batch` of {submission.day}.",
            is_final=True,
        )
    once = client.with_options(max_retries=0, timeout=UPLOAD_TIMEOUT_SECONDS)
    since = submission.intended_at
    for attempt in range(TRIES):
        if since is not None and (file_id := _find_file(client, name, submission.path.stat().st_size, since)):
            return ledger.record_upload(database, submission, file_id)
        since = since or now_utc()
        try:
            with submission.path.open("rb") as file:  # an open handle: the client streams it
                uploaded = once.files.create(file=(name, file), purpose="batch")
        except openai.OpenAIError as error:
            if is_refusal(error):
                # what an earlier run may have made of it is still to be looked for
                nothing_sent = submission.intended_at is None
                ledger.record_refusal(database, submission, words_of(error), nothing_sent=nothing_sent)
                raise _refused("take the file", submission, error) from error
            if attempt + 1 == TRIES:
                raise unreachable(f"take the file of {submission.path.name}", error) from error
            time.sleep(
                RATE_LIMIT_SECONDS * 2**attempt if isinstance(error, openai.RateLimitError) else UPLOAD_PAUSE_SECONDS
            )
        else:
            return ledger.record_upload(database, submission, uploaded.id)
    raise AssertionError("unreachable: the last try returns or raises")


def _find_file(client: openai.OpenAI, name: str, size: int, since: datetime) -> str | None:
    """A whole upload of this name, made after `since`; further ones, which nobody will use, are deleted."""
    earliest = (since - CLOCK_SKEW).replace(tzinfo=UTC).timestamp()
    found: list[str] = []
    seen: set[str] = set()
    try:
        for file in client.files.list(purpose="batch", order="desc"):
            if file.id in seen or (file.created_at or earliest) < earliest:
                break  # what is seen again comes from a server that ignores `after`: there are no further ones
            seen.add(file.id)
            if file.filename == name and file.bytes == size:
                found.append(file.id)
        for orphan in found[1:]:
            client.files.delete(orphan)
    except openai.OpenAIError as error:
        logger.warning("The list of files could not be had (%s); uploading again.", words_of(error))
    return found[0] if found else None


def create(database: Database, client: openai.OpenAI, submission: Submission) -> tuple[RemoteBatch, bool]:
    """The batch, and whether it was found rather than made. One POST at a time: the SDK must not repeat it.

    Raises SubmissionError, also when another run has taken over before a POST.
    """
    once = client.with_options(max_retries=0, timeout=CREATE_TIMEOUT_SECONDS)
    was_begun = submission.intended_at is not None
    since = submission.intended_at or now_utc()
    metadata = {KEY: submission.key, ATTEMPT: str(submission.attempt), "partition": submission.day}
    lost, not_found = 0, 0
    while True:
        check_claim(database, submission)  # before each POST: much time may have passed since the last one
        try:
            batch = once.batches.create(
                input_file_id=submission.file_id or "",
                endpoint=submission.endpoint,  # type: ignore[arg-type]  # one of the SDK's literals
                completion_window="24h",  # the only one there is
                metadata=metadata or openai.omit,
            )
            return read_batch(batch), False
        except (openai.OpenAIError, *UNREADABLE) as error:
            if not is_refusal(error):
                # It may have been made all the same: the answer is lost, not necessarily the batch.
                logger.warning("No answer to the creation of a batch (%s); looking for it.", words_of(error))
                if isinstance(error, openai.RateLimitError):
                    time.sleep(RATE_LIMIT_SECONDS * 2**lost)
                found = find_batch(client, submission, since=since)
                if found is not None:
                    return found, True
                lost += 1
                if lost == TRIES:
                    raise unreachable(f"create a batch for {submission.path.name}", error) from error
            elif metadata and _is_about(error, "metadata"):
                metadata = {}
                logger.warning("This API takes no metadata: after a lost answer, a batch is known by its file alone.")
            elif _is_about(error, "file") and not_found < len(FILE_NOT_FOUND_SECONDS):
                time.sleep(FILE_NOT_FOUND_SECONDS[not_found])
                not_found += 1
            elif _is_about(error, "file") and not_found == len(FILE_NOT_FOUND_SECONDS):
                not_found += 1
                # as if for the first time: the file that isn't found must not be taken for the new one
                lost_file = ledger.record_upload(database, submission, None)
                submission = upload(database, client, replace(lost_file, intended_at=None))
            else:
                nothing_sent = lost == 0 and not was_begun
                ledger.record_refusal(database, submission, words_of(error), nothing_sent=nothing_sent)
                raise _refused("create a batch", submission, error) from error


def is_refusal(error: Exception) -> TypeGuard[openai.APIStatusError]:
    """Whether the API said no, and did nothing. Time-outs, conflicts and 5xx may come from a gateway, after it did."""
    return (
        isinstance(error, openai.APIStatusError)
        and error.status_code < 500
        and error.status_code not in RETRYABLE_CLIENT_ERRORS
    )


def check_claim(database: Database, submission: Submission) -> None:
    """Raise SubmissionError if another run has taken over meanwhile: Dagster may have given up one that is alive."""
    if ledger.owner_of(database, submission.key) != (submission.run_id, None):
        raise taken_over(submission)


def taken_over(submission: Submission) -> SubmissionError:
    return SubmissionError(
        f"{submission.path.name} of {submission.day} was withdrawn, or another run has taken it over, since Dagster "
        "took this one for dead."
    )


def _is_about(error: openai.APIStatusError, what: str) -> bool:
    said = f"{error.param or ''} {words_of(error)}".lower()
    if what == "file":
        return "cannot find file" in said or (error.status_code == 404 and "file" in said)
    return error.status_code in (400, 422) and what in said


def find_batch(client: openai.OpenAI, submission: Submission, *, since: datetime) -> RemoteBatch | None:
    """The batch of this attempt, among those made after `since`: by its key, or by its file if that's all there is.

    Looks again and again, for LOOK_AFTER_SECONDS. Raises SubmissionError if the list cannot be had: then nobody knows
    whether the batch exists, and it must not be made again.
    """
    for pause in LOOK_AFTER_SECONDS:
        time.sleep(pause)
        try:
            for batch in list_batches(client, since=since - CLOCK_SKEW):
                if batch.id not in submission.earlier_batch_ids and _is_of(batch, submission):
                    return batch
        except openai.OpenAIError as error:
            raise SubmissionError(
                f"The list of batches could not be had ({words_of(error)}), so it isn't known whether the batch "
                "of an earlier try exists. It was not made again; materialise `openai_batch` once the API answers."
            ) from error
    return None


def _is_of(batch: RemoteBatch, submission: Submission) -> bool:
    if KEY in batch.metadata:
        attempt = batch.metadata.get(ATTEMPT, "1")
        return batch.metadata[KEY] == submission.key and attempt == str(submission.attempt)
    return submission.file_id is not None and batch.input_file_id == submission.file_id


def unreachable(what: str, error: Exception) -> SubmissionError:
    return SubmissionError(
        f"OpenAI did not {what}: {words_of(error)}. What was submitted is in the ledger; materialise `openai_batch` "
        "again when the API answers, and it goes on from there."
    )


def _refused(what: str, submission: Submission, error: openai.OpenAIError) -> SubmissionError:
    return SubmissionError(
        f"OpenAI would not {what} for {submission.path.name} of {submission.day}: {words_of(error)}. Nothing of it was "
        "paid for. Mend the cause, then materialise `openai_batch` again.",
        is_final=True,
    )
