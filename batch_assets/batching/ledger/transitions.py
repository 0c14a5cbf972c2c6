"""The steps of a submission until it has a batch, in the order of its life.

Each step is one function with one guarded UPDATE in one short transaction, and adds a row to `submission_event`. A step
that another run has taken already changes nothing. `claims` has the claim, `batch_transitions` the steps after these.
"""

import uuid
from dataclasses import replace

import duckdb

from batch_assets.batching.ledger import states
from batch_assets.batching.ledger.change_state import add_event, try_change_state
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.outcomes import Outcome
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import RemoteBatch, now_utc
from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.batching.task_day import TaskDay


def new_submission_id() -> str:
    return uuid.uuid4().hex


def next_plan(connection: duckdb.DuckDBPyConnection, day: TaskDay) -> int:
    """The number of the day's next plan that writes files."""
    row = connection.execute(
        "SELECT coalesce(max(plan), 0) + 1 FROM openai_batch WHERE task = ? AND partition_date = CAST(? AS DATE)", day
    ).fetchone()
    return int(row[0]) if row else 1


def plan(
    connection: duckdb.DuckDBPyConnection,
    submission_id: str,
    day: TaskDay,
    plan_number: int,
    round_number: int,
    shard: int,
) -> None:
    """Record a new submission, whose request file is written; call it inside a transaction."""
    connection.execute(
        """
        INSERT INTO openai_batch (submission_id, task, partition_date, plan, round, shard, state, attempt)
        VALUES (?, ?, CAST(? AS DATE), ?, ?, ?, ?, 1)
        """,
        [submission_id, *day, plan_number, round_number, shard, State.PLANNED],
    )
    add_event(connection, states.PLAN, submission_id, from_state=None)


def record_upload(database: Database, submission: Submission, file_id: str | None) -> Submission:
    """Record the id that the API gave to the uploaded request file; None: upload it again."""
    with database.writing() as connection:
        connection.execute(
            "UPDATE openai_batch SET file_id = ? WHERE submission_id = ? AND state = ? AND owner_run = ?",
            [file_id, submission.id, State.CLAIMED, submission.owner_run],
        )
    return replace(submission, file_id=file_id)


def record_message(database: Database, submission: Submission, message: str) -> None:
    """Record the API's message about a submission whose state does not change."""
    with database.writing() as connection:
        connection.execute(
            "UPDATE openai_batch SET message = ? WHERE submission_id = ? AND owner_run = ?",
            [message, submission.id, submission.owner_run],
        )


def submit(database: Database, submission: Submission, batch: RemoteBatch) -> bool:
    """Record that the batch exists. False, and nothing changes, if another run has taken the submission over."""
    return try_change_state(
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
    """Record a batch that this ledger, a restored backup, does not know."""
    return try_change_state(
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
    """Make a claimed submission planned again: the API refused it, and created no batch."""
    return try_change_state(
        database, states.RELEASE, submission, submission.owner_run, {"message": message}, message=message
    )


def defer(database: Database, submission: Submission, message: str, code: str | None, outcome: Outcome) -> bool:
    """Defer a claimed submission: the API refused the account, and created no batch. The pause grows with each time."""
    values = {
        "message": message,
        "deferred_by": outcome.scope,
        "refusal_code": code,
        "not_before": now_utc() + outcome.pause(_earlier_refusals(database, submission.id)),
    }
    return try_change_state(database, states.DEFER, submission, submission.owner_run, values, message=message)


def _earlier_refusals(database: Database, submission_id: str) -> int:
    """How often the API has refused it for the account: only then a claimed submission is deferred."""
    with database.reading() as connection:
        row = connection.execute(
            "SELECT count(*) FROM submission_event WHERE submission_id = ? AND from_state = ? AND to_state = ?",
            [submission_id, State.CLAIMED, State.DEFERRED],
        ).fetchone()
    return int(row[0]) if row else 0


def record_cancel_request(database: Database, submission: Submission) -> None:
    """Record that the user cancelled the submission: no run sends its requests until the user plans the day again."""
    with database.writing() as connection:
        connection.execute(
            "UPDATE openai_batch SET cancel_requested_at = ? WHERE submission_id = ?", [now_utc(), submission.id]
        )


def adopt(connection: duckdb.DuckDBPyConnection, submission_id: str, batch: RemoteBatch, api: ApiIdentity) -> None:
    """Record a batch that another program created from the requests in the temp table `adopted_request`."""
    connection.execute(
        """
        INSERT INTO openai_batch (
            submission_id, task, partition_date, plan, round, shard, state, attempt, api, organization, key_fingerprint,
            claimed_at, file_id, batch_id, submitted_at, status
        )
        SELECT submission_id, task, partition_date, plan, round, shard, $state, 1, $api, $organization,
            $key_fingerprint, $created_at, $file_id, $batch_id, $created_at, $status
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
