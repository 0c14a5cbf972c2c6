"""Withdraws submissions that have no batch at the API. Their requests are pending again."""

from collections.abc import Iterable

import duckdb

from batch_assets.batching.ledger import states
from batch_assets.batching.ledger.change_state import add_event, is_unchanged
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.outcomes import cancelled_batch_id
from batch_assets.batching.ledger.states import UNSENT, State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.task_day import TaskDay


def withdraw(database: Database, submission: Submission, *, because: str | None = None) -> bool:
    """Withdraw a submission that has no batch. Its requests are pending again, or failed with the code `because`.

    False, and nothing changes, if a run has changed it since the caller read it.
    """
    with database.writing() as connection, transaction(connection):
        if not is_unchanged(connection, submission):
            return False
        withdraw_in_transaction(connection, submission, because=because)
    submission.path.unlink(missing_ok=True)
    return True


def withdraw_unsent(
    connection: duckdb.DuckDBPyConnection,
    *,
    day: TaskDay | None = None,
    only: Iterable[str] | None = None,
    message: str,
) -> list[str]:
    """Withdraw planned and deferred submissions, of the day or of these ids; returns the paths of their files."""
    rows = connection.execute(
        """
        SELECT submission_id, state, path FROM openai_batch JOIN batch_request_file USING (submission_id)
        WHERE list_contains($states, state)
            AND ($day IS NULL OR openai_batch.task = $task AND openai_batch.partition_date = CAST($day AS DATE))
            AND ($only IS NULL OR list_contains($only, submission_id))
        """,
        {
            "states": list(UNSENT),
            "task": day and day.task,
            "day": day and day.day,
            "only": None if only is None else list(only),
        },
    ).fetchall()
    for submission_id, state, _ in rows:
        _withdraw_row(connection, submission_id, State(state), message=message)
    return [path for _, _, path in rows]


def withdraw_unsent_with_requests(connection: duckdb.DuckDBPyConnection, table: str, *, message: str) -> list[str]:
    """Withdraw planned and deferred submissions that hold a request of this temp table (custom_id)."""
    rows = connection.execute(
        f"SELECT DISTINCT submission_id FROM in_flight_request SEMI JOIN {table} USING (custom_id)"
    ).fetchall()
    return withdraw_unsent(connection, only=[submission_id for (submission_id,) in rows], message=message)


def withdraw_in_transaction(
    connection: duckdb.DuckDBPyConnection, submission: Submission, *, because: str | None
) -> None:
    """`withdraw` for a caller that has checked the submission in its transaction, and deletes the request file."""
    if because is not None:
        fail_requests(connection, submission, because, "Withdrawn before it was sent.")
    _withdraw_row(connection, submission.id, submission.state, run_id=submission.owner_run, message=because)


def fail_requests(connection: duckdb.DuckDBPyConnection, submission: Submission, code: str, message: str) -> None:
    """Record a failure, with this code, for each request of a submission that has no answers."""
    connection.execute(
        """
        INSERT INTO failed_request (custom_id, batch_id, code, message, retryable, superseded, api, failed_at)
        SELECT custom_id, ?, ?, ?, true, false, ?, ?
        FROM in_flight_request WHERE submission_id = ?
        """,
        [cancelled_batch_id(submission.task_day), code, message, submission.api, now_utc(), submission.id],
    )


def _withdraw_row(
    connection: duckdb.DuckDBPyConnection,
    submission_id: str,
    from_state: State,
    *,
    run_id: str | None = None,
    message: str | None,
) -> None:
    """Withdraw a submission. The same transaction has read that it is in this state."""
    move = states.WITHDRAW
    changed = connection.execute(
        "UPDATE openai_batch SET state = ? WHERE submission_id = ? AND state = ? AND list_contains(?, state)",
        [move.target, submission_id, from_state, list(move.sources)],
    ).fetchone()
    if changed != (1,):
        raise StaleSubmissionError(f"The submission {submission_id} is not {from_state}: it cannot be withdrawn.")
    connection.execute("DELETE FROM in_flight_request WHERE submission_id = ?", [submission_id])
    add_event(connection, move, submission_id, from_state=from_state, run_id=run_id, message=message)
