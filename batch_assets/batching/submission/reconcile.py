"""Before a run submits, it updates the ledger with the batches that the API lists.

It requeues a batch that failed as a whole. It enters a batch of this database that the ledger does not know, since the
ledger was restored from a backup. So no run buys its requests again.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

import openai

from batch_assets.batching.ledger import abandonment, batch_transitions, known_batches, submissions, transitions
from batch_assets.batching.ledger.outcomes import must_requeue
from batch_assets.batching.ledger.states import UNSENT, State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import (
    MISSING,
    NO_LIST_STATUSES,
    RemoteBatch,
    error_message,
    list_batches,
    retrieve_batch,
)
from batch_assets.batching.provider.elsewhere import is_at_other_api
from batch_assets.batching.submission.adoption import AdoptionError, enter_batch
from batch_assets.batching.submission.errors import unreachable_error
from batch_assets.batching.submission.find import CLOCK_SKEW, SUBMISSION_ID_KEY, WAREHOUSE_ID_KEY
from batch_assets.batching.submission.submitter import Submitter

RESULTS_ARE_KEPT = timedelta(days=30)  # https://developers.openai.com/api/docs/guides/batch: how long OpenAI keeps them

logger = logging.getLogger(__name__)


def update_in_flight(submitter: Submitter) -> int:
    """Update the ledger on the batches in flight at this API; returns how many submissions were requeued.

    A batch that OpenAI failed as a whole, since it had no capacity, is requeued: its tokens are no longer enqueued.
    """
    api, client = submitter.api, submitter.client
    in_flight = {
        submission.batch_id: submission
        for submission in submissions.in_flight(submitter.database, submitter.data_folder)
        if submission.batch_id and not is_at_other_api(submission.api, api)
    }
    if not in_flight:
        return 0
    since = min((s.claimed_at for s in in_flight.values() if s.claimed_at), default=api.now()) - CLOCK_SKEW
    found = {batch.id: batch for batch in _until_all(in_flight.keys(), _listed(client, since))}
    requeued = 0
    for batch_id, submission in in_flight.items():
        try:
            batch = found.get(batch_id) or retrieve_batch(client, batch_id)
        except openai.OpenAIError as error:  # the batch stays in flight, and the run continues
            logger.warning("The API did not return %s of %s: %s", batch_id, submission.day, error_message(error))
            continue
        requeued += _record_status(submitter, submission, batch)
    return requeued


def _record_status(submitter: Submitter, submission: Submission, batch: RemoteBatch) -> bool:
    """Record what the API says about a batch in flight; returns whether its submission is requeued."""
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
    """The batches since then, page by page as the caller reads them; none if the API has no list.

    Raises SubmissionError if the API does not return the list now.
    """
    try:
        yield from list_batches(client, since=since)
    except openai.APIStatusError as error:
        if error.status_code not in NO_LIST_STATUSES:
            raise unreachable_error("list the batches", error) from error
        logger.warning("This API has no list of batches: %s", error_message(error))
    except openai.OpenAIError as error:
        raise unreachable_error("list the batches", error) from error


def _until_all(wanted: Iterable[str], batches: Iterable[RemoteBatch]) -> Iterator[RemoteBatch]:
    missing = set(wanted)
    for batch in batches:
        yield batch
        missing.discard(batch.id)
        if not missing:
            return


def search_for_unknown_batches(submitter: Submitter, is_run_alive: Callable[[str], bool]) -> int:
    """Enter the batches of this database that the ledger does not know; returns how many were entered.

    The run reads the list of the last 30 days once, before it creates its first batch. It also enters a second batch of
    one submission, created after a lost answer while the list lagged, since OpenAI bills it. It leaves out a batch that
    a live run is submitting: that run enters it. Raises SubmissionError if the API does not return the list or a batch.
    """
    api, database, data_folder = submitter.api, submitter.database, submitter.data_folder
    known = known_batches.known_batches(database)
    given_up = {submission.batch_id: submission for submission in submissions.lost_or_abandoned(database, data_folder)}
    recovered = 0
    # the whole list before the first change
    for batch in list(_listed(submitter.client, api.now() - RESULTS_ARE_KEPT)):
        is_ours = batch.metadata.get(WAREHOUSE_ID_KEY) == submitter.warehouse_id
        if batch.id in given_up and not is_at_other_api(given_up[batch.id].api, api):
            recovered += _see_again(submitter, given_up[batch.id], batch)
        elif is_ours and batch.id not in known and _may_have_results(batch):
            recovered += _recover(submitter, batch, is_run_alive)
    return recovered


def _may_have_results(batch: RemoteBatch) -> bool:
    if must_requeue(batch):
        return False
    return not batch.has_ended or batch.output_file_id is not None or batch.error_file_id is not None


def _see_again(submitter: Submitter, submission: Submission, batch: RemoteBatch) -> bool:
    database = submitter.database
    if not abandonment.is_back(database, submission, batch):
        return False
    logger.warning(
        "%s of %s was %s. The API lists it again, so a run collects it.", batch.id, submission.day, submission.state
    )
    withdrawn = batch_transitions.see_again(database, submission)
    if withdrawn is None:
        return False
    for path in withdrawn:
        (submitter.data_folder / path).unlink(missing_ok=True)
    # if its results cannot be had, and the user gives it up again, the ledger knows these results
    batch_transitions.record_progress(database, submission, batch)
    return True


def _recover(submitter: Submitter, batch: RemoteBatch, is_run_alive: Callable[[str], bool]) -> bool:
    database = submitter.database
    submission = submissions.by_id(database, batch.metadata.get(SUBMISSION_ID_KEY, ""), submitter.data_folder)
    if submission is not None and submission.state is State.CLAIMED:
        if submission.owner_run is not None and is_run_alive(submission.owner_run):
            return False  # that run enters it
        return transitions.submit(database, submission, batch)
    logger.warning("%s was created from this database, and the ledger does not know it. The run enters it.", batch.id)
    if submission is not None and submission.state in UNSENT:
        return transitions.recover(database, submission, batch, submitter.api)
    try:
        enter_batch(database, submitter.client, submitter.api, batch, submitter.data_folder, submitter.timing)
    except AdoptionError as error:
        logger.warning("The run could not enter %s: %s", batch.id, error)
        return False
    except openai.OpenAIError as error:  # without its requests, the run might buy them again
        raise unreachable_error(f"return the request file of {batch.id}", error) from error
    return True
