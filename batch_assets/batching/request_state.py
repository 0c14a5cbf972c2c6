"""What is known of the requests that a day needs: answered, in flight, owed, cancelled or failed."""

import duckdb

from batch_assets.batching.database import Database, transaction
from batch_assets.batching.remote import now_utc
from batch_assets.batching.results import CANCELLED_BY_USER

DAY_REQUESTS = """
    CREATE OR REPLACE TEMP VIEW day_request AS
    SELECT article_id, custom_id FROM batch_request WHERE partition_date = getvariable('day')
"""
# The day's answers lie together in `completion`, as they came: the others, of months perhaps, are looked at only once.
FIND_ANSWERS = """
    SET VARIABLE answers = (
        SELECT {'requests': count(*), 'first': min(completion.rowid), 'last': max(completion.rowid)}
        FROM completion SEMI JOIN day_request USING (custom_id)
    )
"""
FIND_TROUBLES = """
    CREATE OR REPLACE TEMP TABLE failure AS
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
    FROM failed_request SEMI JOIN day_request USING (custom_id) LEFT JOIN openai_batch USING (batch_id)
    GROUP BY custom_id;

    CREATE OR REPLACE TEMP TABLE in_flight AS
    SELECT DISTINCT custom_id FROM pending_request SEMI JOIN day_request USING (custom_id);
"""
# From what is known of each anywhere. `failed`: for good; `cancelled`: by hand.
FIND_UNANSWERED = """
    CREATE OR REPLACE TEMP TABLE unanswered_request AS
    WITH answered AS (
        SELECT custom_id FROM completion
        WHERE rowid BETWEEN getvariable('answers').first AND getvariable('answers').last
    ),
    unanswered AS (SELECT DISTINCT custom_id FROM day_request ANTI JOIN answered USING (custom_id))
    SELECT
        custom_id,
        CASE
            WHEN in_flight.custom_id IS NOT NULL THEN 'in_flight'
            WHEN attempts >= getvariable('max_rounds') OR NOT retryable THEN 'failed'
            WHEN is_held THEN 'cancelled'
            ELSE 'owed'
        END AS state
    FROM unanswered LEFT JOIN failure USING (custom_id) LEFT JOIN in_flight USING (custom_id)
"""
COUNT_STATES = """
    SELECT 'answered', getvariable('answers').requests WHERE getvariable('answers').requests > 0
    UNION ALL
    SELECT state, count(*) FROM unanswered_request GROUP BY state ORDER BY ALL
"""


def find_states(connection: duckdb.DuckDBPyConnection, day: str, max_rounds: int) -> None:
    """Find out what became of the day's requests.

    Fills the variable `answers` (requests, first, last: how many have an answer, and between which rowids of
    `completion` these are), the temp view `day_request` (article_id, custom_id), and the temp tables
    `unanswered_request` (custom_id, state) and `failure` (custom_id, code, reasons, …), which has some of these.
    """
    connection.execute("SET VARIABLE day = CAST(? AS DATE)", [day])
    connection.execute("SET VARIABLE max_rounds = ?", [max_rounds])
    for statements in (DAY_REQUESTS, FIND_ANSWERS, FIND_TROUBLES, FIND_UNANSWERED):
        connection.execute(statements)


def state_counts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many of the day's distinct requests are in each state."""
    return dict(connection.execute(COUNT_STATES).fetchall())


def hold_owed(database: Database, day: str) -> None:
    """Let what the day owes wait until somebody plans it by hand, that is with `resume_cancelled`."""
    with database.writing() as connection, transaction(connection):
        find_states(connection, day, 2**31 - 1)
        connection.execute(
            """
            INSERT INTO failed_request
            SELECT
                custom_id, 'cancelled/' || getvariable('day'), ?, 'Cancelled before it was sent again.', NULL, true, ?
            FROM unanswered_request WHERE state = 'owed'
            """,
            [CANCELLED_BY_USER, now_utc()],
        )
