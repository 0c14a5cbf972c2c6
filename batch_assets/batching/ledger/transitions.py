"""A submission's way from one state to the next.

A transition is one function with one guarded UPDATE, in one short transaction, and adds a row to `submission_event`.
One that another run has made already changes nothing.
"""

import uuid
from dataclasses import replace

import duckdb

from batch_assets.batching.ledger import states
from batch_assets.batching.ledger.change_state import add_event, try_to_change
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.states import UNCOLLECTED, State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import RemoteBatch, now_utc
from batch_assets.batching.provider.identity import ApiIdentity


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


def next_plan(connection: duckdb.DuckDBPyConnection, day: str) -> int:
    """The number of the day's next plan that writes files."""
    row = connection.execute(
        "SELECT coalesce(max(plan), 0) + 1 FROM openai_batch WHERE partition_date = CAST(? AS DATE)", [day]
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


def adopt(connection: duckdb.DuckDBPyConnection, submission_id: str, batch: RemoteBatch, api: ApiIdentity) -> None:
    """Enter a batch that another program made of the requests in the temp table `adopted_request`."""
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
        SELECT custom_id, ? FROM adopted_request SEMI JOIN batch_request USING (custom_id)
        """,
        [submission_id],
    )
    add_event(connection, states.ADOPT, submission_id, from_state=None, batch_id=batch.id)
