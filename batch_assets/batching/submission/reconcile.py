"""Before a run submits: the ledger is brought up to date with what is at the API.

A batch that failed as a whole goes out again. A batch of this database that the ledger does not know, since the ledger
was restored from a backup, is taken in, so that nothing of it is bought again.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import openai

from batch_assets.batching.ledger import batch_transitions, submissions, transitions
from batch_assets.batching.ledger.batch_transitions import must_requeue
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.states import UNSENT, State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import (
    MISSING,
    RemoteBatch,
    error_message,
    list_batches,
    retrieve_batch,
)
from batch_assets.batching.provider.elsewhere import is_elsewhere
from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.batching.submission.adoption import AdoptionError, enter_batch
from batch_assets.batching.submission.create import CLOCK_SKEW, SUBMISSION, WAREHOUSE, unreachable

RESULTS_ARE_KEPT = timedelta(days=30)  # https://developers.openai.com/api/docs/guides/batch: how long OpenAI keeps them
HAS_NO_LIST = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)

logger = logging.getLogger(__name__)


def refresh(database: Database, client: openai.OpenAI, api: ApiIdentity, data_folder: Path) -> int:
    """Bring the ledger up to date on what is in flight at this API; returns how many submissions were requeued.

    A batch that OpenAI failed as a whole, since its limits were used up, goes back, and its tokens are free again.
    """
    in_flight = {
        submission.batch_id: submission
        for submission in submissions.in_flight(database, data_folder)
        if submission.batch_id and not is_elsewhere(submission.api, api)
    }
    if not in_flight:
        return 0
    since = min((s.claimed_at for s in in_flight.values() if s.claimed_at), default=api.now()) - CLOCK_SKEW
    found = {batch.id: batch for batch in _until_all(in_flight.keys(), _listed(client, since))}
    requeued = 0
    for batch_id, submission in in_flight.items():
        try:
            batch = found.get(batch_id) or retrieve_batch(client, batch_id)
        except openai.OpenAIError as error:  # one that can't be had now takes up its room, and holds up no other day
            logger.warning("%s of %s could not be had: %s", batch_id, submission.day, error_message(error))
            continue
        requeued += _record(database, submission, batch)
    return requeued


def _record(database: Database, submission: Submission, batch: RemoteBatch) -> bool:
    """Note what the API says of a batch in flight; whether its submission goes out again."""
    if submission.state is State.MISSING and batch.status != MISSING:
        batch_transitions.find(database, submission)
    if must_requeue(batch):
        return batch_transitions.requeue(database, submission, batch)
    if batch.status != MISSING:
        batch_transitions.record_progress(database, submission, batch)
    elif submission.state is State.SUBMITTED:
        batch_transitions.miss(database, submission, f"{batch.id} is not found with the present key.")
    return False


def _listed(client: openai.OpenAI, since: datetime) -> Iterator[RemoteBatch]:
    """The batches since then, page by page as they are asked for; none where the API has no list.

    Raises SubmissionError if the list can't be had now.
    """
    try:
        yield from list_batches(client, since=since)
    except openai.APIStatusError as error:
        if error.status_code not in HAS_NO_LIST:
            raise unreachable("list the batches", error) from error
        logger.warning("This API has no list of batches: %s", error_message(error))
    except openai.OpenAIError as error:
        raise unreachable("list the batches", error) from error


def _until_all(wanted: Iterable[str], batches: Iterable[RemoteBatch]) -> Iterator[RemoteBatch]:
    missing = set(wanted)
    for batch in batches:
        yield batch
        missing.discard(batch.id)
        if not missing:
            return


def search_for_unknown_batches(
    database: Database,
    client: openai.OpenAI,
    api: ApiIdentity,
    warehouse_id: str,
    data_folder: Path,
    is_run_alive: Callable[[str], bool],
) -> int:
    """Take in the batches of this database that the ledger does not know; returns how many there were.

    The list of the last 30 days is read once, before the first batch of a run is created. Also taken in is a second
    batch of a submission, made after a lost answer while the list lagged: what it has done is billed. What a live run
    submits just now is left to it. Raises SubmissionError where the list or a batch can't be had now.
    """
    known = submissions.known_batches(database)
    given_up = {submission.batch_id: submission for submission in submissions.given_up(database, data_folder)}
    recovered = 0
    for batch in list(_listed(client, api.now() - RESULTS_ARE_KEPT)):  # all of it is read before the first is taken in
        if batch.id in given_up and not is_elsewhere(given_up[batch.id].api, api):
            recovered += _see_again(database, given_up[batch.id], data_folder)
        elif batch.metadata.get(WAREHOUSE) == warehouse_id and batch.id not in known and _may_have_results(batch):
            recovered += _recover(database, client, api, batch, data_folder, is_run_alive)
    return recovered


def _may_have_results(batch: RemoteBatch) -> bool:
    if must_requeue(batch):
        return False
    return not batch.has_ended or batch.output_file_id is not None or batch.error_file_id is not None


def _see_again(database: Database, submission: Submission, data_folder: Path) -> bool:
    logger.warning("%s of %s was given up, and is there again: it is collected.", submission.batch_id, submission.day)
    withdrawn = batch_transitions.see_again(database, submission)
    for path in withdrawn or ():
        (data_folder / path).unlink(missing_ok=True)
    return withdrawn is not None


def _recover(
    database: Database,
    client: openai.OpenAI,
    api: ApiIdentity,
    batch: RemoteBatch,
    data_folder: Path,
    is_run_alive: Callable[[str], bool],
) -> bool:
    submission = submissions.by_id(database, batch.metadata.get(SUBMISSION, ""), data_folder)
    if submission is not None and submission.state is State.CLAIMED:
        if submission.owner_run is not None and is_run_alive(submission.owner_run):
            return False  # that run enters it
        return transitions.submit(database, submission, batch)
    logger.warning("%s was made from this database, and the ledger does not know it: it is taken in.", batch.id)
    if submission is not None and submission.state in UNSENT:
        return transitions.recover(database, submission, batch, api)
    try:
        enter_batch(database, client, api, batch, data_folder)
    except AdoptionError as error:
        logger.warning("%s could not be taken in: %s", batch.id, error)
        return False
    except openai.OpenAIError as error:  # nothing may be bought before it is known what this batch has
        raise unreachable(f"give the request file of {batch.id}", error) from error
    return True
