"""Before a run submits: the ledger is brought up to date with what is at the API.

A batch that failed as a whole goes out again. A batch of this database that the ledger does not know, since the ledger
was restored from a backup, is taken in, so that nothing of it is bought again.
"""

import logging
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import openai

from batch_assets.batching.adoption import AdoptionError, enter_batch
from batch_assets.batching.api_identity import ApiIdentity
from batch_assets.batching.creation import CLOCK_SKEW, SUBMISSION, WAREHOUSE, unreachable
from batch_assets.batching.ledger import batch_transitions, submissions, transitions
from batch_assets.batching.ledger.batch_transitions import must_go_back
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.states import UNSENT, State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.remote import MISSING, RemoteBatch, list_batches, retrieve_batch, words_of

RESULTS_ARE_KEPT = timedelta(days=30)  # https://developers.openai.com/api/docs/guides/batch: how long OpenAI keeps them

logger = logging.getLogger(__name__)


def refresh(database: Database, client: openai.OpenAI, api: ApiIdentity, data_folder: Path) -> int:
    """Bring the ledger up to date on what is in flight at this API; returns how many submissions were requeued.

    A batch that OpenAI failed as a whole, since its limits were used up, goes back, and its tokens are free again.
    """
    flying = {
        submission.batch_id: submission
        for submission in submissions.in_flight(database, data_folder)
        if submission.batch_id and submission.api in (None, api.name)
    }
    if not flying:
        return 0
    since = min((s.claimed_at for s in flying.values() if s.claimed_at), default=api.now()) - CLOCK_SKEW
    requeued = 0
    try:
        found = {batch.id: batch for batch in _until_all(flying.keys(), list_batches(client, since=since))}
        for batch_id, submission in flying.items():
            batch = found.get(batch_id) or retrieve_batch(client, batch_id)
            if submission.state is State.MISSING and batch.status != MISSING:
                batch_transitions.find(database, submission)
            if must_go_back(batch):
                requeued += batch_transitions.requeue(database, submission, batch)
            elif batch.status == MISSING:
                if submission.state is State.SUBMITTED:
                    batch_transitions.miss(database, submission, f"{batch_id} is not found with the present key.")
            else:
                batch_transitions.record_progress(database, submission, batch)
    except openai.OpenAIError as error:
        raise unreachable("tell how far the batches are", error) from error
    return requeued


def _until_all(wanted: Iterable[str], batches: Iterable[RemoteBatch]) -> Iterator[RemoteBatch]:
    missing = set(wanted)
    for batch in batches:
        yield batch
        missing.discard(batch.id)
        if not missing:
            return


def search_for_unknown_batches(
    database: Database, client: openai.OpenAI, api: ApiIdentity, warehouse_id: str, data_folder: Path
) -> int:
    """Take in the batches of this database that the ledger does not know; returns how many there were.

    The list of the last 30 days is read once, before the first batch of a run is created.
    """
    try:
        ours = [
            batch
            for batch in list_batches(client, since=api.now() - RESULTS_ARE_KEPT)
            if batch.metadata.get(WAREHOUSE) == warehouse_id
        ]
    except openai.OpenAIError as error:
        # Some servers have no list. After a lost answer it is asked for again, and then it must be had.
        logger.warning("The batches of the last 30 days could not be listed: %s", words_of(error))
        return 0
    known = submissions.known_batches(database)
    given_up = {submission.batch_id: submission for submission in submissions.given_up(database, data_folder)}
    recovered = 0
    for batch in ours:
        if batch.id in given_up:
            recovered += _see_again(database, given_up[batch.id], data_folder)
        if batch.id in known.batch_ids or batch.metadata.get("claim_token") in known.claim_tokens:
            continue
        if must_go_back(batch) or (batch.has_ended and not batch.output_file_id and not batch.error_file_id):
            continue  # it has no results
        recovered += _recover(database, client, api, batch, data_folder)
    return recovered


def _see_again(database: Database, submission: Submission, data_folder: Path) -> bool:
    logger.warning("%s of %s was given up, and is there again: it is collected.", submission.batch_id, submission.day)
    withdrawn = batch_transitions.see_again(database, submission)
    for path in withdrawn or ():
        (data_folder / path).unlink(missing_ok=True)
    return withdrawn is not None


def _recover(
    database: Database, client: openai.OpenAI, api: ApiIdentity, batch: RemoteBatch, data_folder: Path
) -> bool:
    logger.warning("%s was made from this database, and the ledger does not know it: it is taken in.", batch.id)
    submission = submissions.by_id(database, batch.metadata.get(SUBMISSION, ""), data_folder)
    if submission is not None and submission.state in UNSENT:
        return transitions.recover(database, submission, batch, api)
    try:
        enter_batch(database, client, api, batch, data_folder)
    except AdoptionError as error:
        logger.warning("%s could not be taken in: %s", batch.id, error)
        return False
    return True
