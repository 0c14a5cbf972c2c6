"""Changes the state of a submission: one guarded UPDATE, and one row in `submission_event`."""

from collections.abc import Mapping
from typing import NamedTuple

import duckdb

from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.states import Move, State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission
from batch_assets.batching.provider.batches import now_utc


class _Present(NamedTuple):
    """What the ledger now has of a submission."""

    state: str
    owner_run: str | None
    attempt: int
    batch_id: str | None
    claim_token: str | None


def is_unchanged(connection: duckdb.DuckDBPyConnection, submission: Submission) -> bool:
    """Whether no run has changed the submission since the caller read it."""
    present = _present(connection, submission.id)
    return present is not None and (
        (present.state, present.owner_run, present.attempt, present.claim_token)
        == (submission.state, submission.owner_run, submission.attempt, submission.claim_token)
    )


def try_change_state(
    database: Database,
    move: Move,
    submission: Submission,
    run_id: str | None,
    values: Mapping[str, object],
    *,
    batch_id: str | None = None,
    message: str | None = None,
) -> bool:
    """`change_state` in a transaction of its own; False also if another run has changed the submission."""
    with database.writing() as connection, transaction(connection):
        try:
            return change_state(connection, move, submission, run_id, values, batch_id=batch_id, message=message)
        except StaleSubmissionError:
            return False


def change_state(
    connection: duckdb.DuckDBPyConnection,
    move: Move,
    submission: Submission,
    run_id: str | None,
    values: Mapping[str, object],
    *,
    batch_id: str | None = None,
    message: str | None = None,
) -> bool:
    """Move the submission, which is as the caller read it, to the next state, and set these columns.

    False if it is in that state already. Raises StaleSubmissionError if another run has changed it in another way.
    """
    present = _present(connection, submission.id)
    if present is None:
        raise StaleSubmissionError(f"The ledger does not know the submission {submission.id}.")
    state = State(present.state)
    if state is move.target and state not in move.sources:
        return False
    is_as_read = (present.owner_run, present.attempt, present.batch_id) == (
        submission.owner_run,
        submission.attempt,
        submission.batch_id,
    )
    if state not in move.sources or not is_as_read:
        raise StaleSubmissionError(
            f"{submission.path.name} of {submission.day} is {state}: another run has changed it."
        )
    columns = "".join(f", {name} = ${name}" for name in values)
    connection.execute(
        f"UPDATE openai_batch SET state = $to_state{columns} WHERE submission_id = $id AND state = $from_state",
        {"id": submission.id, "to_state": move.target, "from_state": state, **values},
    )
    add_event(
        connection,
        move,
        submission.id,
        from_state=state,
        run_id=run_id,
        batch_id=batch_id or submission.batch_id,
        message=message,
    )
    return True


def add_event(
    connection: duckdb.DuckDBPyConnection,
    move: Move,
    submission_id: str,
    *,
    from_state: State | None,
    run_id: str | None = None,
    batch_id: str | None = None,
    message: str | None = None,
) -> None:
    """Add a row to `submission_event`; call it in the transaction that changes the state."""
    connection.execute(
        """
        INSERT INTO submission_event (submission_id, moved_at, run_id, move, from_state, to_state, batch_id, message)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)
        """,
        [submission_id, now_utc(), run_id, move.name, from_state, move.target, batch_id, message],
    )


def _present(connection: duckdb.DuckDBPyConnection, submission_id: str) -> _Present | None:
    row = connection.execute(
        "SELECT state, owner_run, attempt, batch_id, claim_token FROM openai_batch WHERE submission_id = ?",
        [submission_id],
    ).fetchone()
    return None if row is None else _Present(*row)
