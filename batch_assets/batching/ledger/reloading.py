"""What the ledger knows of a batch whose result files the user loads again, and what of it is not in the tables.

`in_flight_request` has no request of a collected batch any more. Its request file has them; without that file, the
tables that have an outcome of the batch, or that need a request of its day, do.
"""

from collections.abc import Collection
from datetime import datetime

import duckdb

from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.task_day import TaskDay

MIN_ID_CHARACTERS = 8  # a shorter id may be in a file name by chance

BY_NAME = f"""
    SELECT submission_id FROM openai_batch WHERE batch_id IS NOT NULL AND (
        contains($name, submission_id) OR len(list_filter(
            [batch_id, output_file_id, error_file_id],
            lambda id: len(id) >= {MIN_ID_CHARACTERS} AND contains($name, id)
        )) > 0
    )
"""
BY_REQUESTS = """
    WITH asked AS (SELECT unnest($ids::VARCHAR[]) AS custom_id)
    SELECT submission_id FROM openai_batch WHERE batch_id IS NOT NULL AND (
        (task, partition_date) IN (SELECT (task, partition_date) FROM batch_request SEMI JOIN asked USING (custom_id))
        OR batch_id IN (SELECT batch_id FROM completion SEMI JOIN asked USING (custom_id))
        OR batch_id IN (SELECT batch_id FROM failed_request SEMI JOIN asked USING (custom_id))
        OR submission_id IN (SELECT submission_id FROM in_flight_request SEMI JOIN asked USING (custom_id))
    )
"""
KNOWN_REQUESTS = """
    SELECT custom_id FROM in_flight_request WHERE submission_id = $id
    UNION SELECT custom_id FROM completion WHERE batch_id = $batch_id
    UNION SELECT custom_id FROM failed_request WHERE batch_id = $batch_id
    UNION SELECT custom_id FROM batch_request WHERE task = $task AND partition_date = CAST($day AS DATE)
"""
# The usage of the lines beyond what is recorded for the batch, by kind: a line that was recorded adds nothing, and the
# files may be a part of all files. Tokens that the batch reported beyond its lines are recorded as unattributed: the
# lines that were missing then have them, so these are subtracted.
RECORD_MORE = """
    INSERT INTO spending (
        batch_id, submission_id, partition_date, task, kind, api, model, submitted_at, requests, billed_requests,
        cut_requests, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        cost_usd, simulated_cost_usd, recorded_at
    )
    WITH of_batch AS (SELECT * FROM spending WHERE submission_id = $id AND batch_id = $batch_id),
    usage AS (
        SELECT kind, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens FROM billed_line
        UNION ALL
        SELECT kind, -input_tokens, -cached_input_tokens, -output_tokens, -reasoning_tokens FROM of_batch
    ),
    of_kind AS (
        SELECT
            CASE WHEN kind = 'unattributed' THEN -1e15 ELSE 0 END AS least_tokens,
            greatest(coalesce(sum(input_tokens), 0), least_tokens) AS input,
            greatest(coalesce(sum(cached_input_tokens), 0), least_tokens) AS cached,
            greatest(coalesce(sum(output_tokens), 0), least_tokens) AS output,
            greatest(coalesce(sum(reasoning_tokens), 0), least_tokens) AS reasoning
        FROM usage GROUP BY kind
    ),
    more AS (
        SELECT
            greatest(sum(input), 0)::BIGINT AS more_input,
            least(greatest(sum(cached), 0), more_input)::BIGINT AS more_cached,
            greatest(sum(output), 0)::BIGINT AS more_output,
            least(greatest(sum(reasoning), 0), more_output)::BIGINT AS more_reasoning
        FROM of_kind
    ),
    priced AS (
        SELECT
            more.*,
            (more_input - more_cached) * input_usd + more_cached * cached_input_usd + more_output * output_usd AS cost
        FROM more, ended_batch WHERE more_input + more_output > 0
    ),
    first AS (SELECT * FROM of_batch ORDER BY recorded_at, kind LIMIT 1)
    SELECT
        $batch_id, $id, partition_date, task, 'answered', api, model, submitted_at, $answers, $answers, 0, more_input,
        more_cached, 0, more_output, more_reasoning,
        CASE WHEN NOT $is_simulated THEN cost END, CASE WHEN $is_simulated THEN cost END, $now
    FROM first, priced
"""
DAYS_OF_ANSWERS = """
    SELECT DISTINCT task, partition_date::VARCHAR AS day FROM batch_request SEMI JOIN reloaded_answer USING (custom_id)
    ORDER BY day, task
"""


def submissions_named(connection: duckdb.DuckDBPyConnection, name: str) -> list[str]:
    """The ids of the submissions whose own id, whose batch or whose result file the name of a file has."""
    return [found for (found,) in connection.execute(BY_NAME, {"name": name}).fetchall()]


def submissions_with(connection: duckdb.DuckDBPyConnection, custom_ids: Collection[str]) -> list[str]:
    """The ids of the submissions with a batch that may have held one of these requests."""
    return [found for (found,) in connection.execute(BY_REQUESTS, {"ids": list(custom_ids)}).fetchall()]


def known_requests(connection: duckdb.DuckDBPyConnection, submission: Submission) -> set[str]:
    """The requests that the batch may have, as far as the tables know them."""
    parameters = {"id": submission.id, "batch_id": submission.batch_id, **submission.task_day._asdict()}
    return {custom_id for (custom_id,) in connection.execute(KNOWN_REQUESTS, parameters).fetchall()}


def present_state(connection: duckdb.DuckDBPyConnection, submission: Submission) -> State | None:
    """The state of the submission; None if it has another batch now."""
    row = connection.execute(
        "SELECT state FROM openai_batch WHERE submission_id = ? AND batch_id = ?", [submission.id, submission.batch_id]
    ).fetchone()
    return None if row is None else State(row[0])


def time_of_batch(
    connection: duckdb.DuckDBPyConnection, submission: Submission
) -> tuple[datetime | None, datetime | None]:
    """When it was submitted, and when it ended (UTC, without zone); None where that is not known."""
    row = connection.execute(
        "SELECT coalesce(submitted_at, claimed_at), ended_at FROM openai_batch WHERE submission_id = ?", [submission.id]
    ).fetchone()
    return (None, None) if row is None else (row[0], row[1])


def has_spending(connection: duckdb.DuckDBPyConnection, submission: Submission) -> bool:
    """Whether anything is recorded of what the batch billed."""
    statement = "SELECT 1 FROM spending WHERE submission_id = ? AND batch_id = ? LIMIT 1"
    return connection.execute(statement, [submission.id, submission.batch_id]).fetchone() is not None


def record_more_spending(
    connection: duckdb.DuckDBPyConnection, submission: Submission, *, answers: int, is_simulated: bool
) -> bool:
    """Record what the lines in `billed_line` used beyond what is recorded for the batch; False: nothing.

    answers: how many are new. Reads the temp table `ended_batch`, which has only this batch.
    """
    parameters = {
        "id": submission.id, "batch_id": submission.batch_id, "answers": answers, "is_simulated": is_simulated,
        "now": now_utc(),
    }  # fmt: skip
    return connection.execute(RECORD_MORE, parameters).fetchone() != (0,)


def days_of_reloaded_answers(connection: duckdb.DuckDBPyConnection) -> list[TaskDay]:
    """The days that need a request of the temp table `reloaded_answer`."""
    return [TaskDay(*row) for row in connection.execute(DAYS_OF_ANSWERS).fetchall()]
