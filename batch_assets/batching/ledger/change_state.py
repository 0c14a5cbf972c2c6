"""How a submission changes its state: one guarded UPDATE, and one row in `submission_event`."""

from collections.abc import Mapping

import duckdb

from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.states import Move, State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission
from batch_assets.batching.provider.batches import now_utc


def is_as_seen(connection: duckdb.DuckDBPyConnection, seen: Submission) -> bool:
    row = connection.execute(
        "SELECT state, owner_run, attempt, claim_token FROM openai_batch WHERE submission_id = ?", [seen.id]
    ).fetchone()
    return row == (seen.state, seen.owner_run, seen.attempt, seen.claim_token)


def try_to_change(
    database: Database,
    move: Move,
    submission: Submission,
    run_id: str | None,
    values: Mapping[str, object],
    *,
    batch_id: str | None = None,
    message: str | None = None,
) -> bool:
    with database.writing() as connection, transaction(connection):
        try:
            return change_state(connection, move, submission, run_id, values, batch_id=batch_id, message=message)
        except StaleSubmissionError:
            return False


def change_state(
    connection: duckdb.DuckDBPyConnection,
    move: Move,
    seen: Submission,
    run_id: str | None,
    values: Mapping[str, object],
    *,
    batch_id: str | None = None,
    message: str | None = None,
) -> bool:
    """Take the submission along this way, from what the caller saw, and set these columns.

    False if it is there already. Raises StaleSubmissionError if it is anywhere else, or another run's.
    """
    row = connection.execute(
        "SELECT state, owner_run, attempt, batch_id FROM openai_batch WHERE submission_id = ?", [seen.id]
    ).fetchone()
    if row is None:
        raise StaleSubmissionError(f"The ledger does not know the submission {seen.id}.")
    state, *owner = row
    state = State(state)
    if state is move.target and state not in move.sources:
        return False
    if state not in move.sources or owner != [seen.owner_run, seen.attempt, seen.batch_id]:
        raise StaleSubmissionError(f"{seen.path.name} of {seen.day} is {state}: another run has changed it.")
    columns = "".join(f", {name} = ${name}" for name in values)
    connection.execute(
        f"UPDATE openai_batch SET state = $to_state{columns} WHERE submission_id = $id AND state = $from_state",
        {"id": seen.id, "to_state": move.target, "from_state": state, **values},
    )
    add_event(
        connection, move, seen.id, from_state=state, run_id=run_id, batch_id=batch_id or seen.batch_id, message=message
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
    connection.execute(
        """
        INSERT INTO submission_event (submission_id, moved_at, run_id, move, from_state, to_state, batch_id, message)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)
        """,
        [submission_id, now_utc(), run_id, move.name, from_state, move.target, batch_id, message],
    )
