"""What is known of the requests that a day needs: in flight, answered, failed, cancelled or pending."""

from dataclasses import dataclass

import duckdb

from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.states import OPEN
from batch_assets.batching.ledger.transitions import CANCELLED_BY_USER
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE

UNLIMITED = 2**31 - 1

DAY_REQUESTS = """
    CREATE OR REPLACE TEMP VIEW day_request AS
    SELECT article_id, custom_id FROM batch_request WHERE partition_date = getvariable('day');

    -- of a model or, where only the built-in engine is configured, of anything
    CREATE OR REPLACE TEMP VIEW valid_completion AS
    SELECT rowid AS place, * FROM completion
    WHERE api IS NULL OR api <> getvariable('built_in_engine') OR getvariable('api') = getvariable('built_in_engine')
"""
# The day's answers lie together in `completion`, as they came: the others, of months perhaps, are looked at only once.
FIND_ANSWERS = """
    SET VARIABLE answers = (
        SELECT {
            'requests': count(*), 'first': min(place), 'last': max(place),
            'cut': count(*) FILTER (finish_reason = 'length' AND max_output_tokens < getvariable('max_output_tokens'))
        }
        FROM valid_completion SEMI JOIN day_request USING (custom_id)
    )
"""
# Of each request that came back without an answer: how often, and why. A failure that a refresh has superseded counts
# no longer; nor does an answer that never began since the limit was lower, nor what another API than ours simulated.
FIND_FAILURES = """
    CREATE OR REPLACE TEMP TABLE failure AS
    SELECT
        custom_id, count(*) FILTER (code <> 'cancelled_by_user') AS attempts, bool_and(retryable) AS retryable,
        arg_max(code, failed_at) AS code, string_agg(DISTINCT concat_ws(': ', code, message), '; ') AS reasons,
        -- an equal article of another day that the user cancelled holds nothing up on this one; what was cancelled
        -- before there was a batch bears its day instead
        arg_max(
            code = 'cancelled_by_user'
                AND coalesce(partition_date = getvariable('day'), batch_id = 'cancelled/' || getvariable('day')),
            failed_at
        ) AS is_held
    FROM (
        SELECT * FROM failed_request
        WHERE NOT coalesce(superseded, false)
            AND NOT coalesce(
                code = 'max_output_tokens' AND max_output_tokens < getvariable('max_output_tokens'), false
            )
            AND (
                api IS NULL OR api <> getvariable('built_in_engine')
                OR getvariable('api') = getvariable('built_in_engine')
            )
    ) SEMI JOIN day_request USING (custom_id)
    LEFT JOIN (SELECT DISTINCT batch_id, partition_date FROM openai_batch) USING (batch_id)
    GROUP BY custom_id;

    CREATE OR REPLACE TEMP TABLE in_flight AS
    SELECT DISTINCT custom_id FROM in_flight_request SEMI JOIN day_request USING (custom_id)
    WHERE submission_id IN (
        SELECT submission_id FROM openai_batch WHERE list_contains(getvariable('open_states'), state)
    );
"""
# The state of each request but for those that are simply answered. The order is that of `RequestState`; an answer that
# was cut under a lower limit than today's counts as none.
FIND_UNANSWERED = """
    CREATE OR REPLACE TEMP TABLE unanswered_request AS
    WITH answered AS (
        SELECT custom_id FROM valid_completion ANTI JOIN in_flight USING (custom_id)
        WHERE place BETWEEN getvariable('answers').first AND getvariable('answers').last
            AND NOT coalesce(
                getvariable('answers').cut > 0
                    AND finish_reason = 'length' AND max_output_tokens < getvariable('max_output_tokens'),
                false
            )
    ),
    unanswered AS (SELECT DISTINCT custom_id FROM day_request ANTI JOIN answered USING (custom_id))
    SELECT
        custom_id,
        CASE
            WHEN in_flight.custom_id IS NOT NULL THEN 'in_flight'
            WHEN attempts >= getvariable('max_rounds') OR NOT retryable THEN 'failed'
            WHEN is_held THEN 'cancelled'
            ELSE 'pending'
        END AS state
    FROM unanswered LEFT JOIN failure USING (custom_id) LEFT JOIN in_flight USING (custom_id)
"""
COUNT_STATES = """
    SELECT 'answered', number FROM (
        SELECT getvariable('answers').requests - count(*) AS number  -- but for those that are asked anew
        FROM unanswered_request SEMI JOIN (
            SELECT custom_id FROM valid_completion
            WHERE place BETWEEN getvariable('answers').first AND getvariable('answers').last
        ) AS answer USING (custom_id)
    ) WHERE number > 0
    UNION ALL
    SELECT state, count(*) FROM unanswered_request GROUP BY state ORDER BY ALL
"""


@dataclass(frozen=True)
class Question:
    """By which a day's requests are judged: the API that is configured, and the limits that are in force now.

    max_output_tokens: of an answer; one that was cut under a lower limit counts as none.
    max_rounds: how often a request may come back without an answer before it counts as failed.
    """

    api: str = BUILT_IN_ENGINE
    max_output_tokens: int = 0
    max_rounds: int = UNLIMITED


def find_states(connection: duckdb.DuckDBPyConnection, day: str, question: Question) -> None:
    """Find out what became of the day's requests.

    Fills the variable `answers` (requests, first, last: how many have an answer, and between which rowids of
    `completion` these are), the temp views `day_request` (article_id, custom_id) and `valid_completion`, and the temp
    tables `unanswered_request` (custom_id, state) and `failure` (custom_id, code, reasons, …), which has some of these.
    """
    connection.execute("SET VARIABLE day = CAST(? AS DATE)", [day])
    for name, value in (
        ("api", question.api),
        ("built_in_engine", BUILT_IN_ENGINE),
        ("max_output_tokens", question.max_output_tokens),
        ("max_rounds", question.max_rounds),
        ("open_states", list(OPEN)),
    ):
        connection.execute(f"SET VARIABLE {name} = ?", [value])
    for statements in (DAY_REQUESTS, FIND_ANSWERS, FIND_FAILURES, FIND_UNANSWERED):
        connection.execute(statements)


def state_counts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many of the day's distinct requests are in each state."""
    return dict(connection.execute(COUNT_STATES).fetchall())


def hold_pending(database: Database, day: str, question: Question) -> None:
    """Let the day's pending requests wait until the user plans it again, that is with `resume_cancelled`."""
    with database.writing() as connection, transaction(connection):
        find_states(connection, day, question)
        connection.execute(
            """
            INSERT INTO failed_request (custom_id, batch_id, code, message, retryable, superseded, failed_at)
            SELECT
                custom_id, 'cancelled/' || getvariable('day'), ?, 'Cancelled before it was sent again.', true, false, ?
            FROM unanswered_request WHERE state = 'pending'
            """,
            [CANCELLED_BY_USER, now_utc()],
        )
