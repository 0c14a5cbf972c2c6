"""Error texts of a submission, and what an error of the API means."""

from enum import Enum, auto
from typing import TypeGuard

import openai

from batch_assets.batching.ledger.outcomes import RETRYABLE_CLIENT_ERRORS, Outcome, Scope, outcome_of
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.provider.connection import WHAT_TO_START, refused_address


class SubmissionError(Exception):
    """The run could not submit a request file now; the message says why. A later run continues.

    `is_final`: OpenAI refused the request file, and will refuse it again. `is_of_account`: until the user has removed
    the cause in the account.
    """

    def __init__(self, message: str, *, is_final: bool = False, is_of_account: bool = False) -> None:
        super().__init__(message)
        self.is_final, self.is_of_account = is_final, is_of_account


class RunStoppedError(Exception):
    """The run was terminated while it submitted a day. What it has begun is in the ledger."""


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
    outcome = refusal_outcome(error)
    if outcome.name == "file not found" or (error.status_code == 404 and "file" in text):
        return CreationFailure.FILE_NOT_FOUND
    return CreationFailure.REFUSED


def is_refusal(error: Exception) -> TypeGuard[openai.APIStatusError]:
    """Whether the API refused and did nothing. A gateway may answer with a timeout, a conflict or 5xx after it did.

    A 429 whose code names the account (insufficient_quota) is a refusal; any other one may come from a gateway.
    """
    if not isinstance(error, openai.APIStatusError) or error.status_code >= 500:
        return False
    if error.status_code in RETRYABLE_CLIENT_ERRORS:
        return outcome_of(error.code).scope is Scope.ACCOUNT
    return True


def refusal_outcome(error: openai.APIStatusError) -> Outcome:
    """What the refusal means."""
    return outcome_of(error.code, error_message(error), error.status_code)


def refused_error(what: str, submission: Submission, error: openai.APIStatusError) -> SubmissionError:
    """The sentence for a refusal. One of the account waits, and names the remedy."""
    refusal = (
        f"OpenAI would not {what} for {submission.path.name} of {submission.day}: {error_message(error)}. OpenAI "
        "charged nothing for it."
    )
    outcome = refusal_outcome(error)
    if outcome.scope is Scope.ACCOUNT:
        return SubmissionError(
            f"{refusal} {outcome.remedy} The sensor tries again by itself; materialize `openai_batch` to try at once.",
            is_final=True,
            is_of_account=True,
        )
    return SubmissionError(f"{refusal} Fix the cause, then materialize `openai_batch` again.", is_final=True)


def unreachable_error(what: str, error: Exception) -> SubmissionError:
    """The API did not do this. If nothing listens at its address, the sentence says what to start."""
    if address := refused_address(error):
        return SubmissionError(
            f"Nothing listens at {address}. {WHAT_TO_START} What was submitted is in the ledger. The sensor tries "
            "again by itself; materialize `openai_batch` to try at once."
        )
    return SubmissionError(
        f"OpenAI did not {what}: {error_message(error)}. What was submitted is in the ledger. Materialize "
        "`openai_batch` again when the API answers: the run goes on from there."
    )


def taken_over_error(submission: Submission) -> SubmissionError:
    return SubmissionError(
        f"{submission.path.name} of {submission.day} was withdrawn, or another run has taken it over, since Dagster "
        "reported this run as ended."
    )
