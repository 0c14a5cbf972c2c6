"""Requests that failed for good, or whose results are missing, are pending again, since the user wants it."""

from collections.abc import Iterable
from typing import NamedTuple

import duckdb

from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.outcomes import Scope
from batch_assets.batching.ledger.requests import BlockedBy, RequestStateRules, find_states
from batch_assets.batching.ledger.states import State
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.task_day import TaskDay

FAILED = f"""
    SELECT custom_id FROM unanswered_request JOIN failure USING (custom_id)
    WHERE (state = 'failed' OR blocked_by = '{BlockedBy.FILE}') AND ($code IS NULL OR failure.code = $code)
"""
SUPERSEDE = f"""
    UPDATE failed_request SET superseded = true
    WHERE NOT superseded AND custom_id IN (
        SELECT custom_id FROM ({FAILED})
    )
"""
COUNT_FAILED = f"SELECT count(*) FROM ({FAILED})"
COUNT_IN_PAUSE = f"SELECT count(*) FROM unanswered_request WHERE blocked_by = '{BlockedBy.ACCOUNT}'"
END_PAUSES = """
    UPDATE failed_request SET not_before = NULL
    WHERE not_before > $now AND custom_id IN (SELECT custom_id FROM day_request($task, $day))
"""
END_PAUSES_OF_FILES = """
    UPDATE openai_batch SET not_before = NULL
    WHERE state = $deferred AND task = $task AND partition_date = CAST($day AS DATE) AND not_before IS NOT NULL
        AND ($only IS NULL OR deferred_by = $only)
"""


class Retried(NamedTuple):
    """requests: how many were failed or blocked, and are pending now. files: how many no longer wait for a pause."""

    requests: int
    files: int


def supersede_failures(
    connection: duckdb.DuckDBPyConnection, day: TaskDay, rules: RequestStateRules, code: str | None = None
) -> int:
    """Let the failures of the day's failed requests, and of those whose results are missing, count no longer; returns
    how many requests are pending again.

    `code`: only the requests whose last failure has this code. The spending of the failures stays recorded.
    """
    find_states(connection, day, rules)
    (failed,) = connection.execute(COUNT_FAILED, {"code": code}).fetchone() or (0,)
    if failed:
        connection.execute(SUPERSEDE, {"code": code})
    return int(failed)


def end_account_pauses(database: Database, days: Iterable[TaskDay]) -> None:
    """Let a run send at once the request files of these days that wait after an account error."""
    with database.writing() as connection:
        for day in days:
            _end_pauses_of_files(connection, day, only=Scope.ACCOUNT)


def retry_day(database: Database, day: TaskDay, rules: RequestStateRules, code: str | None = None) -> Retried:
    """`supersede_failures`, and end all pauses of the day: of requests, and of deferred request files."""
    with database.writing() as connection, transaction(connection):
        failed = supersede_failures(connection, day, rules, code)
        (in_pause,) = connection.execute(COUNT_IN_PAUSE).fetchone() or (0,)
        connection.execute(END_PAUSES, {**day._asdict(), "now": now_utc()})
        return Retried(failed + in_pause, _end_pauses_of_files(connection, day, only=None))


def _end_pauses_of_files(connection: duckdb.DuckDBPyConnection, day: TaskDay, *, only: Scope | None) -> int:
    parameters = {**day._asdict(), "deferred": State.DEFERRED, "only": only}
    (files,) = connection.execute(END_PAUSES_OF_FILES, parameters).fetchone() or (0,)
    return int(files)
