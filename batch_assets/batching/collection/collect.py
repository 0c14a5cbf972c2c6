"""Ended batches into tables, and a day's tables into `summaries`.

Order matters: result files are stored byte for byte before anything is parsed, so what was paid for is on
our disk whatever the parser thinks of it.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import duckdb
import openai

from batch_assets.batching.collection.day_summaries import write_summaries
from batch_assets.batching.collection.load import EndedBatch, Loaded, in_groups, load_results
from batch_assets.batching.collection.stored_results import (
    ended_batch,
    is_stored,
    result_files,
    stored_of_day,
)
from batch_assets.batching.ledger import batch_transitions, submissions
from batch_assets.batching.ledger.batch_transitions import is_collectable, must_requeue
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.requests import Question
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
from batch_assets.batching.provider.elsewhere import is_elsewhere, said_of_elsewhere
from batch_assets.batching.provider.identity import ApiIdentity, identify
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.safety.clean_errors import logger_without_secrets
from batch_assets.batching.safety.outside_text import as_message

LOST_AFTER = timedelta(hours=25)
BATCHES_AT_ONCE = 4

logger = logger_without_secrets(__name__)


class CollectionError(Exception):
    """Results could not be had now; the message says which and why."""


@dataclass
class Collected:
    """What `collect_day` found.

    `still_running`, `requeued` (the API had no room for it; it goes out again) and `missing` (the API does not know it
    with this key) are batch ids; `elsewhere` says of batches that another API made that they wait for it. The counts
    are of the day's distinct requests.
    """

    batches: dict[str, Loaded] = field(default_factory=dict)
    still_running: list[str] = field(default_factory=list)
    requeued: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)


def collect_day(
    database: Database,
    client: openai.OpenAI,
    *,
    day: str,
    data_folder: Path,
    max_rounds: int,
    max_output_tokens: int = 0,
    own_prices: tuple[ModelPrice, ...] = (),
) -> Collected:
    """Store and load the results of every ended batch that the day waits for, then write its `summaries`.

    May be run at any time and any number of times: a batch is loaded once. Raises CollectionError where a batch or a
    file cannot be had now, or the API does not answer; what was loaded until then stays loaded.
    """
    report = Collected()
    # What is stored here needs nothing of the API, which may not answer, be another one, or have forgotten the batch.
    stored = stored_of_day(database, day, data_folder)
    failures = _load_all(database, stored, data_folder, report, own_prices)
    try:
        api = identify(client, database.warehouse_id())
    except openai.OpenAIError as error:
        raise (failures or [_does_not_answer(error)])[0] from error
    failures += _store_what_ended(database, client, api, day, data_folder, report)
    tried = {submission.id for submission in stored}
    fresh = [submission for submission in stored_of_day(database, day, data_folder) if submission.id not in tried]
    failures += _load_all(database, fresh, data_folder, report, own_prices)
    for failure in failures:
        raise failure
    report.requests = write_summaries(database, day, Question(api.name, max_output_tokens, max_rounds))
    return report


def _store_what_ended(
    database: Database, client: openai.OpenAI, api: ApiIdentity, day: str, data_folder: Path, report: Collected
) -> list[CollectionError]:
    """Ask the API for the day's other batches, store the results of those that have ended, and note what became of all.

    Returns what could not be had.
    """
    failures: list[CollectionError] = []
    with ThreadPoolExecutor(BATCHES_AT_ONCE, "results") as threads:
        asked = []
        for submission in submissions.uncollected(database, day, data_folder):
            if is_stored(submission, data_folder):
                continue
            if is_elsewhere(submission.api, api):
                report.elsewhere.append(_elsewhere(submission, api))
            else:
                asked.append((submission, threads.submit(_fetch, client, submission, data_folder)))
        for submission, answer in asked:
            try:
                batch, files = answer.result()
            except openai.OpenAIError as error:  # one that can't be had now must not hold up the others
                failures.append(_download_error(submission, error, data_folder))
                continue
            if submission.state is State.ENDED and batch.status == MISSING:
                failures.append(_gone(submission, data_folder))
                continue
            # an earlier version did not record the API: it is the one that knows the batch
            _note(database, client, replace(submission, api=submission.api or api.name), batch, files, report)
    return failures


def _note(
    database: Database,
    client: openai.OpenAI,
    submission: Submission,
    batch: RemoteBatch,
    files: dict[str, Path] | None,
    report: Collected,
) -> None:
    """Enter what became of the batch into the ledger, and into the report if there is nothing to load of it."""
    if submission.state is State.MISSING and batch.status != MISSING:
        batch_transitions.find(database, submission)
        submission = replace(submission, state=State.SUBMITTED)
    if files is not None:
        # relative to the data folder, which may be moved or mounted elsewhere
        stored = {kind: f"{RESULTS_FOLDER}/{path.name}" for kind, path in files.items()}
        batch_transitions.end(database, submission, batch, stored)
    elif must_requeue(batch):
        if batch_transitions.requeue(database, submission, batch):
            report.requeued.append(batch.id)
    elif batch.status == MISSING:
        _look_for_missing(database, client, submission, report)
    else:
        batch_transitions.record_progress(database, submission, batch)
        report.still_running.append(batch.id)


def _elsewhere(submission: Submission, api: ApiIdentity) -> str:
    return said_of_elsewhere(
        f"{submission.batch_id} of {submission.day} was made",
        submission.api,
        api,
        what_then="It is collected when OPENAI_BASE_URL and OPENAI_API_KEY lead there again.",
    )


def _fetch(
    client: openai.OpenAI, submission: Submission, data_folder: Path
) -> tuple[RemoteBatch, dict[str, Path] | None]:
    """The batch as it is now and, if it has ended, its result files as they are stored. Raises openai.OpenAIError."""
    batch = retrieve_batch(client, submission.batch_id or "")
    if must_requeue(batch) or not batch.has_ended or batch.status == MISSING or _is_late(submission, batch):
        return batch, None
    return batch, store_results(client, submission, batch, data_folder)


def _look_for_missing(database: Database, client: openai.OpenAI, submission: Submission, report: Collected) -> None:
    """A batch that the API does not know: of another account, or lost.

    It counts as lost only if an earlier run has missed it already, for longer than a batch may take, and the account
    that made it shows other batches of ours. Otherwise the key is perhaps another account's, and nothing is bought
    again.
    """
    batch_id = submission.batch_id or ""
    message = (
        f"{batch_id} of {submission.day} is not found with the present key. Which organization and project does "
        "OPENAI_API_KEY belong to? The batch was made by another one, or the API has lost it. Nothing of it is sent "
        "again meanwhile."
    )
    if submission.state is State.SUBMITTED:
        batch_transitions.miss(database, submission, message)
    elif _is_lost(database, client, submission) and batch_transitions.lose(
        database, submission, f"{batch_id} is gone: its account shows other batches, not this."
    ):
        logger.warning(
            "%s of %s is lost: its account shows other batches. It is asked again.", batch_id, submission.day
        )
        return
    logger.warning(message)
    report.missing.append(batch_id)


def _is_lost(database: Database, client: openai.OpenAI, submission: Submission) -> bool:
    since = submission.missing_since
    if since is None or now_utc() - since <= LOST_AFTER:
        return False
    others = submissions.batches_of_account(database, submission)
    if not others:
        return False
    try:
        shown = {batch.id for batch in list_batches(client, since=None)}
    except openai.OpenAIError as error:  # nothing follows from a list that was not read to its end
        logger.warning("The batches could not be listed: %s", error_message(error))
        return False
    return submission.batch_id not in shown and not shown.isdisjoint(others)


def _does_not_answer(error: openai.OpenAIError) -> CollectionError:
    return CollectionError(
        f"The API does not answer: {error_message(error)}. It keeps the results for 30 days. Materialize `summaries` "
        "again."
    )


def _download_error(submission: Submission, error: openai.OpenAIError, data_folder: Path) -> CollectionError:
    if submission.state is State.ENDED and isinstance(error, openai.NotFoundError):
        failure = _gone(submission, data_folder)
    else:
        failure = CollectionError(
            f"The results of {submission.batch_id} could not be had: {error_message(error)}. What was loaded stays "
            "loaded, and nothing is lost at OpenAI for 30 days; materialize `summaries` again."
        )
    failure.__cause__ = error
    return failure


def _gone(submission: Submission, data_folder: Path) -> CollectionError:
    """Of a batch that has ended: its results were here, and are neither here nor at the API."""
    missing = [str(path) for path in result_files(submission, data_folder) if not path.exists()]
    return CollectionError(
        f"{submission.batch_id} of {submission.day} has ended, but its result file {' and '.join(missing)} is gone, "
        "and is not found at the API with the present key. Put the file back, from a backup of the data folder, or "
        "set the OPENAI_API_KEY that made the batch; then materialize `summaries` again."
    )


def _is_late(submission: Submission, batch: RemoteBatch) -> bool:
    """Whether a batch with answers names no file of them yet: it is asked again until its 24 hours are over."""
    if batch.status not in ENDED or not batch.completed or batch.output_file_id:
        return False
    ended_at = batch.ended_at or submission.ended_at
    return ended_at is None or now_utc() - ended_at < LOST_AFTER


def _load_all(
    database: Database,
    stored: Sequence[Submission],
    data_folder: Path,
    report: Collected,
    own_prices: tuple[ModelPrice, ...],
) -> list[CollectionError]:
    """Enter these into the tables, as many at once as fit into memory, and return what could not be entered."""
    groups = in_groups([ended_batch(submission, data_folder) for submission in stored])
    return [failure for group in groups for failure in _load(database, group, report, own_prices)]


def _load(
    database: Database, ended: list[EndedBatch], report: Collected, own_prices: tuple[ModelPrice, ...]
) -> list[CollectionError]:
    """Enter these batches into the tables, and return what could not be entered.

    In one transaction: the database writes big ones straight to its file, and packs nothing twice. Only where that
    fails, one by one, so that the others get in.
    """
    try:
        _load_together(database, ended, report, own_prices)
    except (duckdb.Error, OSError) as error:
        if len(ended) == 1:
            return [_not_loaded(ended[0], error)]
        return [failure for batch in ended for failure in _load(database, [batch], report, own_prices)]
    return []


def _not_loaded(batch: EndedBatch, error: Exception) -> CollectionError:
    files = " and ".join(str(path) for path in batch.files) or "it has no files"
    failure = CollectionError(
        f"The results of {batch.batch_id} ({files}) could not be entered into the tables: "
        f"{as_message(str(error))}. They are stored; "
        "fix what it says and materialize `summaries` again."
    )
    failure.__cause__ = error
    return failure


def _load_together(
    database: Database, ended: list[EndedBatch], report: Collected, own_prices: tuple[ModelPrice, ...]
) -> None:
    """Enter these batches, or none of them; but for those that another run has entered meanwhile."""
    with database.writing() as connection, transaction(connection):
        due: list[EndedBatch] = []
        for batch in ended:
            is_cancelled = is_collectable(connection, batch.submission_id, batch.batch_id)
            if is_cancelled is not None:
                due.append(replace(batch, cancelled_by_user=is_cancelled))
        loaded = load_results(connection, due, own_prices) if due else {}
    report.batches |= loaded
