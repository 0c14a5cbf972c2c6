"""Before a run submits, it brings the ledger up to date with the API.

A batch that failed as a whole is requeued. A batch of this database that the ledger does not know, since the ledger was
restored from a backup, enters the ledger, so that no run buys its requests again.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from http import HTTPStatus

import openai

from batch_assets.batching.ledger import batch_transitions, known_batches, submissions, transitions
from batch_assets.batching.ledger.outcomes import must_requeue
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
from batch_assets.batching.submission.adoption import AdoptionError, enter_batch
from batch_assets.batching.submission.errors import unreachable
from batch_assets.batching.submission.find import CLOCK_SKEW, SUBMISSION, WAREHOUSE
from batch_assets.batching.submission.submitter import Submitter

RESULTS_ARE_KEPT = timedelta(days=30)  # https://developers.openai.com/api/docs/guides/batch: how long OpenAI keeps them
HAS_NO_LIST = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)

logger = logging.getLogger(__name__)


def refresh(submitter: Submitter) -> int:
    """Bring the ledger up to date on what is in flight at this API; returns how many submissions were requeued.

    A batch that OpenAI failed as a whole, since it had no capacity, is requeued: its tokens are no longer enqueued.
    """
    api, client = submitter.api, submitter.client
    in_flight = {
        submission.batch_id: submission
        for submission in submissions.in_flight(submitter.database, submitter.data_folder)
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
        except openai.OpenAIError as error:  # the batch counts as in flight, and the day goes on
            logger.warning("The API did not return %s of %s: %s", batch_id, submission.day, error_message(error))
            continue
        requeued += _record(submitter, submission, batch)
    return requeued


def _record(submitter: Submitter, submission: Submission, batch: RemoteBatch) -> bool:
    """Record what the API says of a batch in flight; returns whether its submission is requeued."""
    database = submitter.database
    if submission.state is State.MISSING and batch.status != MISSING:
        batch_transitions.find(database, submission)
    if must_requeue(batch):
        return batch_transitions.requeue(database, submission, batch, submitter.timing)
    if batch.status != MISSING:
        batch_transitions.record_progress(database, submission, batch)
    elif submission.state is State.SUBMITTED:
        batch_transitions.miss(database, submission, f"The API does not find {batch.id} with the present key.")
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


def search_for_unknown_batches(submitter: Submitter, is_run_alive: Callable[[str], bool]) -> int:
    """Enter the batches of this database that the ledger does not know; returns how many there were.

    The run reads the list of the last 30 days once, before it creates its first batch. A second batch of one
    submission, created after a lost answer while the list lagged, is entered too: what it has done is billed. A batch
    that a live run is submitting is left to that run. Raises SubmissionError if the API does not return the list or a
    batch.
    """
    api, database, data_folder = submitter.api, submitter.database, submitter.data_folder
    known = known_batches.known_batches(database)
    given_up = {submission.batch_id: submission for submission in submissions.given_up(database, data_folder)}
    recovered = 0
    for batch in list(_listed(submitter.client, api.now() - RESULTS_ARE_KEPT)):  # the whole list, then the first entry
        is_ours = batch.metadata.get(WAREHOUSE) == submitter.warehouse_id
        if batch.id in given_up and not is_elsewhere(given_up[batch.id].api, api):
            recovered += _see_again(submitter, given_up[batch.id])
        elif is_ours and batch.id not in known and _may_have_results(batch):
            recovered += _recover(submitter, batch, is_run_alive)
    return recovered


def _may_have_results(batch: RemoteBatch) -> bool:
    if must_requeue(batch):
        return False
    return not batch.has_ended or batch.output_file_id is not None or batch.error_file_id is not None


def _see_again(submitter: Submitter, submission: Submission) -> bool:
    logger.warning(
        "%s of %s was given up, and the API lists it again: it is collected.", submission.batch_id, submission.day
    )
    withdrawn = batch_transitions.see_again(submitter.database, submission)
    for path in withdrawn or ():
        (submitter.data_folder / path).unlink(missing_ok=True)
    return withdrawn is not None


def _recover(submitter: Submitter, batch: RemoteBatch, is_run_alive: Callable[[str], bool]) -> bool:
    database = submitter.database
    submission = submissions.by_id(database, batch.metadata.get(SUBMISSION, ""), submitter.data_folder)
    if submission is not None and submission.state is State.CLAIMED:
        if submission.owner_run is not None and is_run_alive(submission.owner_run):
            return False  # that run enters it
        return transitions.submit(database, submission, batch)
    logger.warning("%s was created from this database, and the ledger does not know it: it is entered.", batch.id)
    if submission is not None and submission.state in UNSENT:
        return transitions.recover(database, submission, batch, submitter.api)
    try:
        enter_batch(database, submitter.client, submitter.api, batch, submitter.data_folder, submitter.timing)
    except AdoptionError as error:
        logger.warning("%s could not be entered: %s", batch.id, error)
        return False
    except openai.OpenAIError as error:  # a run may buy nothing before it knows which requests this batch has
        raise unreachable(f"return the request file of {batch.id}", error) from error
    return True
