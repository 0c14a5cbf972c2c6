"""Which run owns a submission now. A run checks this before each step that costs money."""

from typing import NamedTuple

import duckdb

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission


class Owner(NamedTuple):
    """The run that owns a submission, the state of the submission, and its batch, if it has one."""

    run_id: str | None
    state: State
    claim_token: str | None
    batch_id: str | None


def owner_of(database: Database, submission: Submission) -> Owner:
    """The present owner of the submission. Raises StaleSubmissionError if the ledger does not know the submission."""
    with database.reading() as connection:
        row = connection.execute(
            "SELECT owner_run, state, claim_token, batch_id FROM openai_batch WHERE submission_id = ?", [submission.id]
        ).fetchone()
    if row is None:
        raise StaleSubmissionError(f"The ledger does not know the submission {submission.id}.")
    run_id, state, claim_token, batch_id = row
    return Owner(run_id, State(state), claim_token, batch_id)


def is_cancelled(connection: duckdb.DuckDBPyConnection, submission: Submission) -> bool:
    """Whether the user has cancelled the submission: no run sends it until the user plans the day again."""
    statement = "SELECT 1 FROM openai_batch WHERE submission_id = ? AND cancel_requested_at IS NOT NULL"
    return connection.execute(statement, [submission.id]).fetchone() is not None


def is_claimed_by(database: Database, submission: Submission) -> bool:
    """Whether the run that claimed the submission still owns it."""
    owner = owner_of(database, submission)
    return owner == (submission.owner_run, State.CLAIMED, submission.claim_token, None)
