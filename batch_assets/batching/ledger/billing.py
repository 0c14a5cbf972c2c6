"""Records what ended batches billed in the table `spending`: a row for each batch and kind, which never changes.

A synchronous call counts as a batch of one request.
"""

import duckdb

from batch_assets.batching.ledger.database import parsed
from batch_assets.batching.provider.batches import now_utc

# `billed_line` has a row for each line that was billed, or that counts as the outcome of a request. `unattributed` is
# usage that belongs to no request: that of further lines, and the usage that the batch reports beyond all its lines
# (lines that a run could not read, or that the API did not write). The submission identifies a batch, too: servers that
# number their batches give one id to two of them.
BATCHES = """
    CREATE OR REPLACE TEMP VIEW billed_submission AS
    SELECT
        submission_id, task, partition_date, api, coalesce(submitted_at, claimed_at) AS submitted_at, input_tokens,
        cached_input_tokens, output_tokens, reasoning_tokens
    FROM openai_batch
"""
CALLS = """
    CREATE OR REPLACE TEMP VIEW billed_submission AS
    SELECT
        call_id AS submission_id, task, partition_date, api, called_at AS submitted_at, NULL::BIGINT AS input_tokens,
        NULL::BIGINT AS cached_input_tokens, NULL::BIGINT AS output_tokens, NULL::BIGINT AS reasoning_tokens
    FROM synchronous_call
"""
RECORD = """
    INSERT INTO spending (
        batch_id, submission_id, partition_date, task, kind, api, model, submitted_at, requests, billed_requests,
        cut_requests, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        cost_usd, simulated_cost_usd, recorded_at
    )
    WITH of_lines AS MATERIALIZED (
        SELECT
            batch, kind,
            count(*) FILTER (kind <> 'unattributed') AS requests,
            count(*) FILTER (kind <> 'unattributed' AND tells_usage) AS billed_requests,
            count(*) FILTER (kind <> 'unattributed' AND tells_usage AND is_cut) AS cut_requests,
            coalesce(sum(input_tokens), 0) AS input_tokens,
            coalesce(sum(cached_input_tokens), 0) AS cached_input_tokens,
            coalesce(sum(cache_write_tokens), 0) AS cache_write_tokens,
            coalesce(sum(output_tokens), 0) AS output_tokens,
            coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens,
            sum(cost) AS cost
        FROM billed_line GROUP BY batch, kind
    ),
    of_all_lines AS (
        SELECT
            batch, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
            sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens
        FROM of_lines GROUP BY batch
    ),
    beyond_lines AS (
        SELECT
            batch, input_usd, cached_input_usd, output_usd,
            greatest(coalesce(reported.input_tokens, 0) - coalesce(line.input_tokens, 0), 0) AS more_input,
            least(
                greatest(coalesce(reported.cached_input_tokens, 0) - coalesce(line.cached_input_tokens, 0), 0),
                more_input
            ) AS more_cached,
            greatest(coalesce(reported.output_tokens, 0) - coalesce(line.output_tokens, 0), 0) AS more_output,
            greatest(coalesce(reported.reasoning_tokens, 0) - coalesce(line.reasoning_tokens, 0), 0) AS more_reasoning
        FROM ended_batch JOIN billed_submission AS reported USING (submission_id)
        LEFT JOIN of_all_lines AS line USING (batch)
    ),
    billed AS (
        SELECT
            batch, kind, requests, billed_requests, cut_requests, input_tokens, cached_input_tokens,
            cache_write_tokens, output_tokens, reasoning_tokens, cost
        FROM of_lines
        UNION ALL
        SELECT
            batch, 'unattributed', 0, 0, 0, more_input, more_cached, 0, more_output, more_reasoning,
            (more_input - more_cached) * input_usd + more_cached * cached_input_usd + more_output * output_usd
        FROM beyond_lines WHERE more_input + more_output > 0
    )
    SELECT
        ended_batch.batch_id, submission_id, any_value(sent.partition_date), any_value(sent.task), kind,
        any_value(sent.api), any_value(ended_batch.model), any_value(coalesce(sent.submitted_at, $now)),
        sum(billed.requests), sum(billed.billed_requests), sum(billed.cut_requests), sum(billed.input_tokens),
        sum(billed.cached_input_tokens), sum(billed.cache_write_tokens), sum(billed.output_tokens),
        sum(billed.reasoning_tokens),
        CASE WHEN NOT any_value(is_simulated) THEN sum(cost) END, CASE WHEN any_value(is_simulated) THEN sum(cost) END,
        $now
    FROM billed JOIN ended_batch USING (batch) JOIN billed_submission AS sent USING (submission_id)
    WHERE (submission_id, ended_batch.batch_id) NOT IN (SELECT (submission_id, batch_id) FROM spending)
    GROUP BY ended_batch.batch_id, submission_id, kind
"""


def record_spending(connection: duckdb.DuckDBPyConnection, *, of_calls: bool = False) -> None:
    """Record what the batches in the temp table `ended_batch` billed; a batch that has rows already gets no others.

    Call it in the transaction that collects these batches, with the temp view `billed_line`. of_calls: they are
    synchronous calls.
    """
    connection.execute(CALLS if of_calls else BATCHES)
    connection.execute(parsed(RECORD), {"now": now_utc()})
