"""The table `in_flight_request`: which requests are in which file, until its batch is collected."""

from collections.abc import Sequence

import duckdb

from batch_assets.batching.ledger.states import ADOPT, RECOVER, SEE_AGAIN

# What the batches were asked: `ended_batch` has their numbers.
FIND_REQUESTS_OF = """
    CREATE OR REPLACE TEMP TABLE requested AS
    SELECT batch, custom_id FROM in_flight_request JOIN ended_batch USING (submission_id)
"""


def enter_requests(connection: duckdb.DuckDBPyConnection, day: str, plan_number: int) -> None:
    """Record which file of the day's plan holds which request. Reads `line_positions` (custom_id, place from 0)."""
    connection.execute(
        """
        INSERT INTO in_flight_request (custom_id, submission_id)
        WITH shard AS (
            SELECT
                submission_id,
                (sum(requests) OVER (ORDER BY shard))::BIGINT AS stop,
                stop - requests AS start
            FROM batch_request_file WHERE partition_date = CAST(? AS DATE) AND plan = ?
        )
        SELECT custom_id, submission_id FROM line_positions JOIN shard ON place >= start AND place < stop
        """,
        [day, plan_number],
    )


def find_requests_of(connection: duckdb.DuckDBPyConnection) -> None:
    """Fill the temp table `requested` (batch, custom_id) with what the batches in `ended_batch` were asked."""
    connection.execute(FIND_REQUESTS_OF)


def share_requests(connection: duckdb.DuckDBPyConnection, submission_ids: Sequence[str]) -> bool:
    """Whether two of these submissions hold the same request.

    A plan puts a request into one file. Only a batch that was taken in, or seen again, can hold it a second time.
    """
    ids = list(submission_ids)
    moves = [ADOPT.name, RECOVER.name, SEE_AGAIN.name]
    taken_in = connection.execute(
        "SELECT 1 FROM submission_event WHERE list_contains(?, submission_id) AND list_contains(?, move) LIMIT 1",
        [ids, moves],
    ).fetchone()
    if taken_in is None:
        return False
    statement = """
        SELECT 1 FROM in_flight_request WHERE submission_id IN (SELECT unnest(?))
        GROUP BY custom_id HAVING count(*) > 1 LIMIT 1
    """
    return connection.execute(statement, [ids]).fetchone() is not None
