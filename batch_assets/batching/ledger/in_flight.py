"""The table `in_flight_request`: which request is in which request file, until a run has collected its batch."""

from collections.abc import Sequence

import duckdb

from batch_assets.batching.ledger.states import ADOPTING_MOVES, UNCOLLECTED, State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.task_day import TaskDay

# The requests of the batches in `ended_batch`, which has the number of each batch.
FIND_REQUESTED = """
    CREATE OR REPLACE TEMP TABLE requested AS
    SELECT batch, custom_id FROM in_flight_request JOIN ended_batch USING (submission_id)
"""


def record_requests(connection: duckdb.DuckDBPyConnection, day: TaskDay, plan_number: int) -> None:
    """Record which file of the day's plan holds which request. Reads `line_positions` (custom_id, place from 0)."""
    connection.execute(
        """
        INSERT INTO in_flight_request (custom_id, submission_id)
        WITH shard AS (
            SELECT
                submission_id,
                (sum(requests) OVER (ORDER BY shard))::BIGINT AS stop,
                stop - requests AS start
            FROM batch_request_file WHERE task = ? AND partition_date = CAST(? AS DATE) AND plan = ?
        )
        SELECT custom_id, submission_id FROM line_positions JOIN shard ON place >= start AND place < stop
        """,
        [*day, plan_number],
    )


def find_requested(connection: duckdb.DuckDBPyConnection) -> None:
    """Fill the temp table `requested` (batch, custom_id) with the requests of the batches in `ended_batch`."""
    connection.execute(FIND_REQUESTED)


def share_requests(connection: duckdb.DuckDBPyConnection, submission_ids: Sequence[str]) -> bool:
    """Whether two of these submissions hold the same request.

    A plan puts a request into one file. Only a batch that was adopted or seen again can hold it a second time.
    """
    ids = list(submission_ids)
    moves = [move.name for move in ADOPTING_MOVES]
    adopted = connection.execute(
        "SELECT 1 FROM submission_event WHERE list_contains(?, submission_id) AND list_contains(?, move) LIMIT 1",
        [ids, moves],
    ).fetchone()
    if adopted is None:
        return False
    statement = """
        SELECT 1 FROM in_flight_request WHERE submission_id IN (SELECT unnest(?))
        GROUP BY custom_id HAVING count(*) > 1 LIMIT 1
    """
    return connection.execute(statement, [ids]).fetchone() is not None


def has_requests_in_another_batch(connection: duckdb.DuckDBPyConnection, submission: Submission) -> bool:
    """Whether another submission, whose batch may exist, holds one of this submission's requests."""
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
