"""The user gives up a batch: what it holds, the step to `abandoned`, and when a run may take it back.

The rows of `in_flight_request` stay: the batch may end later, and be collected. The requests are free, since its state
is no longer one of `OPEN`.
"""

from dataclasses import dataclass

import duckdb

from batch_assets.batching.ledger import states
from batch_assets.batching.ledger.change_state import change_state, is_unchanged
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.expected_cost import expected_cost
from batch_assets.batching.ledger.outcomes import CANCELLED_BY_USER
from batch_assets.batching.ledger.owners import is_cancelled
from batch_assets.batching.ledger.states import OPEN, State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.ledger.withdrawal import fail_requests
from batch_assets.batching.provider.batches import RemoteBatch
from batch_assets.batching.task_day import TaskDay

MESSAGE = "The user gave up the batch."

# The requests of the batch that a task needs for a day; `is_elsewhere`: another open submission holds the request, too.
NEEDED = """
    SELECT DISTINCT task, partition_date::VARCHAR AS day, custom_id, custom_id IN (
        SELECT custom_id FROM in_flight_request JOIN openai_batch USING (submission_id)
        WHERE submission_id <> $id AND list_contains($open, state)
    ) AS is_elsewhere
    FROM batch_request SEMI JOIN (
        SELECT custom_id FROM in_flight_request WHERE submission_id = $id
    ) USING (custom_id)
"""


@dataclass(frozen=True)
class BatchContent:
    """What a batch holds, as the ledger knows it.

    days: the days of tasks that need one of its requests, sorted.
    requests: how many of its requests no other open submission holds.
    requests_elsewhere: how many another open submission holds, too.
    expected_usd: what its request file was expected to cost; None if the price is not known.
    """

    days: tuple[TaskDay, ...]
    requests: int
    requests_elsewhere: int
    expected_usd: float | None


def content_of(database: Database, submission: Submission) -> BatchContent:
    """What the batch of the submission holds."""
    with database.reading() as connection:
        row = connection.execute(
            f"""
            SELECT
                coalesce(list_sort(list(DISTINCT [task, day])), []),
                count(DISTINCT custom_id) FILTER (NOT is_elsewhere),
                count(DISTINCT custom_id) FILTER (is_elsewhere)
            FROM ({NEEDED})
            """,
            {"id": submission.id, "open": list(OPEN)},
        ).fetchone()
        assert row is not None  # an aggregate without GROUP BY has one row
        days, requests, requests_elsewhere = row
        return BatchContent(
            tuple(TaskDay(*day) for day in days), requests, requests_elsewhere, _expected_usd(connection, submission)
        )


def _expected_usd(connection: duckdb.DuckDBPyConnection, submission: Submission) -> float | None:
    """As expected at the claim; by today's prices if no claim recorded it, as for an adopted batch."""
    row = connection.execute(
        "SELECT expected_cost_usd FROM openai_batch WHERE submission_id = ?", [submission.id]
    ).fetchone()
    if row is not None and row[0] is not None:
        return float(row[0])
    return expected_cost(connection, submission, submission.api or "", ())


def abandon(database: Database, submission: Submission) -> bool:
    """Record that the user gives up the batch. Its requests are pending again, or cancelled if the user cancelled it.

    False, and nothing changes, if a run has changed the submission since the caller read it: the batch may have ended.
    """
    with database.writing() as connection, transaction(connection):
        if not is_unchanged(connection, submission):
            return False
        values: dict[str, object] = {"message": MESSAGE}
        is_abandoned = change_state(connection, states.ABANDON, submission, None, values, message=MESSAGE)
        if is_abandoned and is_cancelled(connection, submission):
            fail_requests(connection, submission, CANCELLED_BY_USER, "The user gave up its batch.")
    return is_abandoned


def is_back(database: Database, submission: Submission, batch: RemoteBatch) -> bool:
    """Whether a run must collect this lost or abandoned batch, which the API lists.

    A batch that was lost, or that was missing when the user gave it up, was not listed then: so it is back. Another
    abandoned batch was listed all the time. It is back only if it has ended, with a result file that the ledger did not
    know: otherwise the batch would return at once, and the user could never give it up.
    """
    if submission.state is State.LOST or submission.missing_since is not None:
        return True
    with database.reading() as connection:
        row = connection.execute(
            """
            SELECT ($output IS NOT NULL AND output_file_id IS DISTINCT FROM $output)
                OR ($errors IS NOT NULL AND error_file_id IS DISTINCT FROM $errors)
            FROM openai_batch WHERE submission_id = $id
            """,
            {"id": submission.id, "output": batch.output_file_id, "errors": batch.error_file_id},
        ).fetchone()
    return batch.has_ended and row is not None and bool(row[0])
