"""Requests that failed for good are pending again, since the user has removed the cause."""

import duckdb

from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.requests import RequestStateRules, find_states
from batch_assets.batching.ledger.states import State

SUPERSEDE = """
    UPDATE failed_request SET superseded = true
    WHERE NOT superseded AND custom_id IN (
        SELECT custom_id FROM unanswered_request JOIN failure USING (custom_id)
        WHERE state = 'failed' AND ($code IS NULL OR failure.code = $code)
    )
"""
COUNT_FAILED = """
    SELECT count(*) FROM unanswered_request JOIN failure USING (custom_id)
    WHERE state = 'failed' AND ($code IS NULL OR failure.code = $code)
"""
END_PAUSES = """
    UPDATE failed_request SET not_before = NULL
    WHERE not_before IS NOT NULL AND custom_id IN (SELECT custom_id FROM day_request($day))
"""


def supersede_failures(
    connection: duckdb.DuckDBPyConnection, day: str, rules: RequestStateRules, code: str | None = None
) -> int:
    """Let the failures of the day's failed requests count no longer; returns how many requests are pending again.

    `code`: only the requests whose last failure has this code. The spending of the failures stays recorded.
    """
    find_states(connection, day, rules)
    (failed,) = connection.execute(COUNT_FAILED, {"code": code}).fetchone() or (0,)
    if failed:
        connection.execute(SUPERSEDE, {"code": code})
    return int(failed)


def retry_day(database: Database, day: str, rules: RequestStateRules, code: str | None = None) -> int:
    """`supersede_failures`, and end all pauses of the day: of requests, and of deferred request files."""
    with database.writing() as connection, transaction(connection):
        failed = supersede_failures(connection, day, rules, code)
        connection.execute(END_PAUSES, {"day": day})
        connection.execute(
            "UPDATE openai_batch SET not_before = NULL WHERE state = ? AND partition_date = CAST(? AS DATE)",
            [State.DEFERRED, day],
        )
    return failed
