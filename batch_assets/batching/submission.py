"""Request files into batches, exactly once.

A submission costs money, and an answer may get lost after OpenAI has taken it. So each is written down before
anything leaves (the *intent*, in the ledger), bears its key in the batch's metadata, and is looked for before a
second try. Whoever dies in the middle is followed by somebody who looks first.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import openai

from batch_assets.batching import ledger
from batch_assets.batching.clean_errors import logger_without_secrets
from batch_assets.batching.creation import (
    CLOCK_SKEW,
    SubmissionError,
    create,
    find_batch,
    taken_over,
    unreachable,
    upload,
)
from batch_assets.batching.database import Database
from batch_assets.batching.ledger import Limits, Submission
from batch_assets.batching.remote import RemoteBatch, list_batches, now_utc, retrieve_batch
from batch_assets.batching.results import CANCELLED_BY_USER

SHARDS_AT_ONCE = 4
LEFT_TO_OTHERS_SECONDS = 600.0  # how long to wait for another live run that submits what we need too
WAIT_FOR_OTHERS_SECONDS = 1.0

logger = logger_without_secrets(__name__)


@dataclass
class Submitted:
    """What `submit_day` did.

    `batch_ids` are all batches that hold requests the day still waits for. `waiting` shards found no room in a limit;
    `look_again_at` (UTC, without zone) is when to try at the latest.
    """

    batch_ids: list[str] = field(default_factory=list)
    created: int = 0
    adopted: int = 0
    put_back: int = 0
    waiting: int = 0
    look_again_at: datetime | None = None


def submit_day(
    database: Database,
    client: openai.OpenAI,
    *,
    day: str,
    data_folder: Path,
    run_id: str,
    is_run_alive: Callable[[str], bool],
    limits: Limits | None = None,
) -> Submitted:
    """Make sure that every shard with a request that the day waits for is a batch at OpenAI, once.

    `is_run_alive` tells whether the run of an earlier intent may still be at work on it; if so, it is left alone and
    waited for. What finds no room in `limits` is left waiting. Raises SubmissionError; what was submitted until then
    is in the ledger.
    """
    report, limits = Submitted(), limits or Limits()
    report.put_back = refresh(database, client, data_folder)
    deadline = time.monotonic() + LEFT_TO_OTHERS_SECONDS
    waits: dict[str, datetime] = {}
    while left := [s for s in ledger.unsubmitted(database, day, data_folder) if s.key not in waits]:
        theirs = [s for s in left if s.run_id and s.intended_at and s.run_id != run_id and is_run_alive(s.run_id)]
        _submit_all(database, client, [s for s in left if s not in theirs], run_id, limits, report, waits)
        if theirs:
            if time.monotonic() > deadline:
                raise SubmissionError(
                    f"Another run ({theirs[0].run_id}) has been submitting requests of {day} for "
                    f"{LEFT_TO_OTHERS_SECONDS:.0f} s. Wait for it or terminate it, then materialise "
                    "`openai_batch` again: nothing was sent twice."
                )
            time.sleep(WAIT_FOR_OTHERS_SECONDS)
    report.waiting = len(waits)
    report.look_again_at = min(waits.values(), default=None)
    report.batch_ids = ledger.batches_waited_for(database, day, data_folder)
    return report


def _submit_all(
    database: Database,
    client: openai.OpenAI,
    submissions: Sequence[Submission],
    run_id: str,
    limits: Limits,
    report: Submitted,
    waits: dict[str, datetime],
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
        if not submission.is_wanted and submission.intended_at is None:
            ledger.withdraw(database, submission)
            return None
        try:
            claimed = ledger.claim(database, submission, run_id, limits)
            if claimed.wait_until is not None:
                waits[submission.key] = claimed.wait_until
            return _submit(database, client, claimed.submission) if claimed.submission else None
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(SHARDS_AT_ONCE, "shards") as threads:
        try:
            results = [threads.submit(submit, submission) for submission in submissions]
            wait(results)
        except BaseException:
            failed.set()
            raise
    for result in results:
        was_made = result.result()
        report.created += was_made is True
        report.adopted += was_made is False


def refresh(database: Database, client: openai.OpenAI, data_folder: Path) -> int:
    """Bring the ledger up to date on what is in flight; returns how many submissions were put back to waiting.

    A batch that OpenAI failed as a whole, since its limits were used up, goes back, and its tokens are free again.
    """
    flying = {s.batch_id: s for s in ledger.in_flight(database, data_folder) if s.batch_id}
    if not flying:
        return 0
    since = min((s.intended_at for s in flying.values() if s.intended_at), default=now_utc()) - CLOCK_SKEW
    put_back = 0
    try:
        found = {batch.id: batch for batch in _until_all(flying.keys(), list_batches(client, since=since))}
        for batch_id, submission in flying.items():
            batch = found.get(batch_id) or retrieve_batch(client, batch_id)
            if ledger.must_go_back(batch):
                put_back += ledger.put_back(database, submission, batch)
            elif batch.has_ended:
                ledger.record_state(database, submission, batch)
    except openai.OpenAIError as error:
        raise unreachable("tell how far the batches are", error) from error
    return put_back


def _until_all(wanted: Iterable[str], batches: Iterable[RemoteBatch]) -> Iterator[RemoteBatch]:
    missing = set(wanted)
    for batch in batches:
        yield batch
        missing.discard(batch.id)
        if not missing:
            return


def _submit(database: Database, client: openai.OpenAI, submission: Submission) -> bool | None:
    """Take a claimed submission the rest of its way: whether its batch was made, rather than found; None: withdrawn."""
    if submission.intended_at is not None:  # somebody was here before us, and may have got through
        found = find_batch(client, submission, since=submission.intended_at)
        if found is not None:
            _keep(database, client, submission, found)
            return False
        if submission.is_cancelled:
            ledger.withdraw(database, submission, because=CANCELLED_BY_USER, is_claimed=True)
            return None
        if not submission.is_wanted:  # its prompt or text has changed since, and nothing was made of it
            ledger.withdraw(database, submission, is_claimed=True)
            return None
    if submission.file_id is None:
        submission = upload(database, client, submission)
    batch, was_found = create(database, client, submission)
    _keep(database, client, submission, batch)
    return not was_found


def _keep(database: Database, client: openai.OpenAI, submission: Submission, batch: RemoteBatch) -> None:
    """Enter the batch into the ledger; cancel it if another run has made one too, or the submission is withdrawn.

    That takes a run that Dagster gave up although it was alive, in the middle of a POST.
    """
    if ledger.record_batch(database, submission, batch):
        return
    owner = ledger.owner_of(database, submission.key)
    if owner is None or owner.batch_id not in (None, batch.id):
        logger.warning("%s is cancelled: its requests were withdrawn, or are in %s as well.", batch.id, owner)
        with suppress(openai.OpenAIError):  # it has ended already, or can't be reached: nothing can be saved then
            client.with_options(max_retries=0).batches.cancel(batch.id)
    raise taken_over(submission)
