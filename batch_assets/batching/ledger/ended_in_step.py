"""The requests of a step of a task that ended in it: the next step asks them again."""

from collections.abc import Collection

import duckdb

from batch_assets.batching.ledger.database import parsed
from batch_assets.batching.ledger.requests import create_macros
from batch_assets.batching.ledger.states import OPEN
from batch_assets.batching.task_day import TaskDay

# The requests of a step that ended with one of the codes, or were cut, and that have no better answer. One that is in
# flight again, after a refresh, has not ended. What was cut under a lower limit than today's is asked again in the same
# step.
FIND = """
    CREATE OR REPLACE TEMP TABLE ended_in_step AS
    WITH of_step AS (
        SELECT DISTINCT custom_id FROM batch_request
        WHERE task = $task AND partition_date = CAST($day AS DATE) AND step = $step
    ),
    failed AS (
        SELECT custom_id FROM failed_request SEMI JOIN of_step USING (custom_id)
        WHERE NOT superseded AND list_contains($codes, code) AND counts_at(api, $api)
            AND NOT coalesce(code = 'max_output_tokens' AND max_output_tokens < $max_output_tokens, false)
    ),
    answer AS (
        SELECT
            custom_id, coalesce(finish_reason = 'length', false) AS is_cut,
            is_cut_below(finish_reason, max_output_tokens, $max_output_tokens) AS is_asked_again
        FROM valid_completion($api) SEMI JOIN of_step USING (custom_id)
    ),
    ended AS (
        SELECT custom_id FROM failed
        UNION SELECT custom_id FROM answer WHERE $takes_cut_answers AND is_cut AND NOT is_asked_again
    )
    SELECT custom_id FROM ended
    ANTI JOIN (
        SELECT custom_id FROM answer WHERE NOT (is_cut AND ($takes_cut_answers OR is_asked_again))
    ) AS good USING (custom_id)
    ANTI JOIN (
        SELECT custom_id FROM in_flight_request SEMI JOIN of_step USING (custom_id)
        WHERE submission_id IN (SELECT submission_id FROM openai_batch WHERE list_contains($open, state))
    ) AS in_flight USING (custom_id)
"""


def find_ended_in_step(
    connection: duckdb.DuckDBPyConnection,
    day: TaskDay,
    step: int,
    codes: Collection[str],
    *,
    takes_cut_answers: bool,
    max_output_tokens: int,
    api: str,
) -> int:
    """Fill the temp table `ended_in_step` (custom_id); returns how many there are.

    codes: of failures. takes_cut_answers: whether an answer that was cut has ended, too. max_output_tokens: the limit
    of the step. api: whose answers and failures count.
    """
    create_macros(connection)
    parameters = {
        **day._asdict(),
        "step": step,
        "codes": list(codes),
        "takes_cut_answers": takes_cut_answers,
        "max_output_tokens": max_output_tokens,
        "api": api,
        "open": list(OPEN),
    }
    (ended,) = connection.execute(parsed(FIND), parameters).fetchone() or (0,)
    return int(ended)
