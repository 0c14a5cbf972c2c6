"""A submission's way from one state to the next.

A transition is one function with one guarded UPDATE, in one short transaction, and adds a row to `submission_event`.
One that another run has made already changes nothing.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace

import duckdb

from batch_assets.batching.ledger import states
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.states import UNCOLLECTED, UNSENT, Move, State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission
from batch_assets.batching.provider.batches import RemoteBatch, now_utc
from batch_assets.batching.provider.identity import ApiIdentity

CANCELLED_BY_USER = "cancelled_by_user"


def new_submission_id() -> str:
    return uuid.uuid4().hex


def plan(
    connection: duckdb.DuckDBPyConnection, submission_id: str, day: str, plan_number: int, round_number: int, shard: int
) -> None:
    """Enter a submission whose request file was written; inside a transaction."""
    connection.execute(
        """
        INSERT INTO openai_batch (submission_id, partition_date, plan, round, shard, state, attempt)
        VALUES (?, CAST(? AS DATE), ?, ?, ?, ?, 1)
        """,
        [submission_id, day, plan_number, round_number, shard, State.PLANNED],
    )
    add_event(connection, states.PLAN, submission_id, from_state=None)


def next_plan(connection: duckdb.DuckDBPyConnection) -> int:
    """The number of the day's next plan that writes files."""
    row = connection.execute(
        "SELECT coalesce(max(plan), 0) + 1 FROM openai_batch WHERE partition_date = getvariable('day')"
    ).fetchone()
    return int(row[0]) if row else 1


def record_upload(database: Database, submission: Submission, file_id: str | None) -> Submission:
    """Note which file at the API is the request file's."""
    with database.writing() as connection:
        connection.execute(
            "UPDATE openai_batch SET file_id = ? WHERE submission_id = ? AND state = ? AND owner_run = ?",
            [file_id, submission.id, State.CLAIMED, submission.owner_run],
        )
    return replace(submission, file_id=file_id)


def record_message(database: Database, submission: Submission, message: str) -> None:
    """Note what the API said of a submission that stays as it is."""
    with database.writing() as connection:
        connection.execute(
            "UPDATE openai_batch SET message = ? WHERE submission_id = ? AND owner_run = ?",
            [message, submission.id, submission.owner_run],
        )


def submit(database: Database, submission: Submission, batch: RemoteBatch) -> bool:
    """Note that the batch exists. False, and nothing is changed, if another run has taken over meanwhile."""
    return try_to_change(
        database,
        states.SUBMIT,
        submission,
        submission.owner_run,
        {
            "batch_id": batch.id,
            "file_id": batch.input_file_id or submission.file_id,
            "status": batch.status,
            "submitted_at": batch.created_at or now_utc(),
            "message": None,
        },
        batch_id=batch.id,
    )


def recover(database: Database, submission: Submission, batch: RemoteBatch, api: ApiIdentity) -> bool:
    """Note a batch that an older state of this ledger, a backup, knows nothing of."""
    return try_to_change(
        database,
        states.RECOVER,
        submission,
        None,
        {
            "batch_id": batch.id,
            "file_id": batch.input_file_id,
            "status": batch.status,
            "submitted_at": batch.created_at or now_utc(),
            "claimed_at": batch.created_at or now_utc(),
            "api": api.name,
            "organization": api.organization,
            "key_fingerprint": api.key_fingerprint,
        },
        batch_id=batch.id,
    )


def release(database: Database, submission: Submission, message: str) -> bool:
    """Back to planned: the API refused it before anything existed."""
    return try_to_change(
        database, states.RELEASE, submission, submission.owner_run, {"message": message}, message=message
    )


def is_as_seen(connection: duckdb.DuckDBPyConnection, seen: Submission) -> bool:
    row = connection.execute(
        "SELECT state, owner_run, attempt, claim_token FROM openai_batch WHERE submission_id = ?", [seen.id]
    ).fetchone()
    return row == (seen.state, seen.owner_run, seen.attempt, seen.claim_token)


def holds_requests_that_another_sends(connection: duckdb.DuckDBPyConnection, submission: Submission) -> bool:
    """Whether another submission, whose batch may exist, holds one of its requests."""
    row = connection.execute(
        """
        SELECT count(*) FROM (
            SELECT custom_id FROM in_flight_request SEMI JOIN openai_batch AS other
                ON other.submission_id = in_flight_request.submission_id AND list_contains($states, other.state)
            WHERE in_flight_request.submission_id <> $id
        ) SEMI JOIN (SELECT custom_id FROM in_flight_request WHERE submission_id = $id) USING (custom_id)
        """,
        {"id": submission.id, "states": [State.CLAIMED, *UNCOLLECTED]},
    ).fetchone()
    return row is not None and row[0] > 0


def record_cancel_request(database: Database, submission: Submission) -> None:
    """Note that the user wants the batch to stop, and none of it to go out again by itself."""
    with database.writing() as connection:
        connection.execute(
            "UPDATE openai_batch SET cancel_requested_at = ? WHERE submission_id = ?", [now_utc(), submission.id]
        )


def withdraw(database: Database, submission: Submission, *, because: str | None = None) -> bool:
    """Give up a submission of which nothing exists at the API. Its requests are pending again, or failed `because`.

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
    """Give up what was planned or deferred, of the day or of these ids; returns the paths of the request files."""
    rows = connection.execute(
        """
        SELECT submission_id, state, path FROM openai_batch JOIN batch_request_file USING (submission_id)
        WHERE list_contains($states, state) AND ($day IS NULL OR openai_batch.partition_date = CAST($day AS DATE))
            AND ($only IS NULL OR list_contains($only, submission_id))
        """,
        {"states": list(UNSENT), "day": day, "only": None if only is None else list(only)},
    ).fetchall()
    for submission_id, state, _ in rows:
        _give_up(connection, submission_id, State(state), message=message)
    return [path for _, _, path in rows]


def withdraw_unsent_with_requests(connection: duckdb.DuckDBPyConnection, table: str, *, message: str) -> list[str]:
    """Give up what was planned or deferred and holds a request that is in this temp table (custom_id)."""
    rows = connection.execute(
        f"SELECT DISTINCT submission_id FROM in_flight_request SEMI JOIN {table} USING (custom_id)"
    ).fetchall()
    return withdraw_unsent(connection, only=[submission_id for (submission_id,) in rows], message=message)


def adopt(connection: duckdb.DuckDBPyConnection, submission_id: str, batch: RemoteBatch, api: ApiIdentity) -> None:
    """Enter a batch that another program made of the requests in the temp table `asked` (custom_id)."""
    connection.execute(
        """
        INSERT INTO openai_batch (
            submission_id, partition_date, plan, round, shard, state, attempt, api, organization, key_fingerprint,
            claimed_at, file_id, batch_id, submitted_at, status
        )
        SELECT submission_id, partition_date, plan, round, shard, $state, 1, $api, $organization, $key_fingerprint,
            $created_at, $file_id, $batch_id, $created_at, $status
        FROM batch_request_file WHERE submission_id = $id
        """,
        {
            "id": submission_id,
            "state": State.SUBMITTED,
            "api": api.name,
            "organization": api.organization,
            "key_fingerprint": api.key_fingerprint,
            "created_at": batch.created_at or now_utc(),
            "file_id": batch.input_file_id,
            "batch_id": batch.id,
            "status": batch.status,
        },
    )
    connection.execute(
        """
        INSERT INTO in_flight_request (custom_id, submission_id)
        SELECT custom_id, ? FROM asked SEMI JOIN batch_request USING (custom_id)
        """,
        [submission_id],
    )
    add_event(connection, states.ADOPT, submission_id, from_state=None, batch_id=batch.id)


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
    _give_up(connection, submission.id, submission.state, run_id=submission.owner_run, message=because)


def _give_up(
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
    state = State(row[0])
    if state is move.target and state not in move.sources:
        return False
    if state not in move.sources or row[1:] != (seen.owner_run, seen.attempt, seen.batch_id):
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
