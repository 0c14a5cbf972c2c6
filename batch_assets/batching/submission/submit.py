"""Request files into batches, exactly once.

A submission costs money, and an answer may get lost after OpenAI has created the batch. So a run claims each submission
in the ledger before it sends anything. The batch carries the token of the claim, and a run searches for it before it
creates one. A run that takes over after a crash searches first, too.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import openai

from batch_assets.batching.ledger import claims, owners, submissions, transitions, withdrawal
from batch_assets.batching.ledger.claims import ClaimResult
from batch_assets.batching.ledger.outcomes import CANCELLED_BY_USER
from batch_assets.batching.ledger.states import UNSENT, State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission
from batch_assets.batching.provider.batches import RemoteBatch
from batch_assets.batching.safety.clean_errors import logger_without_secrets
from batch_assets.batching.submission.adoption import AdoptionError, enter_batch
from batch_assets.batching.submission.create import Outcome, create
from batch_assets.batching.submission.errors import SubmissionError, taken_over, unreachable
from batch_assets.batching.submission.find import find_batch
from batch_assets.batching.submission.reconcile import refresh, search_for_unknown_batches
from batch_assets.batching.submission.submitter import Submitter
from batch_assets.batching.submission.upload import upload
from batch_assets.batching.timing import Timing

FILES_AT_ONCE = 4

logger = logger_without_secrets(__name__)


@dataclass
class Submitted:
    """What `submit_day` did.

    `batch_ids` are all batches with requests that the day waits for. `deferred` request files found no capacity in a
    limit; `next_attempt_at` (UTC, without zone) is when to try again at the latest. `recovered` batches of this
    database were at the API, and the ledger, restored from a backup perhaps, did not know them. `api` is where all of
    this is.
    """

    api: str = ""
    batch_ids: list[str] = field(default_factory=list)
    created: int = 0
    adopted: int = 0
    requeued: int = 0
    recovered: int = 0
    deferred: int = 0
    next_attempt_at: datetime | None = None


@dataclass(frozen=True)
class FileResult:
    """What became of one submission. `wait_until`: it is deferred, until then at the latest (UTC, without zone)."""

    outcome: Outcome = Outcome.NOTHING
    wait_until: datetime | None = None


def submit_day(
    submitter: Submitter, day: str, *, is_run_alive: Callable[[str], bool], only_begun: bool = False
) -> Submitted:
    """Make sure that every request file that the day waits for is a batch at the API, once.

    `is_run_alive` tells whether the run of an earlier claim may still work on it. If so, this run waits for it. A file
    that finds no capacity in the limits is deferred. `only_begun`: the run begins no new submission, and finishes those
    that were begun. Raises SubmissionError; what was submitted until then is in the ledger.
    """
    database, data_folder, timing = submitter.database, submitter.data_folder, submitter.timing
    report = Submitted(api=submitter.api.name)
    report.requeued = refresh(submitter)
    deferred: dict[str, datetime] = {}  # submission_id → when to try again
    deadline = time.monotonic() + timing.other_run_timeout_seconds

    def left_to_submit() -> list[Submission]:
        left = [s for s in submissions.unsubmitted(database, day, data_folder) if s.id not in deferred]
        return [s for s in left if s.state is State.CLAIMED] if only_begun else left

    if any(submission.state in UNSENT for submission in left_to_submit()):
        report.recovered = search_for_unknown_batches(submitter, is_run_alive)
    while left := left_to_submit():
        theirs = [submission for submission in left if _is_at_work(submission, submitter.run_id, is_run_alive)]
        ours = [submission for submission in left if submission not in theirs]
        for submission, result in zip(ours, _submit_all(submitter, ours), strict=True):
            report.created += result.outcome is Outcome.CREATED
            report.adopted += result.outcome is Outcome.FOUND
            if result.wait_until is not None:
                deferred[submission.id] = result.wait_until
        if theirs:
            if time.monotonic() > deadline:
                raise _other_run_takes_too_long(theirs[0], timing)
            time.sleep(timing.other_run_poll_seconds)
    report.deferred = len(deferred)
    report.next_attempt_at = min(deferred.values(), default=None)
    report.batch_ids = submissions.batches_waited_for(database, day, data_folder)
    return report


def _is_at_work(submission: Submission, run_id: str, is_run_alive: Callable[[str], bool]) -> bool:
    """Whether another run has claimed it, and may still submit it."""
    owner = submission.owner_run
    return submission.state is State.CLAIMED and owner is not None and owner != run_id and is_run_alive(owner)


def _other_run_takes_too_long(submission: Submission, timing: Timing) -> SubmissionError:
    return SubmissionError(
        f"Another run ({submission.owner_run}) has been submitting requests of {submission.day} for "
        f"{timing.other_run_timeout_seconds:.0f} s. Wait for it or terminate it, then materialize `openai_batch` "
        "again: nothing was sent twice."
    )


def _submit_all(submitter: Submitter, to_submit: Sequence[Submission]) -> list[FileResult]:
    """Submit these, some at a time. Returns the result of each, in their order.

    After a failure, or when the run is terminated, the threads begin no further submission, and finish those that they
    have begun. Raises the first SubmissionError.
    """
    has_failed = threading.Event()

    def submit(submission: Submission) -> FileResult:
        if has_failed.is_set():
            return FileResult()
        try:
            return _submit(submitter, submission)
        except BaseException:
            has_failed.set()
            raise

    with ThreadPoolExecutor(FILES_AT_ONCE, "submissions") as threads:
        try:
            futures = [threads.submit(submit, submission) for submission in to_submit]
            wait(futures)
        except BaseException:
            has_failed.set()
            raise
    return [future.result() for future in futures]


def _submit(submitter: Submitter, submission: Submission) -> FileResult:
    """One submission, from the claim to the batch."""
    if not submission.is_wanted and submission.state is not State.CLAIMED:
        withdrawal.withdraw(submitter.database, submission)
        return FileResult()
    _stop_if_begun_by_another_account(submitter, submission)
    try:
        claim = claims.claim(
            submitter.database,
            submission,
            submitter.run_id,
            submitter.limits,
            submitter.api,
            submitter.timing.budget_retry,
        )
    except StaleSubmissionError as error:
        raise SubmissionError(str(error), is_final=True) from error
    if claim.result is ClaimResult.OVER_BUDGET:
        raise SubmissionError(f"{claim.message} The run sent nothing of {submission.path.name}.", is_final=True)
    if claim.result is ClaimResult.WITHDRAWN:
        submission.path.unlink(missing_ok=True)
    if claim.submission is None:
        return FileResult(wait_until=claim.wait_until)
    was_begun = claim.result is ClaimResult.TAKEN_OVER
    return FileResult(_submit_claimed(submitter, claim.submission, was_begun=was_begun))


def _stop_if_begun_by_another_account(submitter: Submitter, submission: Submission) -> None:
    """Raise SubmissionError if an earlier run has begun it with the key of another account.

    Only that account can tell whether its batch exists. It is the present one if it knows the uploaded file. Before
    the upload is in the ledger, no batch can exist. A day that the user has cancelled is searched in any account.
    """
    api = submitter.api
    is_same_key = submission.key_fingerprint == api.key_fingerprint and submission.api == api.name
    if submission.state is not State.CLAIMED or is_same_key or submission.is_cancelled or submission.file_id is None:
        return
    try:
        submitter.client.files.retrieve(submission.file_id)
    except openai.NotFoundError as error:
        raise SubmissionError(
            f"A run has begun {submission.path.name} of {submission.day} with another key, and its batch may exist. "
            f"The account of the present key does not know the uploaded file {submission.file_id}. Let OPENAI_API_KEY "
            f"belong to that account again. If that is impossible, `batch-assets cancel {submission.day}`, then "
            "materialize `openai_batch` and `batch_request_file`: the requests are bought again then.",
            is_final=True,
        ) from error
    except openai.OpenAIError as error:
        raise unreachable(f"tell whether it has the file of {submission.path.name}", error) from error


def _submit_claimed(submitter: Submitter, submission: Submission, *, was_begun: bool) -> Outcome:
    """A claimed submission to its batch: found, or created after the upload."""
    if was_begun:
        found = find_batch(submitter.client, submission, submitter.warehouse_id, submitter.timing)
        if found is not None:
            _record(submitter, submission, found)
            return Outcome.FOUND
        if submission.is_cancelled:
            withdrawal.withdraw(submitter.database, submission, because=CANCELLED_BY_USER)
            return Outcome.NOTHING
        if not submission.is_wanted:  # its prompt or article has changed since, and no batch of it exists
            withdrawal.withdraw(submitter.database, submission)
            return Outcome.NOTHING
    if submission.file_id is None:
        submission = upload(submitter, submission, may_exist=was_begun, nothing_sent=not was_begun)
    batch, outcome = create(submitter, submission, was_begun=was_begun)
    _record(submitter, submission, batch)
    return outcome


def _record(submitter: Submitter, submission: Submission, batch: RemoteBatch) -> None:
    """Enter the batch into the ledger; cancel it if another run has one too, or the submission is withdrawn.

    That happens if Dagster reports a run as ended that is in the middle of a POST. What such a batch has done is
    billed, so it enters the ledger as an adopted one. Raises SubmissionError unless the batch is in the ledger.
    """
    if transitions.submit(submitter.database, submission, batch):
        return
    owner = owners.owner_of(submitter.database, submission)
    if owner.batch_id == batch.id:
        return  # another run has seen it in the list, and entered it
    if owner.batch_id is not None or owner.state is State.WITHDRAWN:
        logger.warning("%s is cancelled: its requests were withdrawn, or are in %s as well.", batch.id, owner)
        with suppress(openai.OpenAIError):  # it has ended, or the API does not answer: there is nothing to save then
            submitter.client.with_options(max_retries=0).batches.cancel(batch.id)
        with suppress(openai.OpenAIError, AdoptionError):  # the next search for unknown batches finds it
            enter_batch(
                submitter.database, submitter.client, submitter.api, batch, submitter.data_folder, submitter.timing
            )
    raise taken_over(submission)
