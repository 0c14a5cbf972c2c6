"""Error texts of a submission, and what an error of the API means."""

from enum import Enum, auto
from typing import TypeGuard

import openai

from batch_assets.batching.ledger.outcomes import FILE_NOT_FOUND_PHRASES, RETRYABLE_CLIENT_ERRORS
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import error_message


class SubmissionError(Exception):
    """The run could not submit a request file now; the message says why. A later run continues.

    `is_final`: OpenAI refused the request file, and will refuse it again.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


class CreationFailure(Enum):
    """What an error says about the batch that the run wanted to create."""

    ANSWER_LOST = auto()  # the batch may exist
    METADATA_REFUSED = auto()  # this API accepts no metadata
    FILE_NOT_FOUND = auto()  # the API does not find the uploaded file, yet or any more
    REFUSED = auto()  # no batch exists


def creation_failure(error: Exception) -> CreationFailure:
    """What this error means: an error of the client, or of an answer that cannot be read."""
    if not is_refusal(error):
        return CreationFailure.ANSWER_LOST
    text = f"{error.param or ''} {error_message(error)}".lower()
    if error.status_code in (400, 422) and "metadata" in text:
        return CreationFailure.METADATA_REFUSED
    if any(phrase in text for phrase in FILE_NOT_FOUND_PHRASES) or (error.status_code == 404 and "file" in text):
        return CreationFailure.FILE_NOT_FOUND
    return CreationFailure.REFUSED


def is_refusal(error: Exception) -> TypeGuard[openai.APIStatusError]:
    """Whether the API refused and did nothing. A gateway may answer with a timeout, a conflict or 5xx after it did."""
    return (
        isinstance(error, openai.APIStatusError)
        and error.status_code < 500
        and error.status_code not in RETRYABLE_CLIENT_ERRORS
    )


def refused_error(what: str, submission: Submission, error: Exception) -> SubmissionError:
    return SubmissionError(
        f"OpenAI would not {what} for {submission.path.name} of {submission.day}: {error_message(error)}. OpenAI "
        "charged nothing for it. Fix the cause, then materialize `openai_batch` again.",
        is_final=True,
    )


def unreachable_error(what: str, error: Exception) -> SubmissionError:
    return SubmissionError(
        f"OpenAI did not {what}: {error_message(error)}. What was submitted is in the ledger. Materialize "
        "`openai_batch` again when the API answers: the run goes on from there."
    )


def taken_over_error(submission: Submission) -> SubmissionError:
    return SubmissionError(
        f"{submission.path.name} of {submission.day} was withdrawn, or another run has taken it over, since Dagster "
        "reported this run as ended."
    )
