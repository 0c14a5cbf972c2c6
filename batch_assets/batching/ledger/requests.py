"""The state of the requests that a day needs: answered, in flight, pending, cancelled or failed."""

from dataclasses import dataclass
from typing import NamedTuple

import duckdb

from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.outcomes import CANCELLED_BY_USER
from batch_assets.batching.ledger.states import OPEN
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE

UNLIMITED = 2**31 - 1

MACROS = f"""
    CREATE OR REPLACE TEMP MACRO day_request(day) AS TABLE
    SELECT article_id, custom_id FROM batch_request WHERE partition_date = day::DATE;

    -- answers of the built-in engine count only where no other API is configured
    CREATE OR REPLACE TEMP MACRO valid_completion(configured_api) AS TABLE
    SELECT rowid AS place, * FROM completion
    WHERE api IS NULL OR api <> '{BUILT_IN_ENGINE}' OR configured_api = '{BUILT_IN_ENGINE}';

    CREATE OR REPLACE TEMP MACRO is_cut_below(finish_reason, limit_in_force, today) AS
    coalesce(finish_reason = 'length' AND limit_in_force < today, false);
"""
# The answers of a day are neighbors in `completion`. So the later statements read a range of rows, not the answers of
# months.
FIND_ANSWERS = """
    SELECT
        count(*) AS requests, coalesce(min(place), 0) AS first, coalesce(max(place), -1) AS last,
        count(*) FILTER (is_cut_below(finish_reason, max_output_tokens, $max_output_tokens)) AS cut
    FROM valid_completion($api) SEMI JOIN day_request($day) USING (custom_id)
"""
# How often each request came back without an answer, and why. These failures do not count: one that a refresh has
# superseded; an answer that never began since the limit was lower than today's; and one that the built-in engine
# simulated, where another API is configured.
FIND_FAILURES = f"""
    CREATE OR REPLACE TEMP TABLE failure AS
    SELECT
        custom_id, count(*) FILTER (code <> '{CANCELLED_BY_USER}') AS attempts, bool_and(retryable) AS retryable,
        arg_max(code, failed_at) AS code, string_agg(DISTINCT concat_ws(': ', code, message), '; ') AS reasons,
        -- The user cancelled it on this day. What was cancelled before it was in a batch names its day instead. An
        -- equal article of another day that the user cancelled does not count.
        arg_max(
            code = '{CANCELLED_BY_USER}'
                AND coalesce(partition_date = CAST($day AS DATE), batch_id = 'cancelled/' || $day),
            failed_at
        ) AS is_cancelled
    FROM (
        SELECT * FROM failed_request
        WHERE NOT coalesce(superseded, false)
            AND NOT coalesce(code = 'max_output_tokens' AND max_output_tokens < $max_output_tokens, false)
            AND (api IS NULL OR api <> '{BUILT_IN_ENGINE}' OR $api = '{BUILT_IN_ENGINE}')
    ) SEMI JOIN day_request($day) USING (custom_id)
    LEFT JOIN (SELECT DISTINCT batch_id, partition_date FROM openai_batch) USING (batch_id)
    GROUP BY custom_id
"""
FIND_IN_FLIGHT = """
    CREATE OR REPLACE TEMP TABLE in_flight AS
    SELECT DISTINCT custom_id FROM in_flight_request SEMI JOIN day_request($day) USING (custom_id)
    WHERE submission_id IN (SELECT submission_id FROM openai_batch WHERE list_contains($open_states, state))
"""
# The state of each request that has no valid answer, or is asked again. The order is that of `RequestState`.
FIND_UNANSWERED = """
    CREATE OR REPLACE TEMP TABLE unanswered_request AS
    WITH answered AS (
        SELECT custom_id FROM valid_completion($api) ANTI JOIN in_flight USING (custom_id)
        WHERE place BETWEEN $first AND $last
            AND NOT ($cut > 0 AND is_cut_below(finish_reason, max_output_tokens, $max_output_tokens))
    ),
    unanswered AS (SELECT DISTINCT custom_id FROM day_request($day) ANTI JOIN answered USING (custom_id))
    SELECT
        custom_id,
        CASE
            WHEN in_flight.custom_id IS NOT NULL THEN 'in_flight'
            WHEN attempts >= $max_rounds OR NOT retryable THEN 'failed'
            WHEN is_cancelled THEN 'cancelled'
            ELSE 'pending'
        END AS state
    FROM unanswered LEFT JOIN failure USING (custom_id) LEFT JOIN in_flight USING (custom_id)
"""
COUNT_ANSWERS_ASKED_AGAIN = """
    SELECT count(*) FROM unanswered_request SEMI JOIN (
        SELECT custom_id FROM valid_completion($api) WHERE place BETWEEN $first AND $last
    ) AS answer USING (custom_id)
"""


@dataclass(frozen=True)
class Question:
    """What decides about the state of a request: the API that is configured, and today's limits.

    max_output_tokens: of an answer; one that was cut under a lower limit counts as none.
    max_rounds: how often a request may come back without an answer before it counts as failed.
    """

    api: str = BUILT_IN_ENGINE
    max_output_tokens: int = 0
    max_rounds: int = UNLIMITED


class Answers(NamedTuple):
    """The answers that a day has: of how many requests, between which rowids of `completion`, and how many are cut
    under a lower limit than today's."""

    requests: int
    first: int
    last: int
    cut: int


@dataclass(frozen=True)
class DayStates:
    """The states of a day's requests, which are in temp tables of the connection."""

    day: str
    question: Question
    answers: Answers

    @property
    def answer_range(self) -> dict[str, object]:
        """Parameters of a statement that reads the answers of the day."""
        return {"api": self.question.api, "first": self.answers.first, "last": self.answers.last}

    def counts(self, connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
        """How many of the day's distinct requests are in each state."""
        (asked_again,) = connection.execute(COUNT_ANSWERS_ASKED_AGAIN, self.answer_range).fetchone() or (0,)
        unanswered = connection.execute(
            "SELECT state, count(*) FROM unanswered_request GROUP BY state ORDER BY ALL"
        ).fetchall()
        answered = self.answers.requests - asked_again
        return {**({"answered": answered} if answered else {}), **dict(unanswered)}


def find_states(connection: duckdb.DuckDBPyConnection, day: str, question: Question) -> DayStates:
    """Derive the state of each request of the day.

    Makes the table macros `day_request(day)` (article_id, custom_id) and `valid_completion(api)`, and the temp tables
    `unanswered_request` (custom_id, state), `failure` (custom_id, attempts, code, reasons, …) of requests that came
    back without an answer, and `in_flight` (custom_id).
    """
    connection.execute(MACROS)
    asked = {"day": day, "api": question.api, "max_output_tokens": question.max_output_tokens}
    row = connection.execute(FIND_ANSWERS, asked).fetchone()
    assert row is not None  # an aggregate without GROUP BY has one row
    answers = Answers(*row)
    connection.execute(FIND_FAILURES, asked)
    connection.execute(FIND_IN_FLIGHT, {"day": day, "open_states": list(OPEN)})
    connection.execute(FIND_UNANSWERED, {**asked, "max_rounds": question.max_rounds, **_range(answers)})
    return DayStates(day, question, answers)


def _range(answers: Answers) -> dict[str, int]:
    return {"first": answers.first, "last": answers.last, "cut": answers.cut}


def hold_pending(database: Database, day: str, question: Question) -> None:
    """Cancel the day's pending requests, until the user plans the day again, that is with `resume_cancelled`."""
    with database.writing() as connection, transaction(connection):
        find_states(connection, day, question)
        connection.execute(
            """
            INSERT INTO failed_request (custom_id, batch_id, code, message, retryable, superseded, failed_at)
            SELECT custom_id, 'cancelled/' || ?, ?, 'Cancelled before it was sent again.', true, false, ?
            FROM unanswered_request WHERE state = 'pending'
            """,
            [day, CANCELLED_BY_USER, now_utc()],
        )
