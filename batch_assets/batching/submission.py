"""Request files into batches, exactly once.

A submission costs money, and an answer may get lost after OpenAI has taken it. So each is written down before
anything leaves (the *intent*, in the ledger), bears its key in the batch's metadata, and is looked for before a
second try. Whoever dies in the middle is followed by somebody who looks first.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import openai

from batch_assets.batching import ledger
from batch_assets.batching.database import Database
from batch_assets.batching.ledger import Limits, Submission
from batch_assets.batching.remote import RemoteBatch, list_batches, now_utc, read_batch, retrieve_batch, words_of

KEY, ATTEMPT = "submission_key", "attempt"  # in a batch's metadata
TRIES = 3
SHARDS_AT_ONCE = 4
# A list may lag behind a create whose answer was lost: the pauses before each look.
LOOK_AFTER_SECONDS = (0.0, 1.0, 4.0)
# A file that was just uploaded may not be found at once: the pauses before each further try with it.
FILE_NOT_FOUND_SECONDS = (1.0, 2.0, 4.0)
RATE_LIMIT_SECONDS = 5.0  # doubles with each try
UPLOAD_PAUSE_SECONDS = 1.0  # after an upload that got lost
CLOCK_SKEW = timedelta(minutes=10)  # between OpenAI's clock and ours, when looking back through a list
CREATE_TIMEOUT_SECONDS = 60.0
UPLOAD_TIMEOUT_SECONDS = 600.0
LEFT_TO_OTHERS_SECONDS = 600.0  # how long to wait for another live run that submits what we need too
WAIT_FOR_OTHERS_SECONDS = 1.0

logger = logging.getLogger(__name__)


class SubmissionError(Exception):
    """A shard could not be submitted now; the message says why. Running again goes on from there.

    `is_final`: OpenAI refused it for good, so the same again will be refused again.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


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

    After a failure nothing more is begun, and what is under way goes on to its end. Raises the first SubmissionError.
    """
    failed = threading.Event()

    def submit(submission: Submission) -> bool | None:
        """Whether a batch was made, rather than found; None if neither."""
        if failed.is_set():
            return None
        if not submission.is_wanted and submission.intended_at is None:
            ledger.withdraw(database, submission)
            return None
        claimed = ledger.claim(database, submission, run_id, limits)
        if claimed.wait_until is not None:
            waits[submission.key] = claimed.wait_until
        try:
            return _submit(database, client, claimed.submission) if claimed.submission else None
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(SHARDS_AT_ONCE, "shards") as threads:
        results = [threads.submit(submit, submission) for submission in submissions]
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
        raise _unreachable("tell how far the batches are", error) from error
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
        found = find_batch(client, submission, since=submission.intended_at, looks=LOOK_AFTER_SECONDS)
        if found is not None:
            _keep(database, client, submission, found)
            return False
        if not submission.is_wanted:  # its prompt or text has changed since, and nothing was made of it
            ledger.withdraw(database, submission)
            return None
    if submission.file_id is None:
        submission = _upload(database, client, submission)
    if not ledger.is_ours(database, submission):
        raise _taken_over(submission)
    batch, was_found = _create(database, client, submission)
    _keep(database, client, submission, batch)
    return not was_found


def _keep(database: Database, client: openai.OpenAI, submission: Submission, batch: RemoteBatch) -> None:
    """Enter the batch into the ledger. If another run has taken over meanwhile, and made one too, ours is cancelled.

    That takes a run that Dagster gave up although it was alive, in the middle of a POST.
    """
    if ledger.record_batch(database, submission, batch):
        return
    known = ledger.batch_of(database, submission.key)
    if known not in (None, batch.id):
        logger.warning("%s is cancelled: another run had made %s of the same requests.", batch.id, known)
        with suppress(openai.OpenAIError):  # it has ended already, or can't be reached: nothing can be saved then
            client.with_options(max_retries=0).batches.cancel(batch.id)
    raise _taken_over(submission)


def _taken_over(submission: Submission) -> SubmissionError:
    return SubmissionError(
        f"Another run has taken over {submission.path.name} of {submission.day}, since Dagster took this one for dead."
    )


def _upload(database: Database, client: openai.OpenAI, submission: Submission) -> Submission:
    """Upload the request file, unless an earlier try got through; what that left over is deleted."""
    name = f"{submission.day}-{submission.path.name}"
    if not submission.path.exists():
        ledger.withdraw(database, submission)
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
        except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
            if attempt + 1 == TRIES:
                raise _unreachable(f"take the file of {submission.path.name}", error) from error
            time.sleep(
                RATE_LIMIT_SECONDS * 2**attempt if isinstance(error, openai.RateLimitError) else UPLOAD_PAUSE_SECONDS
            )
        except openai.OpenAIError as error:
            raise _refused("take the file", submission, error) from error
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


def _create(database: Database, client: openai.OpenAI, submission: Submission) -> tuple[RemoteBatch, bool]:
    """The batch, and whether it was found rather than made. One POST at a time: the SDK must not repeat it."""
    once = client.with_options(max_retries=0, timeout=CREATE_TIMEOUT_SECONDS)
    since = submission.intended_at or now_utc()
    metadata = {KEY: submission.key, ATTEMPT: str(submission.attempt), "partition": submission.day}
    lost, not_found = 0, 0
    while True:
        try:
            batch = once.batches.create(
                input_file_id=submission.file_id or "",
                endpoint=submission.endpoint,  # type: ignore[arg-type]  # one of the SDK's literals
                completion_window="24h",  # the only one there is
                metadata=metadata or openai.omit,
            )
        except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
            # It may have been made all the same: the answer is lost, not necessarily the batch.
            logger.warning("No answer to the creation of a batch (%s); looking for it.", words_of(error))
            if isinstance(error, openai.RateLimitError):
                time.sleep(RATE_LIMIT_SECONDS * 2**lost)
            found = find_batch(client, submission, since=since, looks=LOOK_AFTER_SECONDS)
            if found is not None:
                return found, True
            lost += 1
            if lost == TRIES:
                raise _unreachable(f"create a batch for {submission.path.name}", error) from error
        except openai.APIStatusError as error:
            if metadata and _is_about(error, "metadata"):
                metadata = {}
                logger.warning("This API takes no metadata: after a lost answer, a batch is known by its file alone.")
            elif _is_about(error, "file") and not_found < len(FILE_NOT_FOUND_SECONDS):
                time.sleep(FILE_NOT_FOUND_SECONDS[not_found])
                not_found += 1
            elif _is_about(error, "file") and not_found == len(FILE_NOT_FOUND_SECONDS):
                not_found += 1
                # as if for the first time: the file that isn't found must not be taken for the new one
                lost_file = ledger.record_upload(database, submission, None)
                submission = _upload(database, client, replace(lost_file, intended_at=None))
            else:
                ledger.record_refusal(database, submission, words_of(error), nothing_sent=lost == 0)
                raise _refused("create a batch", submission, error) from error
        else:
            return read_batch(batch), False


def _is_about(error: openai.APIStatusError, what: str) -> bool:
    said = f"{error.param or ''} {words_of(error)}".lower()
    if what == "file":
        return "cannot find file" in said or (error.status_code == 404 and "file" in said)
    return error.status_code in (400, 422) and what in said


def find_batch(
    client: openai.OpenAI, submission: Submission, *, since: datetime, looks: tuple[float, ...] = (0.0,)
) -> RemoteBatch | None:
    """The batch of this attempt, among those made after `since`: by its key, or by its file if that's all there is.

    Looks once for each entry of `looks`, after a pause of so many seconds. Raises SubmissionError if the list cannot
    be had: then nobody knows whether the batch exists, and it must not be made again.
    """
    for pause in looks:
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


def _unreachable(what: str, error: openai.OpenAIError) -> SubmissionError:
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
