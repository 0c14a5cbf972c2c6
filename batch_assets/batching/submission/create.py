"""A request file's way to OpenAI: the upload, the batch, and the search for what an earlier try may have made.

Nothing is tried again before it was looked for. Raises SubmissionError, whose message repeats what OpenAI said.
"""

import hashlib
import time
from datetime import UTC, timedelta
from pathlib import Path
from typing import TypeGuard

import openai

from batch_assets.batching.collection.load import RETRYABLE_CLIENT_ERRORS
from batch_assets.batching.ledger import transitions
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.submissions import Submission, is_cancelled, is_claimed_by
from batch_assets.batching.provider.batches import UNREADABLE, RemoteBatch, error_message, list_batches, read_batch
from batch_assets.batching.safety.clean_errors import logger_without_secrets

# In a batch's metadata. The claim token is of this attempt alone: no other attempt, day, database or account has it.
WAREHOUSE, SUBMISSION, CLAIM = "warehouse_id", "submission_id", "claim_token"
KEY_OF_THE_FIRST_EDITION, ATTEMPT_OF_THE_FIRST_EDITION = "submission_key", "attempt"
TRIES = 3
# A list may lag behind a create whose answer was lost: the pauses before each look. A minute in all: it seldom comes to
# that, and a second batch would be paid for.
LOOK_AFTER_SECONDS: tuple[float, ...] = (0.0, 1.0, 4.0, 10.0, 20.0, 25.0)
# A file that was just uploaded may not be found at once: the pauses before each further try with it.
FILE_NOT_FOUND_SECONDS = (1.0, 2.0, 4.0)
RATE_LIMIT_SECONDS = 5.0  # doubles with each try
UPLOAD_PAUSE_SECONDS = 1.0  # after an upload that got lost
# Between clocks, when looking back through a list. The claim is by the API's clock already, where it tells the time.
CLOCK_SKEW = timedelta(hours=3)
ALWAYS_LOOKED_AT = 300  # of the list's first batches, however old they say they are
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


def upload(
    database: Database,
    client: openai.OpenAI,
    submission: Submission,
    warehouse_id: str,
    *,
    may_exist: bool,
    nothing_sent: bool,
) -> Submission:
    """Upload the request file, unless an earlier try got through; what that left over is deleted.

    `may_exist`: an earlier try has begun the upload, which may be there. `nothing_sent`: no batch of it can exist.
    """
    name = upload_name(submission, warehouse_id)
    _check_file(database, submission)
    once = client.with_options(max_retries=0, timeout=UPLOAD_TIMEOUT_SECONDS)
    for attempt in range(TRIES):
        if may_exist and (file_id := _find_file(client, name, submission)):
            return transitions.record_upload(database, submission, file_id)
        try:
            with submission.path.open("rb") as file:  # an open handle: the client streams it
                uploaded = once.files.create(file=(name, file), purpose="batch")
        except openai.OpenAIError as error:
            if is_refusal(error):
                _record_refusal(database, submission, error_message(error), nothing_sent=nothing_sent)
                raise _refused("take the file", submission, error) from error
            if attempt + 1 == TRIES:
                raise unreachable(f"take the file of {submission.path.name}", error) from error
            may_exist = True
            time.sleep(
                RATE_LIMIT_SECONDS * 2**attempt if isinstance(error, openai.RateLimitError) else UPLOAD_PAUSE_SECONDS
            )
        else:
            return transitions.record_upload(database, submission, uploaded.id)
    raise AssertionError("unreachable: the last try returns or raises")


def _check_file(database: Database, submission: Submission) -> None:
    """Raise SubmissionError, and withdraw the submission, if its request file is not the one that was planned."""
    if not submission.path.exists():
        problem = "is gone"
    elif submission.sha256 != sha256_of(submission.path):
        problem = "was changed after it was planned"
    else:
        return
    transitions.withdraw(database, submission)
    raise SubmissionError(
        f"The request file {submission.path} {problem}; nothing of it was sent, and its requests are pending again. "
        f"Materialize `batch_request_file` and `openai_batch` of {submission.day}.",
        is_final=True,
    )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def upload_name(submission: Submission, warehouse_id: str) -> str:
    """Of this database, submission and attempt alone, so that no other one's file is taken for it, or deleted."""
    return f"{submission.day}-{warehouse_id[:12]}-{submission.file_stem}.jsonl"


def _record_refusal(database: Database, submission: Submission, message: str, *, nothing_sent: bool) -> None:
    """With `nothing_sent`, no batch can exist, and the submission takes up no room."""
    if nothing_sent:
        transitions.release(database, submission, message)
    else:
        transitions.record_message(database, submission, message)


def _find_file(client: openai.OpenAI, name: str, submission: Submission) -> str | None:
    """A whole upload of this name; further ones, which no batch will use, are deleted."""
    since = submission.claimed_at
    earliest = 0.0 if since is None else (since - CLOCK_SKEW).replace(tzinfo=UTC).timestamp()
    found: list[str] = []
    seen: set[str] = set()
    try:
        for file in client.files.list(purpose="batch", order="desc"):
            if file.id in seen or (file.created_at or earliest) < earliest:
                break  # what is seen again comes from a server that ignores `after`: there are no further ones
            seen.add(file.id)
            if file.filename == name and file.bytes == submission.path.stat().st_size:
                found.append(file.id)
        for orphan in found[1:]:
            client.files.delete(orphan)
    except openai.OpenAIError as error:
        logger.warning("The list of files could not be had (%s); uploading again.", error_message(error))
    return found[0] if found else None


def create(
    database: Database, client: openai.OpenAI, submission: Submission, warehouse_id: str, *, was_begun: bool
) -> tuple[RemoteBatch, bool]:
    """The batch, and whether it was found rather than made. One POST at a time: the SDK must not repeat it.

    Raises SubmissionError, also when another run has taken over before a POST.
    """
    once = client.with_options(max_retries=0, timeout=CREATE_TIMEOUT_SECONDS)
    metadata = {
        WAREHOUSE: warehouse_id,
        SUBMISSION: submission.id,
        CLAIM: submission.claim_token or "",
        "partition": submission.day,
    }
    lost, not_found = 0, 0
    while True:
        # before each POST: much time may have passed since the last one
        check_claim(database, submission)
        _stop_if_cancelled(database, submission)
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
                logger.warning("No answer to the creation of a batch (%s); looking for it.", error_message(error))
                if isinstance(error, openai.RateLimitError):
                    time.sleep(RATE_LIMIT_SECONDS * 2**lost)
                found = find_batch(client, submission, warehouse_id)
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
                lost_file = transitions.record_upload(database, submission, None)
                submission = upload(
                    database,
                    client,
                    lost_file,
                    warehouse_id,
                    may_exist=False,
                    nothing_sent=lost == 0 and not was_begun,
                )
            else:
                _record_refusal(database, submission, error_message(error), nothing_sent=lost == 0 and not was_begun)
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
    if not is_claimed_by(database, submission):
        raise taken_over(submission)


def _stop_if_cancelled(database: Database, submission: Submission) -> None:
    """Withdraw it if the user has cancelled it since it was claimed: no batch of it exists, or none was found."""
    with database.reading() as connection:
        if not is_cancelled(connection, submission):
            return
    transitions.withdraw(database, submission, because=transitions.CANCELLED_BY_USER)
    raise SubmissionError(
        f"The user has cancelled {submission.day}: no batch was made of {submission.path.name}.", is_final=True
    )


def taken_over(submission: Submission) -> SubmissionError:
    return SubmissionError(
        f"{submission.path.name} of {submission.day} was withdrawn, or another run has taken it over, since Dagster "
        "took this one for dead."
    )


def _is_about(error: openai.APIStatusError, what: str) -> bool:
    said = f"{error.param or ''} {error_message(error)}".lower()
    if what == "file":
        return "cannot find file" in said or (error.status_code == 404 and "file" in said)
    return error.status_code in (400, 422) and what in said


def find_batch(client: openai.OpenAI, submission: Submission, warehouse_id: str) -> RemoteBatch | None:
    """The batch of this submission: by its metadata, or by its file if the API keeps none.

    Looks again and again, for LOOK_AFTER_SECONDS. The list is read from its beginning to a while before the claim, by
    the API's clock; a token belongs to one claim, so that no other batch can be taken for it. Raises SubmissionError
    if the list cannot be had: then it is not known whether the batch exists, and it must not be made again.
    """
    since = None if submission.claimed_at is None else submission.claimed_at - CLOCK_SKEW
    for pause in LOOK_AFTER_SECONDS:
        time.sleep(pause)
        try:
            for position, batch in enumerate(list_batches(client, since=None)):
                if batch.id not in submission.earlier_batch_ids and is_of(batch, submission, warehouse_id):
                    return batch
                is_old = since is not None and batch.created_at is not None and batch.created_at < since
                if is_old and position >= ALWAYS_LOOKED_AT:
                    break
        except openai.OpenAIError as error:
            raise SubmissionError(
                f"The list of batches could not be had ({error_message(error)}), so it isn't known whether the batch "
                "of an earlier try exists. It was not made again; materialize `openai_batch` once the API answers."
            ) from error
    return None


def is_of(batch: RemoteBatch, submission: Submission, warehouse_id: str) -> bool:
    """Whether the batch was made for this submission.

    By a claim that the ledger does not know, too, if it is one of this database: the ledger was restored from a backup.
    """
    if CLAIM in batch.metadata:
        return batch.metadata[CLAIM] in submission.claim_tokens or (
            batch.metadata.get(WAREHOUSE) == warehouse_id and batch.metadata.get(SUBMISSION) == submission.id
        )
    if KEY_OF_THE_FIRST_EDITION in batch.metadata:
        key, attempt = batch.metadata[KEY_OF_THE_FIRST_EDITION], batch.metadata.get(ATTEMPT_OF_THE_FIRST_EDITION, "1")
        return f"{key}/{attempt}" in submission.claim_tokens
    return submission.file_id is not None and batch.input_file_id == submission.file_id


def unreachable(what: str, error: Exception) -> SubmissionError:
    return SubmissionError(
        f"OpenAI did not {what}: {error_message(error)}. What was submitted is in the ledger. Materialize "
        "`openai_batch` again when the API answers: the run goes on from there."
    )


def _refused(what: str, submission: Submission, error: openai.OpenAIError) -> SubmissionError:
    return SubmissionError(
        f"OpenAI would not {what} for {submission.path.name} of {submission.day}: {error_message(error)}. Nothing "
        "of it was paid for. Fix the cause, then materialize `openai_batch` again.",
        is_final=True,
    )
