"""What is known of the requests that a day needs: answered, in flight, owed, cancelled or failed."""

import duckdb

from batch_assets.batching.database import Database, transaction
from batch_assets.batching.remote import now_utc
from batch_assets.batching.results import CANCELLED_BY_USER

# From what is known of each request anywhere. `failed`: for good; `cancelled`: by hand.
REQUEST_STATE = """
    CREATE OR REPLACE TEMP TABLE request_state AS
    WITH needed AS (
        SELECT custom_id, any_value(article_id) AS article_id
        FROM batch_request WHERE partition_date = getvariable('day') GROUP BY custom_id
    ),
    failure AS (
        SELECT
            custom_id, count(*) FILTER (code <> 'cancelled_by_user') AS attempts, bool_and(retryable) AS retryable,
            arg_max(code, failed_at) AS code, string_agg(DISTINCT concat_ws(': ', code, message), '; ') AS reasons,
            -- an equal article of another day that somebody cancelled holds nothing up on this one; what was cancelled
            -- before there was a batch bears its day instead
            arg_max(
                code = 'cancelled_by_user'
                    AND coalesce(partition_date = getvariable('day'), batch_id = 'cancelled/' || getvariable('day')),
                failed_at
            ) AS is_held
        FROM failed_request SEMI JOIN needed USING (custom_id) LEFT JOIN openai_batch USING (batch_id)
        GROUP BY custom_id
    ),
    answered AS (SELECT DISTINCT custom_id FROM completion SEMI JOIN needed USING (custom_id)),
    in_flight AS (SELECT DISTINCT custom_id FROM pending_request SEMI JOIN needed USING (custom_id))
    SELECT
        custom_id, article_id, attempts, code, reasons,
        CASE
            WHEN answered.custom_id IS NOT NULL THEN 'answered'
            WHEN in_flight.custom_id IS NOT NULL THEN 'in_flight'
            WHEN attempts >= getvariable('max_rounds') OR NOT retryable THEN 'failed'
            WHEN is_held THEN 'cancelled'
            ELSE 'owed'
        END AS state
    FROM needed
    LEFT JOIN failure USING (custom_id) LEFT JOIN answered USING (custom_id) LEFT JOIN in_flight USING (custom_id)
"""


def find_states(connection: duckdb.DuckDBPyConnection, day: str, max_rounds: int) -> None:
    """Fill the temp table `request_state`: custom_id, article_id (one of them), attempts, code, reasons, state."""
    connection.execute("SET VARIABLE day = CAST(? AS DATE)", [day])
    connection.execute("SET VARIABLE max_rounds = ?", [max_rounds])
    connection.execute(REQUEST_STATE)


def state_counts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many of the day's distinct requests are in each state."""
    return dict(
        connection.execute("SELECT state, count(*) FROM request_state GROUP BY state ORDER BY state").fetchall()
    )


def hold_owed(database: Database, day: str) -> None:
    """Let what the day owes wait until somebody plans it by hand, that is with `resume_cancelled`."""
    with database.writing() as connection, transaction(connection):
        find_states(connection, day, 2**31 - 1)
        connection.execute(
            """
            INSERT INTO failed_request
            SELECT
                custom_id, 'cancelled/' || getvariable('day'), ?, 'Cancelled before it was sent again.', NULL, true, ?
            FROM request_state WHERE state = 'owed'
            """,
            [CANCELLED_BY_USER, now_utc()],
        )
