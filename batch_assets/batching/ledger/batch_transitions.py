"""What becomes of a submission's batch: it runs, goes missing, fails as a whole, ends, and is collected."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from enum import Enum, auto

import duckdb

from batch_assets.batching.ledger import states
from batch_assets.batching.ledger.change_state import add_event, change_state, try_to_change
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.outcomes import CANCELLED_BY_USER, has_not_found_its_file
from batch_assets.batching.ledger.owners import is_cancelled
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission
from batch_assets.batching.ledger.withdrawal import withdraw_in, withdraw_unsent_with_requests
from batch_assets.batching.provider.batches import RemoteBatch, RemoteError, now_utc
from batch_assets.batching.timing import Timing

ATTEMPTS_WITH_ONE_FILE = 2  # after these, a file that the API does not find is uploaded again
IN_FLIGHT = (State.SUBMITTED, State.MISSING)  # its batch was not seen to have ended, with its results here
OVERTAKEN = "Its requests are in a batch that was seen again."


def record_progress(database: Database, submission: Submission, batch: RemoteBatch) -> None:
    """Note what the API says of a batch whose results are not stored yet. One that has ended takes up no room.

    Another run may have seen more since, stored its results and loaded them: then nothing is noted.
    """
    with database.writing() as connection:
        _set(connection, submission, IN_FLIGHT, {**_facts(batch), "ended_at": _ended_at(submission, batch)})


def end(database: Database, submission: Submission, batch: RemoteBatch, stored: Mapping[str, str]) -> bool:
    """Note that the batch has ended, at which API, and where its result files were stored ("output", "errors")."""
    if submission.state is State.ENDED:
        with database.writing() as connection:
            _set(connection, submission, [State.ENDED], {**_facts(batch), **_paths(stored), "api": submission.api})
        return True
    values = {**_facts(batch), **_paths(stored), "api": submission.api, "ended_at": _ended_at(submission, batch)}
    return try_to_change(database, states.END, submission, None, values, batch_id=batch.id)


def as_it_ended(submission: Submission) -> RemoteBatch:
    """The batch as the API showed it when it had ended: all that its results need to be loaded later."""
    return RemoteBatch(
        id=submission.batch_id or "",
        status=submission.status or "",
        ended_at=submission.ended_at,
        errors=tuple(RemoteError(**error) for error in json.loads(submission.errors or "[]")),
    )


def _ended_at(submission: Submission, batch: RemoteBatch) -> datetime | None:
    """When the batch ended or, where the API does not say, when a run first saw that it had."""
    return (batch.ended_at or submission.ended_at or now_utc()) if batch.has_ended else None


def _facts(batch: RemoteBatch) -> dict[str, object]:
    errors = [error.__dict__ for error in batch.errors]
    return {
        "status": batch.status,
        "requests_total": batch.total,
        "requests_completed": batch.completed,
        "requests_failed": batch.failed,
        "input_tokens": batch.input_tokens,
        "cached_input_tokens": batch.cached_input_tokens,
        "output_tokens": batch.output_tokens,
        "reasoning_tokens": batch.reasoning_tokens,
        "errors": json.dumps(errors) if errors else None,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "seen_at": now_utc(),
    }


def _paths(stored: Mapping[str, str]) -> dict[str, object]:
    return {"output_path": stored.get("output"), "error_path": stored.get("errors")}


def collect(connection: duckdb.DuckDBPyConnection, submissions: Sequence[tuple[str, str]]) -> None:
    """Note that the results of these (submission_id, batch_id) are loaded; in the transaction that loads them."""
    now = now_utc()
    for submission_id, batch_id in submissions:
        changed = connection.execute(
            """
            UPDATE openai_batch SET state = ?, collected_at = ? WHERE submission_id = ? AND batch_id = ? AND state = ?
            """,
            [State.COLLECTED, now, submission_id, batch_id, State.ENDED],
        ).fetchone()
        if changed is None or changed[0] != 1:
            raise StaleSubmissionError(f"{batch_id} was collected by another run.")
        add_event(connection, states.COLLECT, submission_id, from_state=State.ENDED, batch_id=batch_id)
    connection.execute(
        "DELETE FROM in_flight_request WHERE submission_id IN (SELECT unnest(?))", [[key for key, _ in submissions]]
    )


class Collectable(Enum):
    """Whether the results of a batch are to be loaded."""

    NO = auto()  # it has not ended, or another run has loaded it
    YES = auto()
    CANCELLED = auto()  # yes; the user has cancelled it


def is_collectable(connection: duckdb.DuckDBPyConnection, submission_id: str, batch_id: str) -> Collectable:
    row = connection.execute(
        """
        SELECT cancel_requested_at IS NOT NULL FROM openai_batch
        WHERE submission_id = ? AND batch_id = ? AND state = ?
        """,
        [submission_id, batch_id, State.ENDED],
    ).fetchone()
    if row is None:
        return Collectable.NO
    (is_cancelled,) = row
    return Collectable.CANCELLED if is_cancelled else Collectable.YES


def requeue(database: Database, submission: Submission, batch: RemoteBatch, timing: Timing) -> bool:
    """Defer the submission: after a pause a run sends it again as another attempt, with the same file.

    False if it is not deferred: another run has requeued it already, or the user has cancelled it. Then it is
    withdrawn, and its request file is deleted.
    """
    not_found = has_not_found_its_file(batch.errors)
    pause = timing.requeue_pause(submission.attempt)
    message = "; ".join(f"{error.code}: {error.message}" for error in batch.errors)
    deferred = replace(
        submission,
        state=State.DEFERRED,
        attempt=submission.attempt + 1,
        earlier_batch_ids=(*submission.earlier_batch_ids, batch.id),
        batch_id=None,
        owner_run=None,
        file_id=None if not_found and submission.attempt >= ATTEMPTS_WITH_ONE_FILE else submission.file_id,
    )
    values = {
        "attempt": deferred.attempt,
        "earlier_batch_ids": list(deferred.earlier_batch_ids),
        "batch_id": None,
        "owner_run": None,
        "submitted_at": None,
        "status": None,
        "ended_at": None,
        "not_before": now_utc() + pause,
        "errors": json.dumps([error.__dict__ for error in batch.errors]),
        "file_id": deferred.file_id,
        "message": message,
    }
    with database.writing() as connection, transaction(connection):
        try:
            is_ours = change_state(
                connection, states.REQUEUE, submission, None, values, batch_id=batch.id, message=message
            )
        except StaleSubmissionError:
            return False
        is_withdrawn = is_ours and is_cancelled(connection, submission)
        if is_withdrawn:
            withdraw_in(connection, deferred, because=CANCELLED_BY_USER)
    if is_withdrawn:
        submission.path.unlink(missing_ok=True)
    return is_ours and not is_withdrawn


def miss(database: Database, submission: Submission, message: str) -> bool:
    """Note that the API does not know the batch: of this account, or any more."""
    values: dict[str, object] = {"missing_since": now_utc(), "message": message, "seen_at": now_utc()}
    return try_to_change(database, states.MISS, submission, None, values, message=message)


def find(database: Database, submission: Submission) -> bool:
    """Note that the API knows the missing batch again."""
    return try_to_change(database, states.FIND, submission, None, {"missing_since": None, "message": None})


def see_again(database: Database, submission: Submission) -> list[str] | None:
    """Note that a batch that was given up is listed again: it is collected, whatever was bought meanwhile.

    What was planned of its requests, and not sent, is withdrawn; returns the paths of these request files. None if
    another run has noted it already.
    """
    values: dict[str, object] = {"missing_since": None, "message": None}
    with database.writing() as connection, transaction(connection):
        try:
            if not change_state(connection, states.SEE_AGAIN, submission, None, values):
                return None
        except StaleSubmissionError:
            return None
        connection.execute(
            """
            CREATE OR REPLACE TEMP TABLE seen_again AS
            SELECT custom_id FROM in_flight_request WHERE submission_id = ?
            """,
            [submission.id],
        )
        return withdraw_unsent_with_requests(connection, "seen_again", message=OVERTAKEN)


def lose(database: Database, submission: Submission, message: str) -> bool:
    """Give a missing batch up: the account that made it shows other batches, and not this one."""
    return try_to_change(database, states.LOSE, submission, None, {"message": message}, message=message)


def _set(
    connection: duckdb.DuckDBPyConnection,
    submission: Submission,
    states_to_set_in: Sequence[State],
    values: Mapping[str, object],
) -> None:
    """Set these columns while the submission has the batch that was seen, and is in one of these states."""
    columns = ", ".join(f"{name} = ${name}" for name in values)
    connection.execute(
        f"""
        UPDATE openai_batch SET {columns}
        WHERE submission_id = $id AND batch_id = $seen_batch_id AND list_contains($states, state)
        """,
        {"id": submission.id, "seen_batch_id": submission.batch_id, "states": list(states_to_set_in), **values},
    )
