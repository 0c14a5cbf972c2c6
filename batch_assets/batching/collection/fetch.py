"""Asks the API for the batches of a day, stores their results on this disk, and records other states in the ledger."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import openai

from batch_assets.batching.collection.late_files import contradiction
from batch_assets.batching.collection.stored_results import is_stored, result_files
from batch_assets.batching.ledger import batch_transitions, known_batches
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.outcomes import must_requeue
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import (
    ENDED,
    MISSING,
    RemoteBatch,
    error_message,
    list_batches,
    now_utc,
    retrieve_batch,
)
from batch_assets.batching.provider.download import RESULTS_FOLDER, store_results
from batch_assets.batching.provider.elsewhere import is_at_other_api, other_api_message
from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.batching.safety.clean_errors import logger_without_secrets
from batch_assets.batching.timing import Timing

BATCHES_AT_ONCE = 4

logger = logger_without_secrets(__name__)


class CollectionError(Exception):
    """The run could not collect results now; the message says which and why."""


@dataclass
class Fetched:
    """The batches of a day that have no results to load.

    `still_running`, `requeued` (the API had no capacity; a run sends the file again) and `missing` (the API does not
    find it with this key) are batch ids. `elsewhere` are sentences about batches at another API. `failures` are errors
    for the batches and files that the API did not return.
    """

    still_running: list[str] = field(default_factory=list)
    requeued: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    failures: list[CollectionError] = field(default_factory=list)


@dataclass(frozen=True)
class Fetcher:
    """What a run needs to fetch."""

    database: Database
    client: openai.OpenAI
    data_folder: Path
    api: ApiIdentity
    timing: Timing


def fetch_day(fetcher: Fetcher, waited_for: Sequence[Submission]) -> Fetched:
    """Store the results of the batches that have ended, and record the state of all of them in the ledger.

    waited_for: the uncollected submissions of the day.
    """
    fetched = Fetched()
    pending: list[tuple[Submission, Future[tuple[RemoteBatch, dict[str, Path] | None]]]] = []
    with ThreadPoolExecutor(BATCHES_AT_ONCE, "results") as threads:
        for submission in waited_for:
            if is_stored(submission, fetcher.data_folder):
                continue
            if is_at_other_api(submission.api, fetcher.api):
                fetched.elsewhere.append(_elsewhere(submission, fetcher.api))
            else:
                pending.append((submission, threads.submit(fetch_batch, fetcher, submission)))
        for submission, answer in pending:
            try:
                batch, files = answer.result()
            except openai.OpenAIError as error:  # an error for one batch must not delay the others
                fetched.failures.append(download_error(submission, error, fetcher.data_folder))
                continue
            if submission.state is State.ENDED and batch.status == MISSING:
                fetched.failures.append(results_are_gone(submission, fetcher.data_folder))
                continue
            # an earlier version did not record the API: the API that finds the batch is the right one
            _record_batch(fetcher, replace(submission, api=submission.api or fetcher.api.name), batch, files, fetched)
    return fetched


def fetch_batch(fetcher: Fetcher, submission: Submission) -> tuple[RemoteBatch, dict[str, Path] | None]:
    """The present state of the batch and, if it has ended, its stored result files. Raises openai.OpenAIError."""
    batch = retrieve_batch(fetcher.client, submission.batch_id or "")
    if must_requeue(batch) or not batch.has_ended or batch.status == MISSING:
        return batch, None
    may_be_late = _may_be_late(submission, batch, fetcher.timing)
    if may_be_late and batch.completed and not batch.output_file_id:
        return batch, None
    files = store_results(fetcher.client, submission, batch, fetcher.data_folder, fetcher.timing)
    reason = contradiction(batch, submission.requests, files) if may_be_late else None
    if reason is None:
        return batch, files
    logger.warning(
        "%s of %s is late: %s. A later run downloads the files again, until %.0f h after the end of the batch.",
        batch.id, submission.day, reason, fetcher.timing.lost_after.total_seconds() / 3600,
    )  # fmt: skip
    for path in files.values():
        path.unlink(missing_ok=True)
    return batch, None


def _may_be_late(submission: Submission, batch: RemoteBatch, timing: Timing) -> bool:
    """Whether the batch ended so recently that its files may be late: later runs ask again."""
    ended_at = batch.ended_at or submission.ended_at
    return batch.status in ENDED and (ended_at is None or now_utc() - ended_at < timing.lost_after)


def _record_batch(
    fetcher: Fetcher, submission: Submission, batch: RemoteBatch, files: dict[str, Path] | None, fetched: Fetched
) -> None:
    """Record the state of the batch in the ledger, and in `fetched` if there is nothing to load."""
    database = fetcher.database
    if submission.state is State.MISSING and batch.status != MISSING:
        batch_transitions.find(database, submission)
        submission = replace(submission, state=State.SUBMITTED)
    if files is not None:
        # relative to the data folder, which the user may move
        stored = {kind: f"{RESULTS_FOLDER}/{path.name}" for kind, path in files.items()}
        batch_transitions.end(database, submission, batch, stored)
    elif must_requeue(batch):
        if batch_transitions.requeue(database, submission, batch, fetcher.timing):
            fetched.requeued.append(batch.id)
    elif batch.status == MISSING:
        _record_missing(fetcher, submission, fetched)
    else:
        batch_transitions.record_progress(database, submission, batch)
        fetched.still_running.append(batch.id)


def _record_missing(fetcher: Fetcher, submission: Submission, fetched: Fetched) -> None:
    """Record a batch that the API does not find: another account made it, or it is lost.

    It counts as lost only if it has been missing for longer than a batch may take, and the account that made it shows
    other batches of this database. Otherwise the key may belong to another account, and no run buys its requests again.
    """
    batch_id = submission.batch_id or ""
    if submission.state is State.MISSING and _is_lost(fetcher, submission):
        message = f"{batch_id} is lost: its account shows other batches, not this one."
        if batch_transitions.lose(fetcher.database, submission, message):
            logger.warning("%s of %s is lost. A run sends its requests again.", batch_id, submission.day)
            return
    message = (
        f"The API does not find {batch_id} of {submission.day} with the present key. Which organization and project "
        "does OPENAI_API_KEY belong to? Another one made the batch, or the API has lost it. Until this is known, no "
        "run sends its requests again."
    )
    if submission.state is State.SUBMITTED:
        batch_transitions.miss(fetcher.database, submission, message)
    logger.warning(message)
    fetched.missing.append(batch_id)


def _is_lost(fetcher: Fetcher, submission: Submission) -> bool:
    since = submission.missing_since
    if since is None or now_utc() - since <= fetcher.timing.lost_after:
        return False
    others = known_batches.batches_of_account(fetcher.database, submission)
    if not others:
        return False
    try:
        listed = {batch.id for batch in list_batches(fetcher.client, since=None)}
    except openai.OpenAIError as error:  # a list that ends with an error proves nothing
        logger.warning("The API did not return its list of batches: %s", error_message(error))
        return False
    return submission.batch_id not in listed and not listed.isdisjoint(others)


def _elsewhere(submission: Submission, api: ApiIdentity) -> str:
    return other_api_message(
        f"{submission.batch_id} of {submission.day} was made",
        submission.api,
        api,
        what_then="A run collects it when OPENAI_BASE_URL and OPENAI_API_KEY are those of that API again.",
    )


def download_error(submission: Submission, error: openai.OpenAIError, data_folder: Path) -> CollectionError:
    """The error for results that the API did not return."""
    if submission.state is State.ENDED and isinstance(error, openai.NotFoundError):
        failure = results_are_gone(submission, data_folder)
    else:
        failure = CollectionError(
            f"The API did not return the results of {submission.batch_id}: {error_message(error)}. What was loaded "
            "stays loaded, and OpenAI keeps the results for 30 days. Materialize `summaries` again."
        )
    failure.__cause__ = error
    return failure


def results_are_gone(submission: Submission, data_folder: Path) -> CollectionError:
    """The error for a batch whose results were on this disk, and are neither here nor at the API now."""
    missing = [str(path) for path in result_files(submission, data_folder).values() if not path.exists()]
    return CollectionError(
        f"{submission.batch_id} of {submission.day} has ended, but its result file {' and '.join(missing)} is gone, "
        "and the API does not find it with the present key. Restore the file from a backup of the data folder, or "
        "set the OPENAI_API_KEY that made the batch. Then materialize `summaries` again."
    )
