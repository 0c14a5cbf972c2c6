"""Submissions of which nothing exists at the API are withdrawn. Their requests are pending again."""

from collections.abc import Iterable

import duckdb

from batch_assets.batching.ledger import states
from batch_assets.batching.ledger.change_state import add_event, is_as_seen
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.states import UNSENT, State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission
from batch_assets.batching.provider.batches import now_utc


def withdraw(database: Database, submission: Submission, *, because: str | None = None) -> bool:
    """Withdraw a submission of which nothing exists at the API. Its requests are pending again, or failed `because`.

    False, and nothing is changed, if a run has changed it since it was read.
    """
    with database.writing() as connection, transaction(connection):
        if not is_as_seen(connection, submission):
            return False
        withdraw_in(connection, submission, because=because)
    submission.path.unlink(missing_ok=True)
    return True


def withdraw_unsent(
    connection: duckdb.DuckDBPyConnection, *, day: str | None = None, only: Iterable[str] | None = None, message: str
) -> list[str]:
    """Withdraw what was planned or deferred, of the day or of these ids; returns the paths of the request files."""
    rows = connection.execute(
        """
        SELECT submission_id, state, path FROM openai_batch JOIN batch_request_file USING (submission_id)
        WHERE list_contains($states, state) AND ($day IS NULL OR openai_batch.partition_date = CAST($day AS DATE))
            AND ($only IS NULL OR list_contains($only, submission_id))
        """,
        {"states": list(UNSENT), "day": day, "only": None if only is None else list(only)},
    ).fetchall()
    for submission_id, state, _ in rows:
        _withdraw_row(connection, submission_id, State(state), message=message)
    return [path for _, _, path in rows]


def withdraw_unsent_with_requests(connection: duckdb.DuckDBPyConnection, table: str, *, message: str) -> list[str]:
    """Withdraw what was planned or deferred and holds a request that is in this temp table (custom_id)."""
    rows = connection.execute(
        f"SELECT DISTINCT submission_id FROM in_flight_request SEMI JOIN {table} USING (custom_id)"
    ).fetchall()
    return withdraw_unsent(connection, only=[submission_id for (submission_id,) in rows], message=message)


def withdraw_in(connection: duckdb.DuckDBPyConnection, submission: Submission, *, because: str | None) -> None:
    if because is not None:
        connection.execute(
            """
            INSERT INTO failed_request (custom_id, batch_id, code, message, retryable, superseded, api, failed_at)
            SELECT custom_id, 'cancelled/' || ?, ?, 'Withdrawn before it was sent.', true, false, ?, ?
            FROM in_flight_request WHERE submission_id = ?
            """,
            [submission.day, because, submission.api, now_utc(), submission.id],
        )
    _withdraw_row(connection, submission.id, submission.state, run_id=submission.owner_run, message=because)


def _withdraw_row(
    connection: duckdb.DuckDBPyConnection,
    submission_id: str,
    seen: State,
    *,
    run_id: str | None = None,
    message: str | None,
) -> None:
    """Withdraw what is in this state, as was seen in the same transaction; none of its requests is under way then."""
    move = states.WITHDRAW
    changed = connection.execute(
        "UPDATE openai_batch SET state = ? WHERE submission_id = ? AND state = ? AND list_contains(?, state)",
        [move.target, submission_id, seen, list(move.sources)],
    ).fetchone()
    if changed is None or changed[0] != 1:
        raise StaleSubmissionError(f"The submission {submission_id} is not {seen}: it cannot be withdrawn.")
    connection.execute("DELETE FROM in_flight_request WHERE submission_id = ?", [submission_id])
    add_event(connection, move, submission_id, from_state=seen, run_id=run_id, message=message)
