"""Request files into batches, exactly once.

A submission costs money, and an answer may get lost after OpenAI has taken it. So each is claimed in the ledger before
anything leaves, its batch bears the token of the claim, and a run searches for it before it tries again. A run that
takes over after a crash searches first, too.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import openai

from batch_assets.batching.ledger import claims, submissions, transitions
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.states import UNSENT, State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission
from batch_assets.batching.provider.batches import RemoteBatch
from batch_assets.batching.provider.identity import ApiIdentity, identify
from batch_assets.batching.safety.clean_errors import logger_without_secrets
from batch_assets.batching.submission.adoption import AdoptionError, enter_batch
from batch_assets.batching.submission.create import (
    SubmissionError,
    create,
    find_batch,
    taken_over,
    unreachable,
    upload,
)
from batch_assets.batching.submission.reconcile import refresh, search_for_unknown_batches

SHARDS_AT_ONCE = 4
LEFT_TO_OTHERS_SECONDS = 600.0  # how long to wait for another live run that submits what we need too
WAIT_FOR_OTHERS_SECONDS = 1.0

logger = logger_without_secrets(__name__)


@dataclass
class Submitted:
    """What `submit_day` did.

    `batch_ids` are all batches that hold requests the day still waits for. `deferred` shards found no room in a limit;
    `next_attempt_at` (UTC, without zone) is when to try at the latest. `recovered` batches of this database were at
    the API, and the ledger, restored from a backup perhaps, did not know them. `api` is where all of this is.
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
class Submitter:
    """What a run submits with."""

    database: Database
    client: openai.OpenAI
    data_folder: Path
    run_id: str
    warehouse_id: str
    api: ApiIdentity
    limits: Limits


def identify_api(database: Database, client: openai.OpenAI) -> ApiIdentity:
    """Which API and account would get the batches. Raises SubmissionError where none answers."""
    try:
        return identify(client, database.warehouse_id())
    except openai.OpenAIError as error:
        raise unreachable("answer", error) from error


def submit_day(
    database: Database,
    client: openai.OpenAI,
    *,
    day: str,
    data_folder: Path,
    run_id: str,
    is_run_alive: Callable[[str], bool],
    limits: Limits | None = None,
    api: ApiIdentity | None = None,
    only_begun: bool = False,
) -> Submitted:
    """Make sure that every shard with a request that the day waits for is a batch at OpenAI, once.

    `is_run_alive` tells whether the run of an earlier claim may still be at work on it; if so, it is left alone and
    waited for. What finds no room in `limits` is left waiting. `api` is whom the client talks to; None: it is asked.
    `only_begun`: nothing new goes out; what a run has begun is taken to its end. Raises SubmissionError; what was
    submitted until then is in the ledger.
    """
    warehouse_id = database.warehouse_id()
    api = api or identify_api(database, client)
    submitter = Submitter(database, client, data_folder, run_id, warehouse_id, api, limits or Limits())
    report = Submitted(api=api.name)
    report.requeued = refresh(database, client, api, data_folder)
    deadline = time.monotonic() + LEFT_TO_OTHERS_SECONDS
    waits: dict[str, datetime] = {}

    def left_to_submit() -> list[Submission]:
        found = [s for s in submissions.unsubmitted(database, day, data_folder) if s.id not in waits]
        return [s for s in found if s.state is State.CLAIMED] if only_begun else found

    if any(submission.state in UNSENT for submission in left_to_submit()):
        report.recovered = search_for_unknown_batches(database, client, api, warehouse_id, data_folder, is_run_alive)
    while left := left_to_submit():
        theirs = [s for s in left if _is_at_work(s, run_id, is_run_alive)]
        _submit_all(submitter, [s for s in left if s not in theirs], report, waits)
        if theirs:
            if time.monotonic() > deadline:
                raise SubmissionError(
                    f"Another run ({theirs[0].owner_run}) has been submitting requests of {day} for "
                    f"{LEFT_TO_OTHERS_SECONDS:.0f} s. Wait for it or terminate it, then materialize "
                    "`openai_batch` again: nothing was sent twice."
                )
            time.sleep(WAIT_FOR_OTHERS_SECONDS)
    report.deferred = len(waits)
    report.next_attempt_at = min(waits.values(), default=None)
    report.batch_ids = submissions.batches_waited_for(database, day, data_folder)
    return report


def _is_at_work(submission: Submission, run_id: str, is_run_alive: Callable[[str], bool]) -> bool:
    """Whether another run has claimed it, and may still submit it."""
    owner = submission.owner_run
    return submission.state is State.CLAIMED and owner is not None and owner != run_id and is_run_alive(owner)


def _submit_all(
    submitter: Submitter, to_submit: Sequence[Submission], report: Submitted, waits: dict[str, datetime]
) -> None:
    """Submit some at a time, each on its own way from the claim to the batch. Notes in `waits` what found no room.

    After a failure, or when the run is terminated, nothing more is begun, and what is under way goes on to its end.
    Raises the first SubmissionError.
    """
    failed = threading.Event()

    def submit(submission: Submission) -> bool | None:
        """Whether a batch was made, rather than found; None if neither."""
        if failed.is_set():
            return None
        try:
            return _claim_and_submit(submitter, submission, waits)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(SHARDS_AT_ONCE, "shards") as threads:
        try:
            results = [threads.submit(submit, submission) for submission in to_submit]
            wait(results)
        except BaseException:
            failed.set()
            raise
    for result in results:
        was_made = result.result()
        report.created += was_made is True
        report.adopted += was_made is False


def _claim_and_submit(submitter: Submitter, submission: Submission, waits: dict[str, datetime]) -> bool | None:
    if not submission.is_wanted and submission.state is not State.CLAIMED:
        transitions.withdraw(submitter.database, submission)
        return None
    _stop_if_begun_by_another_account(submitter, submission)
    try:
        claim = claims.claim(submitter.database, submission, submitter.run_id, submitter.limits, submitter.api)
    except StaleSubmissionError as error:
        raise SubmissionError(str(error), is_final=True) from error
    if claim.over_budget is not None:
        raise SubmissionError(f"{claim.over_budget} Nothing of {submission.path.name} was sent.", is_final=True)
    if claim.is_withdrawn:
        submission.path.unlink(missing_ok=True)
    if claim.wait_until is not None:
        waits[submission.id] = claim.wait_until
    return None if claim.submission is None else _submit(submitter, claim.submission, was_begun=claim.was_begun)


def _stop_if_begun_by_another_account(submitter: Submitter, submission: Submission) -> None:
    """Raise SubmissionError if a dead run has begun it with another key, and that key's account is not the present one.

    Only that account can tell whether its batch exists. It is the same one if it knows the uploaded file; before the
    upload is in the ledger, no batch can exist. A day that the user has cancelled is looked for in any account.
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


def _submit(submitter: Submitter, submission: Submission, *, was_begun: bool) -> bool | None:
    """Take a claimed submission the rest of its way: whether its batch was made, rather than found; None: withdrawn."""
    database, client, warehouse_id = submitter.database, submitter.client, submitter.warehouse_id
    if was_begun:
        found = find_batch(client, submission, warehouse_id)
        if found is not None:
            _record(submitter, submission, found)
            return False
        if submission.is_cancelled:
            transitions.withdraw(database, submission, because=transitions.CANCELLED_BY_USER)
            return None
        if not submission.is_wanted:  # its prompt or text has changed since, and nothing was made of it
            transitions.withdraw(database, submission)
            return None
    if submission.file_id is None:
        submission = upload(database, client, submission, warehouse_id, may_exist=was_begun, nothing_sent=not was_begun)
    batch, was_found = create(database, client, submission, warehouse_id, was_begun=was_begun)
    _record(submitter, submission, batch)
    return not was_found


def _record(submitter: Submitter, submission: Submission, batch: RemoteBatch) -> None:
    """Enter the batch into the ledger; cancel it if another run has made one too, or the submission is withdrawn.

    That takes a run that Dagster gave up although it was alive, in the middle of a POST. What such a batch has done
    until then is billed, so it is entered as one that was taken in.
    """
    if transitions.submit(submitter.database, submission, batch):
        return
    owner = submissions.owner_of(submitter.database, submission)
    if owner.batch_id == batch.id:
        return  # another run has seen it in the list, and entered it
    if owner.batch_id is not None or owner.state is State.WITHDRAWN:
        logger.warning("%s is cancelled: its requests were withdrawn, or are in %s as well.", batch.id, owner)
        with suppress(openai.OpenAIError):  # it has ended already, or can't be reached: nothing can be saved then
            submitter.client.with_options(max_retries=0).batches.cancel(batch.id)
        with suppress(openai.OpenAIError, AdoptionError):  # the next search for unknown batches finds it
            enter_batch(submitter.database, submitter.client, submitter.api, batch, submitter.data_folder)
    raise taken_over(submission)
