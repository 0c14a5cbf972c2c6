"""The steps of a submission that has a batch, in the order of its life.

The batch runs (`record_progress`), may go missing (`miss`, `find`, `lose`, `see_again`), may fail as a whole
(`requeue`), ends (`end`), and is collected (`collect`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from enum import Enum, auto

import duckdb

from batch_assets.batching.ledger import states
from batch_assets.batching.ledger.change_state import add_event, change_state, try_change_state
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.outcomes import CANCELLED_BY_USER, Scope, has_not_found_its_file, requeue_outcome
from batch_assets.batching.ledger.owners import is_cancelled
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission
from batch_assets.batching.ledger.withdrawal import withdraw_in_transaction, withdraw_unsent_with_requests
from batch_assets.batching.provider.batches import RemoteBatch, RemoteError, now_utc
from batch_assets.batching.timing import Timing

ATTEMPTS_WITH_ONE_FILE = 2  # after these, the run uploads a file again that the API does not find
NOT_ENDED = (State.SUBMITTED, State.MISSING)  # its result files are not stored here
SEEN_AGAIN_MESSAGE = "Its requests are in a batch that the API lists again."


def record_progress(database: Database, submission: Submission, batch: RemoteBatch) -> None:
    """Record what the API returned for a batch whose results are not stored yet.

    An ended batch no longer counts towards the limit of enqueued tokens. Nothing changes if another run has stored the
    results meanwhile: that run has read a later state.
    """
    with database.writing() as connection:
        values = {**_batch_columns(batch), "ended_at": _ended_at(submission, batch)}
        _update_columns(connection, submission, NOT_ENDED, values)


def miss(database: Database, submission: Submission, message: str) -> bool:
    """Record that the API does not know the batch: it is of another account, or the API has deleted it."""
    values: dict[str, object] = {"missing_since": now_utc(), "message": message, "seen_at": now_utc()}
    return try_change_state(database, states.MISS, submission, None, values, message=message)


def find(database: Database, submission: Submission) -> bool:
    """Record that the API knows the missing batch again."""
    return try_change_state(database, states.FIND, submission, None, {"missing_since": None, "message": None})


def lose(database: Database, submission: Submission, message: str) -> bool:
    """Record that a missing batch is lost: the account that created it shows other batches, and not this one."""
    return try_change_state(database, states.LOSE, submission, None, {"message": message}, message=message)


def see_again(database: Database, submission: Submission) -> list[str] | None:
    """Record that the API lists a lost or abandoned batch again, so that a run collects it.

    Withdraws the unsent submissions that hold one of its requests; returns the paths of their request files. None if
    another run has recorded it already.
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
            CREATE OR REPLACE TEMP TABLE request_seen_again AS
            SELECT custom_id FROM in_flight_request WHERE submission_id = ?
            """,
            [submission.id],
        )
        return withdraw_unsent_with_requests(connection, "request_seen_again", message=SEEN_AGAIN_MESSAGE)


def requeue(database: Database, submission: Submission, batch: RemoteBatch, timing: Timing) -> bool:
    """Defer the submission: after a pause a run sends it again as another attempt, with the same file.

    False if it is not deferred: another run has requeued it already, or the user has cancelled it. A cancelled one is
    withdrawn, and its request file is deleted.
    """
    file_not_found = has_not_found_its_file(batch.errors)
    outcome = requeue_outcome(batch.errors)
    pause = timing.requeue_pause(submission.attempt)
    message = "; ".join(f"{error.code}: {error.message}" for error in batch.errors)
    scope = Scope.BATCH if outcome is None else outcome.scope
    if outcome is not None and scope is Scope.ACCOUNT:
        pause = outcome.pause(submission.attempt - 1)
        message = f"{message} {outcome.remedy}"
    deferred = replace(
        submission,
        state=State.DEFERRED,
        attempt=submission.attempt + 1,
        earlier_batch_ids=(*submission.earlier_batch_ids, batch.id),
        batch_id=None,
        owner_run=None,
        file_id=None if file_not_found and submission.attempt >= ATTEMPTS_WITH_ONE_FILE else submission.file_id,
    )
    values = {
        "attempt": deferred.attempt,
        "earlier_batch_ids": list(deferred.earlier_batch_ids),
        "batch_id": None,
        "owner_run": None,
        "submitted_at": None,
        "status": None,
        "in_progress_at": None,
        "ended_at": None,
        "not_before": now_utc() + pause,
        "deferred_by": scope,
        "refusal_code": batch.errors[0].code if batch.errors else None,
        "errors": _errors_as_json(batch),
        "file_id": deferred.file_id,
        "message": message,
    }
    with database.writing() as connection, transaction(connection):
        try:
            is_requeued = change_state(
                connection, states.REQUEUE, submission, None, values, batch_id=batch.id, message=message
            )
        except StaleSubmissionError:
            return False
        is_withdrawn = is_requeued and is_cancelled(connection, submission)
        if is_withdrawn:
            withdraw_in_transaction(connection, deferred, because=CANCELLED_BY_USER)
    if is_withdrawn:
        submission.path.unlink(missing_ok=True)
    return is_requeued and not is_withdrawn


def end(database: Database, submission: Submission, batch: RemoteBatch, stored: Mapping[str, str]) -> bool:
    """Record that the batch has ended, at which API, and where its result files are stored ("output", "errors")."""
    values = {
        **_batch_columns(batch),
        "output_path": stored.get("output"),
        "error_path": stored.get("errors"),
        "api": submission.api,
    }
    if submission.state is State.ENDED:
        with database.writing() as connection:
            _update_columns(connection, submission, [State.ENDED], values)
        return True
    values["ended_at"] = _ended_at(submission, batch)
    return try_change_state(database, states.END, submission, None, values, batch_id=batch.id)


def recorded_batch(submission: Submission) -> RemoteBatch:
    """The ended batch, as the ledger recorded it: all that a run needs to load its results later."""
    return RemoteBatch(
        id=submission.batch_id or "",
        status=submission.status or "",
        ended_at=submission.ended_at,
        output_file_id=submission.output_file_id,
        error_file_id=submission.error_file_id,
        completed=submission.requests_completed,
        failed=submission.requests_failed,
        errors=tuple(RemoteError(**error) for error in json.loads(submission.errors or "[]")),
    )


class Collectable(Enum):
    """Whether a run must load the results of a batch."""

    NO = auto()  # the batch has not ended, or another run has loaded its results
    YES = auto()
    CANCELLED = auto()  # yes; the user has cancelled the batch


def check_collectable(connection: duckdb.DuckDBPyConnection, submission_id: str, batch_id: str) -> Collectable:
    row = connection.execute(
        """
        SELECT cancel_requested_at IS NOT NULL FROM openai_batch
        WHERE submission_id = ? AND batch_id = ? AND state = ?
        """,
        [submission_id, batch_id, State.ENDED],
    ).fetchone()
    if row is None:
        return Collectable.NO
    (is_cancelled_by_user,) = row
    return Collectable.CANCELLED if is_cancelled_by_user else Collectable.YES


def collect(connection: duckdb.DuckDBPyConnection, collected: Sequence[tuple[str, str]]) -> None:
    """Record that the results of these (submission_id, batch_id) are loaded.

    Call it in the transaction that loads them. Raises StaleSubmissionError if another run has collected one of them.
    """
    now = now_utc()
    for submission_id, batch_id in collected:
        changed = connection.execute(
            """
            UPDATE openai_batch SET state = ?, collected_at = ? WHERE submission_id = ? AND batch_id = ? AND state = ?
            """,
            [State.COLLECTED, now, submission_id, batch_id, State.ENDED],
        ).fetchone()
        if changed != (1,):
            raise StaleSubmissionError(f"Another run has collected {batch_id}.")
        add_event(connection, states.COLLECT, submission_id, from_state=State.ENDED, batch_id=batch_id)
    connection.execute(
        "DELETE FROM in_flight_request WHERE submission_id IN (SELECT unnest(?))",
        [[submission_id for submission_id, _ in collected]],
    )


def _update_columns(
    connection: duckdb.DuckDBPyConnection,
    submission: Submission,
    in_states: Sequence[State],
    values: Mapping[str, object],
) -> None:
    """Set these columns if the submission still has the batch that the caller read, and is in one of these states."""
    columns = ", ".join(f"{name} = ${name}" for name in values)
    connection.execute(
        f"""
        UPDATE openai_batch SET {columns}
        WHERE submission_id = $id AND batch_id = $expected_batch_id AND list_contains($in_states, state)
        """,
        {"id": submission.id, "expected_batch_id": submission.batch_id, "in_states": list(in_states), **values},
    )


def _batch_columns(batch: RemoteBatch) -> dict[str, object]:
    """The columns of `openai_batch` that the API's batch object fills."""
    return {
        "status": batch.status,
        "requests_total": batch.total,
        "requests_completed": batch.completed,
        "requests_failed": batch.failed,
        "input_tokens": batch.input_tokens,
        "cached_input_tokens": batch.cached_input_tokens,
        "output_tokens": batch.output_tokens,
        "reasoning_tokens": batch.reasoning_tokens,
        "errors": _errors_as_json(batch) if batch.errors else None,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "in_progress_at": batch.in_progress_at,
        "seen_at": now_utc(),
    }


def _errors_as_json(batch: RemoteBatch) -> str:
    return json.dumps([error.__dict__ for error in batch.errors])


def _ended_at(submission: Submission, batch: RemoteBatch) -> datetime | None:
    """When the batch ended or, if the API does not return that, when a run first saw that it had ended."""
    return (batch.ended_at or submission.ended_at or now_utc()) if batch.has_ended else None
