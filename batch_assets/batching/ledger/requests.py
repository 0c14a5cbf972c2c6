"""The state of each request that a day needs: in flight, answered, failed, blocked, cancelled or pending.

No table has these states. `find_states` derives them, by one statement after another: the answers of the day, then the
failures that count, then the requests in flight and the blocked ones, and from these the state of each request that has
no answer.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import duckdb

from batch_assets.batching.ledger.database import Database, parsed, transaction
from batch_assets.batching.ledger.outcomes import (
    CANCELLED_BATCH_ID_PREFIX,
    CANCELLED_BY_USER,
    IS_USED_UP,
    MAX_BATCH_RETRIES,
    Scope,
    cancelled_batch_id,
)
from batch_assets.batching.ledger.states import OPEN, UNSENT, State
from batch_assets.batching.ledger.synchronous_calls import CALL_LIFETIME_SQL
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.task_day import TaskDay

NO_LIMIT_ON_ROUNDS = 2**31 - 1


class BlockedBy(StrEnum):
    """What keeps a run from sending a blocked request."""

    SUBMISSION = "submission"  # a budget, an unknown price or an account error: its request file cannot be sent
    FILE = "file"  # the results of its batch are missing: only the user decides whether a run buys it again
    ACCOUNT = "account"  # the pause after an account error
    CALL = "call"  # a process asks it outside of a batch now


class BudgetRefusal(NamedTuple):
    """Why a budget allows no submission of the day: a code for `summaries.error_code`, and a sentence."""

    code: str
    message: str


@dataclass(frozen=True)
class RequestStateRules:
    """The settings that decide about the state of a request: the API that is configured, and today's limits.

    max_output_tokens: of an answer. An answer that was cut under a lower limit does not count.
    max_rounds: how often a request may end without an answer before it counts as failed.
    refusal: why no run may send the day's request files; None if one may.
    """

    api: str = BUILT_IN_ENGINE
    max_output_tokens: int = 0
    max_rounds: int = NO_LIMIT_ON_ROUNDS
    refusal: BudgetRefusal | None = None


class DayAnswers(NamedTuple):
    """The valid answers of a day.

    requests: how many requests have one.
    first, last: the lowest and the highest rowid of these answers in the table `completion`.
    cut: how many were cut under a lower limit than today's.
    """

    requests: int
    first: int
    last: int
    cut: int


# 1. What a request of the day and a valid answer are. An answer of the built-in engine is valid only if no other API is
# configured.
CREATE_MACROS = f"""
    CREATE OR REPLACE TEMP MACRO day_request(of_task, day) AS TABLE
    SELECT article_id, custom_id FROM batch_request WHERE task = of_task AND partition_date = day::DATE;

    CREATE OR REPLACE TEMP MACRO counts_at(answered_by, configured_api) AS
    answered_by IS NULL OR answered_by <> '{BUILT_IN_ENGINE}' OR configured_api = '{BUILT_IN_ENGINE}';

    CREATE OR REPLACE TEMP MACRO valid_completion(configured_api) AS TABLE
    SELECT rowid AS place, * FROM completion WHERE counts_at(api, configured_api);

    CREATE OR REPLACE TEMP MACRO is_cut_below(finish_reason, limit_in_force, today) AS
    coalesce(finish_reason = 'length' AND limit_in_force < today, false);
"""
# 2. The answers of the day. They are neighbors in `completion`, so the later statements read only this range of rows,
# and not the answers of months.
FIND_ANSWERS = """
    SELECT
        count(*) AS requests, coalesce(min(place), 0) AS first, coalesce(max(place), -1) AS last,
        count(*) FILTER (is_cut_below(finish_reason, max_output_tokens, $max_output_tokens)) AS cut
    FROM valid_completion($api) SEMI JOIN day_request($task, $day) USING (custom_id)
"""
# 3. How often each request ended without an answer, and why. These failures do not count: one that a refresh has
# superseded; one whose limit was lower than today's, so that the answer did not begin; and one that the built-in engine
# simulated, if another API is configured.
FIND_FAILURES = f"""
    CREATE OR REPLACE TEMP TABLE failure AS
    SELECT
        custom_id, count(*) FILTER (code <> '{CANCELLED_BY_USER}' AND coalesce(scope = 'request', true)) AS attempts,
        count(*) FILTER (scope = 'batch') AS batch_failures, {IS_USED_UP} AS is_used_up,
        bool_or(coalesce(scope = '{Scope.FILE}', false)) AS is_missing_in_file,
        -- after an account error
        max(not_before) AS not_before, bool_and(retryable) AS retryable,
        arg_max(code, failed_at) AS code, string_agg(DISTINCT concat_ws(': ', code, message), '; ') AS reasons,
        -- Whether the user cancelled it for this task and day. A request that was cancelled before it was in a batch
        -- has both in `batch_id`. The cancellation of an equal request of another task or day does not count.
        arg_max(
            code = '{CANCELLED_BY_USER}' AND coalesce(
                task = $task AND partition_date = CAST($day AS DATE),
                batch_id = '{CANCELLED_BATCH_ID_PREFIX}' || $task || '/' || $day
            ),
            failed_at
        ) AS is_cancelled
    FROM (
        SELECT * FROM failed_request
        WHERE NOT coalesce(superseded, false)
            AND NOT coalesce(code = 'max_output_tokens' AND max_output_tokens < $max_output_tokens, false)
            AND counts_at(api, $api)
    ) SEMI JOIN day_request($task, $day) USING (custom_id)
    LEFT JOIN (SELECT DISTINCT batch_id, task, partition_date FROM openai_batch) USING (batch_id)
    GROUP BY custom_id
"""
# Most days have none, and FIND_FAILURES takes longer to plan than a search for one.
HAS_FAILURES = "SELECT EXISTS (SELECT 1 FROM failed_request SEMI JOIN day_request($task, $day) USING (custom_id))"
NO_FAILURES = """
    CREATE OR REPLACE TEMP TABLE failure (
        custom_id VARCHAR, attempts BIGINT, batch_failures BIGINT, is_used_up BOOLEAN, is_missing_in_file BOOLEAN,
        not_before TIMESTAMP, retryable BOOLEAN, code VARCHAR, reasons VARCHAR, is_cancelled BOOLEAN
    )
"""
# 4. The requests of the day that are in an open submission, of this task and day or of another.
FIND_IN_FLIGHT = """
    CREATE OR REPLACE TEMP TABLE in_flight AS
    SELECT DISTINCT custom_id FROM in_flight_request SEMI JOIN day_request($task, $day) USING (custom_id)
    WHERE submission_id IN (SELECT submission_id FROM openai_batch WHERE list_contains($open_states, state))
"""
# 5. The requests that are only in files which no run can send now: over a budget, or refused for the account.
FIND_BLOCKED = f"""
    CREATE OR REPLACE TEMP TABLE blocked_submission AS
    SELECT
        submission_id,
        CASE WHEN is_refused THEN coalesce(refusal_code, 'account') ELSE $code END AS code,
        CASE WHEN is_refused THEN message ELSE $message END AS message
    FROM (
        SELECT
            submission_id, refusal_code, message, coalesce(
                state = '{State.DEFERRED}' AND deferred_by = '{Scope.ACCOUNT}' AND not_before > $now, false
            ) AS is_refused
        FROM openai_batch WHERE list_contains($unsent_states, state)
    )
    WHERE is_refused OR $code IS NOT NULL;
"""
FIND_BLOCKED_REQUESTS = """
    CREATE OR REPLACE TEMP TABLE blocked_request AS
    SELECT custom_id, any_value(code) AS code, any_value(message) AS message
    FROM in_flight_request JOIN blocked_submission USING (submission_id) SEMI JOIN in_flight USING (custom_id)
    ANTI JOIN (
        SELECT custom_id FROM in_flight_request JOIN openai_batch USING (submission_id)
        WHERE list_contains($sent_states, state)
    ) AS sent USING (custom_id)
    GROUP BY custom_id
"""
NO_BLOCKED_REQUESTS = """
    CREATE OR REPLACE TEMP TABLE blocked_request (custom_id VARCHAR, code VARCHAR, message VARCHAR)
"""
# 6. The requests that a process asks outside of a batch now, and until when it may wait for the answer.
FIND_ASKED_NOW = f"""
    CREATE OR REPLACE TEMP TABLE asked_now AS
    SELECT custom_id, max(sent_at) + {CALL_LIFETIME_SQL} AS until FROM synchronous_call
    WHERE state = 'sent' AND sent_at > $now::TIMESTAMP - {CALL_LIFETIME_SQL} GROUP BY custom_id
"""
# 7. The state of each request that has no valid answer, or that is in flight again: the first condition that holds.
FIND_UNANSWERED = f"""
    CREATE OR REPLACE TEMP TABLE unanswered_request AS
    WITH answered AS (
        SELECT custom_id FROM valid_completion($api) ANTI JOIN in_flight USING (custom_id)
        WHERE place BETWEEN $first AND $last
            AND NOT ($cut > 0 AND is_cut_below(finish_reason, max_output_tokens, $max_output_tokens))
    ),
    unanswered AS (SELECT DISTINCT custom_id FROM day_request($task, $day) ANTI JOIN answered USING (custom_id))
    SELECT
        custom_id, state[1] AS state, state[2] AS blocked_by, not_before
    FROM (
        SELECT
            custom_id, coalesce(asked_now.until, failure.not_before) AS not_before,
            CASE
                WHEN blocked_request.custom_id IS NOT NULL THEN ['blocked', '{BlockedBy.SUBMISSION}']
                WHEN in_flight.custom_id IS NOT NULL THEN ['in_flight']
                WHEN asked_now.custom_id IS NOT NULL THEN ['blocked', '{BlockedBy.CALL}']
                WHEN attempts >= $max_rounds OR batch_failures >= {MAX_BATCH_RETRIES} OR is_used_up OR NOT retryable
                    THEN ['failed']
                WHEN is_missing_in_file THEN ['blocked', '{BlockedBy.FILE}']
                WHEN is_cancelled THEN ['cancelled']
                WHEN failure.not_before > $now THEN ['blocked', '{BlockedBy.ACCOUNT}']
                ELSE ['pending']
            END AS state
        FROM unanswered LEFT JOIN failure USING (custom_id) LEFT JOIN in_flight USING (custom_id)
        LEFT JOIN blocked_request USING (custom_id) LEFT JOIN asked_now USING (custom_id)
    )
"""
# NULL if a pending request waits for nothing.
FIRST_ATTEMPT = f"""
    SELECT CASE WHEN bool_and(not_before IS NOT NULL) THEN min(not_before) END
    FROM unanswered_request WHERE state = 'pending' OR blocked_by IN ('{BlockedBy.ACCOUNT}', '{BlockedBy.CALL}')
"""
COUNT_UNANSWERED = "SELECT state, count(*) FROM unanswered_request GROUP BY state ORDER BY ALL"
COUNT_BLOCKED = """
    SELECT blocked_by, count(*) FROM unanswered_request WHERE state = 'blocked' GROUP BY blocked_by ORDER BY ALL
"""
# The requests that have an answer which does not count, or which a refresh will replace.
COUNT_REPEATED = """
    SELECT count(*) FROM unanswered_request SEMI JOIN (
        SELECT custom_id FROM valid_completion($api) WHERE place BETWEEN $first AND $last
    ) AS answer USING (custom_id)
"""


@dataclass(frozen=True)
class DayStates:
    """The states of a day's requests. The temp tables of the connection hold them."""

    day: TaskDay
    rules: RequestStateRules
    answers: DayAnswers

    @property
    def answer_range(self) -> dict[str, object]:
        """The parameters of a statement that reads the answers of the day."""
        return {"api": self.rules.api, "first": self.answers.first, "last": self.answers.last}

    def counts(self, connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
        """How many of the day's distinct requests are in each state."""
        (repeated,) = connection.execute(parsed(COUNT_REPEATED), self.answer_range).fetchone() or (0,)
        answered = self.answers.requests - repeated
        unanswered = connection.execute(parsed(COUNT_UNANSWERED)).fetchall()
        return {**({"answered": answered} if answered else {}), **dict(unanswered)}

    def blocked(self, connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
        """How many of the day's blocked requests are blocked by what: see `BlockedBy`."""
        return dict(connection.execute(parsed(COUNT_BLOCKED)).fetchall())

    def next_attempt_at(self, connection: duckdb.DuckDBPyConnection) -> datetime | None:
        """When the first pending request may be sent (UTC, without zone); None: at once, or none is pending."""
        row = connection.execute(parsed(FIRST_ATTEMPT)).fetchone()
        return None if row is None else row[0]


def find_states(connection: duckdb.DuckDBPyConnection, day: TaskDay, rules: RequestStateRules) -> DayStates:
    """Derive the state of each request of the day.

    Creates the macro `counts_at(answered_by, configured_api)`, the table macros `day_request(task, day)` (article_id,
    custom_id) and `valid_completion(api)`, and the temp tables
    `unanswered_request` (custom_id, state, blocked_by, not_before), `failure` (custom_id, attempts, code, reasons, …)
    of the requests that ended without an answer, `in_flight` (custom_id) and `blocked_request` (custom_id, code,
    message).
    """
    now = now_utc()
    create_macros(connection)
    parameters = {**day._asdict(), "api": rules.api, "max_output_tokens": rules.max_output_tokens}
    row = connection.execute(parsed(FIND_ANSWERS), parameters).fetchone()
    assert row is not None  # an aggregate without GROUP BY has one row
    answers = DayAnswers(*row)
    if connection.execute(parsed(HAS_FAILURES), day._asdict()).fetchone() == (True,):
        connection.execute(parsed(FIND_FAILURES), parameters)
    else:
        connection.execute(parsed(NO_FAILURES))
    connection.execute(parsed(FIND_IN_FLIGHT), {**day._asdict(), "open_states": list(OPEN)})
    _find_blocked(connection, rules.refusal, now)
    connection.execute(parsed(FIND_ASKED_NOW), {"now": now})
    more = {
        "max_rounds": rules.max_rounds,
        "first": answers.first,
        "last": answers.last,
        "cut": answers.cut,
        "now": now,
    }
    connection.execute(parsed(FIND_UNANSWERED), {**parameters, **more})
    return DayStates(day, rules, answers)


def create_macros(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the macros of `find_states`, and `is_cut_below(finish_reason, limit_in_force, today)`."""
    connection.execute(CREATE_MACROS)


def _find_blocked(connection: duckdb.DuckDBPyConnection, refusal: BudgetRefusal | None, now: datetime) -> None:
    code, message = refusal or (None, None)
    parameters = {"code": code, "message": message, "now": now, "unsent_states": list(UNSENT)}
    (blocked,) = connection.execute(parsed(FIND_BLOCKED), parameters).fetchone() or (0,)
    if blocked:
        sent = [state for state in OPEN if state not in UNSENT]
        connection.execute(parsed(FIND_BLOCKED_REQUESTS), {"sent_states": sent})
    else:
        connection.execute(parsed(NO_BLOCKED_REQUESTS))


def cancel_pending(database: Database, day: TaskDay, rules: RequestStateRules) -> None:
    """Cancel the day's pending requests until the user plans the day again with `resume_cancelled`.

    Also those in a pause, and those that a process asks outside of a batch now.
    """
    with database.writing() as connection, transaction(connection):
        find_states(connection, day, rules)
        connection.execute(
            f"""
            INSERT INTO failed_request (custom_id, batch_id, code, message, retryable, superseded, failed_at)
            SELECT
                custom_id, ?, ?, 'Cancelled before it was sent again.', true, false, ?
            FROM unanswered_request
            WHERE state = 'pending' OR blocked_by IN ('{BlockedBy.ACCOUNT}', '{BlockedBy.CALL}')
            """,
            [cancelled_batch_id(day), CANCELLED_BY_USER, now_utc()],
        )
