"""Submits a task's day: request files → batches, each created once.

A batch costs money, and an answer may get lost after OpenAI has created the batch. So a run claims each submission in
the ledger before it sends anything, and the batch has the claim token in its metadata. After a lost answer, the run
searches for the batch before it creates one. A run that takes over after a crash searches first, too.
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
from batch_assets.batching.once import Once
from batch_assets.batching.provider.batches import RemoteBatch
from batch_assets.batching.safety.clean_errors import logger_without_secrets
from batch_assets.batching.submission.adoption import AdoptionError, enter_batch
from batch_assets.batching.submission.create import create
from batch_assets.batching.submission.errors import (
    RunStoppedError,
    SubmissionError,
    taken_over_error,
    unreachable_error,
)
from batch_assets.batching.submission.find import find_batch
from batch_assets.batching.submission.reconcile import search_for_unknown_batches, update_in_flight
from batch_assets.batching.submission.submitter import FILES_AT_ONCE, SubmissionOutcome, Submitter
from batch_assets.batching.submission.upload import upload
from batch_assets.batching.task_day import TaskDay
from batch_assets.batching.timing import Timing

logger = logger_without_secrets(__name__)


@dataclass
class Submitted:
    """What `submit_day` did at the API of this name.

    batch_ids: all batches with requests that the day waits for.
    created: batches that this run created.
    adopted: batches of an earlier attempt that this run found.
    requeued: submissions whose batch OpenAI failed as a whole, since it had no capacity.
    recovered: batches of this database that the ledger, restored from a backup perhaps, did not know.
    deferred: request files for which a limit had no capacity.
    next_attempt_at: when to try these again at the latest (UTC, without zone).
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
    """The result of one submission. `wait_until`: it is deferred, until then at the latest (UTC, without zone)."""

    outcome: SubmissionOutcome = SubmissionOutcome.NOTHING
    wait_until: datetime | None = None


class Preparation:
    """What a run does once before its first submission, for whichever day: it reads the API's list of batches.

    is_run_alive: whether the run of an earlier claim may still work on it.
    update: requeues submissions that the API had no capacity for, and returns their number.
    search: enters batches of this database that the ledger does not know, and returns their number.
    """

    def __init__(self, submitter: Submitter, is_run_alive: Callable[[str], bool]) -> None:
        self.is_run_alive = is_run_alive
        self.update = Once(lambda: update_in_flight(submitter))
        self.search = Once(lambda: search_for_unknown_batches(submitter, is_run_alive))


def submit_day(
    submitter: Submitter,
    day: TaskDay,
    *,
    is_run_alive: Callable[[str], bool] = lambda run_id: False,
    only_begun: bool = False,
    preparation: Preparation | None = None,
) -> Submitted:
    """Create one batch for every request file that the day waits for, unless it exists.

    `is_run_alive` tells whether the run of an earlier claim may still work on it. If so, this run waits for it. A file
    is deferred if a limit has no capacity for it. `only_begun`: the run begins no new submission, and finishes those
    that were begun. `preparation`: of a run that submits several days, from several threads. Raises SubmissionError;
    the ledger has what was submitted until then. Raises RunStoppedError after `submitter.stop` was set.
    """
    database, data_folder, timing = submitter.database, submitter.data_folder, submitter.timing
    preparation = preparation or Preparation(submitter, is_run_alive)
    report = Submitted(api=submitter.api.name)
    report.requeued = preparation.update()
    deferred: dict[str, datetime] = {}  # submission_id → when to try again
    deadline = time.monotonic() + timing.other_run_timeout_seconds

    def left_to_submit() -> list[Submission]:
        left = [s for s in submissions.unsubmitted(database, day, data_folder) if s.id not in deferred]
        return [s for s in left if s.state is State.CLAIMED] if only_begun else left

    left = left_to_submit()
    if any(submission.state in UNSENT for submission in left):
        report.recovered = preparation.search()
        left = left_to_submit() if report.recovered else left
    while left:
        if submitter.stop.is_set():
            raise RunStoppedError
        theirs = [s for s in left if _is_submitted_by_another_run(s, submitter.run_id, preparation.is_run_alive)]
        ours = [s for s in left if s not in theirs]
        for submission, result in zip(ours, _submit_all(submitter, ours), strict=True):
            report.created += result.outcome is SubmissionOutcome.CREATED
            report.adopted += result.outcome is SubmissionOutcome.FOUND
            if result.wait_until is not None:
                deferred[submission.id] = result.wait_until
        if theirs:
            if time.monotonic() > deadline:
                raise _other_run_takes_too_long(theirs[0], timing)
            submitter.stop.wait(timing.other_run_poll_seconds)
        left = left_to_submit()
    report.deferred = len(deferred)
    report.next_attempt_at = min(deferred.values(), default=None)
    report.batch_ids = submissions.awaited_batch_ids(database, day, data_folder)
    return report


def _is_submitted_by_another_run(submission: Submission, run_id: str, is_run_alive: Callable[[str], bool]) -> bool:
    """Whether another run has claimed the submission and may still work on it."""
    owner = submission.owner_run
    return submission.state is State.CLAIMED and owner is not None and owner != run_id and is_run_alive(owner)


def _other_run_takes_too_long(submission: Submission, timing: Timing) -> SubmissionError:
    return SubmissionError(
        f"Another run ({submission.owner_run}) has been submitting requests of {submission.day} for "
        f"{timing.other_run_timeout_seconds:.0f} s. Wait for it or terminate it, then materialize `openai_batch` "
        "again. Nothing was sent twice."
    )


def _submit_all(submitter: Submitter, to_submit: Sequence[Submission]) -> list[FileResult]:
    """Submit these, a few at a time. Returns their results in the same order.

    After a failure, or when the run is terminated, the threads begin no further submission, and finish those that they
    have begun. Raises the first SubmissionError.
    """
    has_failed = threading.Event()

    def submit(submission: Submission) -> FileResult:
        with submitter.places:
            if has_failed.is_set() or submitter.stop.is_set():
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
    if not submission.is_needed and submission.state is not State.CLAIMED:
        withdrawal.withdraw(submitter.database, submission)
        return FileResult()
    _stop_if_begun_by_another_account(submitter, submission)
    try:
        claimed = claims.claim(
            submitter.database,
            submission,
            submitter.run_id,
            submitter.limits,
            submitter.api,
            submitter.timing.capacity_retry,
        )
    except StaleSubmissionError as error:
        raise SubmissionError(str(error), is_final=True) from error
    if claimed.result is ClaimResult.OVER_BUDGET:
        raise SubmissionError(f"{claimed.message} The run sent nothing of {submission.path.name}.", is_final=True)
    if claimed.result is ClaimResult.WITHDRAWN:
        submission.path.unlink(missing_ok=True)
    if claimed.submission is None:
        return FileResult(wait_until=claimed.wait_until)
    was_begun = claimed.result is ClaimResult.TAKEN_OVER
    return FileResult(_submit_claimed(submitter, claimed.submission, was_begun=was_begun))


def _stop_if_begun_by_another_account(submitter: Submitter, submission: Submission) -> None:
    """Raise SubmissionError if an earlier run has begun it with the key of another account.

    Only that account can tell whether the batch exists. If the present account knows the uploaded file, it is the same
    one. Before the upload is in the ledger, no batch can exist. For a day that the user has cancelled, the run searches
    in any account.
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
            f"The account of the present key does not know the uploaded file {submission.file_id}. Set "
            f"OPENAI_API_KEY to a key of that account. If that is impossible, `batch-assets cancel {submission.day}`, "
            "then materialize `openai_batch` and `batch_request_file`: the run buys the requests again.",
            is_final=True,
        ) from error
    except openai.OpenAIError as error:
        raise unreachable_error(f"tell whether it has the file of {submission.path.name}", error) from error


def _submit_claimed(submitter: Submitter, submission: Submission, *, was_begun: bool) -> SubmissionOutcome:
    """Find the batch of a claimed submission, or upload the file and create the batch."""
    if was_begun:
        found = find_batch(submitter.client, submission, submitter.warehouse_id, submitter.timing)
        if found is not None:
            _record_batch(submitter, submission, found)
            return SubmissionOutcome.FOUND
        if submission.is_cancelled:
            withdrawal.withdraw(submitter.database, submission, because=CANCELLED_BY_USER)
            return SubmissionOutcome.NOTHING
        if not submission.is_needed:  # the prompt or the article has changed, and no batch exists
            withdrawal.withdraw(submitter.database, submission)
            return SubmissionOutcome.NOTHING
    if submission.file_id is None:
        submission = upload(submitter, submission, may_exist=was_begun, no_batch_can_exist=not was_begun)
    batch, outcome = create(submitter, submission, was_begun=was_begun)
    _record_batch(submitter, submission, batch)
    return outcome


def _record_batch(submitter: Submitter, submission: Submission, batch: RemoteBatch) -> None:
    """Enter the batch into the ledger. Cancel it if another run has created one too, or withdrawn the submission.

    This happens if Dagster reports a run as ended during its POST. OpenAI bills what such a batch has done, so it is
    adopted. Raises SubmissionError, unless the submission has this batch.
    """
    if transitions.submit(submitter.database, submission, batch):
        return
    owner = owners.owner_of(submitter.database, submission)
    if owner.batch_id == batch.id:
        return  # another run has found it in the list and entered it
    if owner.batch_id is not None or owner.state is State.WITHDRAWN:
        logger.warning("The run cancels %s: its requests were withdrawn, or are also in %s.", batch.id, owner)
        with suppress(openai.OpenAIError):  # it has ended, or the API does not answer
            submitter.client.with_options(max_retries=0).batches.cancel(batch.id)
        with suppress(openai.OpenAIError, AdoptionError):  # the next search for unknown batches finds it
            enter_batch(
                submitter.database, submitter.client, submitter.api, batch, submitter.data_folder, submitter.timing
            )
    raise taken_over_error(submission)
