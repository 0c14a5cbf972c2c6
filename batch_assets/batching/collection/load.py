"""Loads the results of ended batches and of synchronous calls: every request becomes an answer, or a failure with its
reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from batch_assets.batching.collection.ended_batches import EndedBatch, enter_batches
from batch_assets.batching.collection.failures import load_failures
from batch_assets.batching.collection.judged_answers import judge_answers, judge_vectors
from batch_assets.batching.collection.late_files import quarantine_incomplete_files
from batch_assets.batching.collection.result_lines import ResultFile, read_result_files
from batch_assets.batching.ledger import batch_transitions
from batch_assets.batching.ledger.billing import record_spending
from batch_assets.batching.ledger.database import fixed_join_order, parsed
from batch_assets.batching.ledger.in_flight import find_requested, share_requests
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.provider.token_costs import COST_USD_SQL

# An earlier answer stays, unless the new one is better: it is of a refresh, or of a model and the earlier one is of the
# built-in engine, or the earlier one was cut.
FIND_ANSWERED_BEFORE = """
    CREATE OR REPLACE TEMP TABLE answered_before AS
    SELECT custom_id, api, finish_reason FROM completion SEMI JOIN requested USING (custom_id);
"""
REQUEST_OF_CALL = """
    CREATE OR REPLACE TEMP TABLE requested AS SELECT 0::INTEGER AS batch, $custom_id::VARCHAR AS custom_id
"""
# Of several lines for one request, the better one counts. Without a line, `chosen` is NULL.
CHOOSE_LINES = """
    CREATE OR REPLACE TEMP TABLE outcome AS
    SELECT
        custom_id, min(batch) AS batch,
        arg_min(line.rowid, CASE WHEN code IS NULL THEN 0 WHEN status_code IS NOT NULL THEN 1 ELSE 2 END) AS chosen,
        coalesce(bool_or(line.rowid IS NOT NULL AND code IS NULL), false) AS is_answer
    FROM requested LEFT JOIN result_line AS line USING (batch, custom_id)
    GROUP BY custom_id
"""
FIND_REPLACED = """
    CREATE OR REPLACE TEMP TABLE replaced AS
    SELECT custom_id
    FROM answered_before AS before JOIN outcome USING (custom_id) JOIN ended_batch USING (batch)
    WHERE is_answer
        AND (before.api = $built_in_engine OR NOT is_simulated)
        AND (is_refresh OR before.api = $built_in_engine AND NOT is_simulated OR before.finish_reason = 'length')
"""
DELETE_REPLACED = """
    DELETE FROM answered_before WHERE custom_id IN (SELECT custom_id FROM replaced);
    DELETE FROM completion WHERE custom_id IN (SELECT custom_id FROM replaced);
"""
# OpenAI bills each line with a usage, whether or not it counts for a request: a request may have several lines, and a
# line may have no request of the batch. `cost` of a line without a usage is zero.
BILLED_LINES = f"""
    CREATE OR REPLACE TEMP VIEW billed_line AS
    SELECT
        line.batch,
        CASE WHEN chosen IS NULL THEN 'unattributed' WHEN line.code IS NULL THEN 'answered' ELSE 'failed' END AS kind,
        input_tokens IS NOT NULL OR output_tokens IS NOT NULL AS tells_usage,
        coalesce(finish_reason = 'length', false) AS is_cut,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        CASE WHEN input_usd IS NOT NULL THEN coalesce({COST_USD_SQL}, 0) END AS cost
    FROM result_line AS line
    LEFT JOIN (SELECT chosen FROM outcome) AS outcome ON line.rowid = outcome.chosen
    JOIN ended_batch ON ended_batch.batch = line.batch
    WHERE chosen IS NOT NULL OR tells_usage
"""
INSERT_COMPLETIONS = f"""
    INSERT INTO completion (
        custom_id, text, vector, finish_reason, model, api, max_output_tokens, input_tokens, cached_input_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, cost_usd, simulated_cost_usd, batch_id, request_id,
        completed_at
    )
    SELECT
        custom_id, CASE WHEN vector IS NULL THEN text ELSE '' END, vector, finish_reason,
        coalesce(line.model, ended_batch.model), api, max_output_tokens,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        CASE WHEN NOT is_simulated THEN {COST_USD_SQL} END, CASE WHEN is_simulated THEN {COST_USD_SQL} END,
        batch_id, request_id, ended_at
    FROM result_line AS line
    SEMI JOIN outcome ON line.rowid = outcome.chosen
    ANTI JOIN answered_before USING (custom_id)
    JOIN ended_batch USING (batch)
    WHERE line.code IS NULL
"""
COUNT_OUTCOMES = """
    SELECT
        batch_id, count(*) FILTER (is_answer AND answered_before.custom_id IS NULL), count(*) FILTER (NOT is_answer)
    FROM ended_batch LEFT JOIN outcome USING (batch) LEFT JOIN answered_before USING (custom_id)
    GROUP BY batch_id
"""


@dataclass(frozen=True)
class Loaded:
    """How many requests of a batch were answered or failed, and how many lines are in quarantine."""

    answered: int
    failed: int
    quarantined: int


def load_results(
    connection: duckdb.DuckDBPyConnection, batches: Sequence[EndedBatch], own_prices: tuple[ModelPrice, ...] = ()
) -> dict[str, Loaded]:
    """Load the results of these batches and their costs; returns the counts of each, by batch_id.

    Call it inside a transaction, once for each batch, with a group of `in_groups`: it holds the group in memory.
    """
    keys = [(batch.submission_id, batch.batch_id) for batch in batches]
    if len(batches) > 1 and share_requests(connection, [submission_id for submission_id, _ in keys]):
        loaded = [load_results(connection, [batch], own_prices) for batch in batches]
        return {batch_id: counts for one in loaded for batch_id, counts in one.items()}
    enter_batches(connection, batches, own_prices)
    find_requested(connection)
    counts = _load_entered(connection, batches)
    batch_transitions.collect(connection, keys)
    return counts


def load_call(connection: duckdb.DuckDBPyConnection, call: EndedBatch, custom_id: str) -> Loaded:
    """Load the answer to a request that was asked outside of a batch, and its cost at the standard price.

    call: as a batch of one request. Call it inside the transaction that records the end of the call.
    """
    enter_batches(connection, [call], ())
    connection.execute(REQUEST_OF_CALL, {"custom_id": custom_id})
    return _load_entered(connection, [call], of_calls=True)[call.batch_id]


def _load_entered(
    connection: duckdb.DuckDBPyConnection, batches: Sequence[EndedBatch], *, of_calls: bool = False
) -> dict[str, Loaded]:
    """Load the results of the batches in `ended_batch`, whose requests are in `requested`."""
    connection.execute(parsed(FIND_ANSWERED_BEFORE))
    files = [
        ResultFile(path, number, batch.batch_id, batch.endpoint)
        for number, batch in enumerate(batches)
        for path in batch.files.values()
    ]
    quarantined = read_result_files(connection, files)
    schemas = {number: batch.output_schema for number, batch in enumerate(batches)}
    judge_answers(connection, {number: schema for number, schema in schemas.items() if schema is not None})
    lengths = {number: batch.vector_length for number, batch in enumerate(batches)}
    judge_vectors(connection, {number: length for number, length in lengths.items() if length is not None})
    connection.execute(parsed(CHOOSE_LINES))
    connection.execute(parsed(FIND_REPLACED), {"built_in_engine": BUILT_IN_ENGINE})
    connection.execute(DELETE_REPLACED)
    with fixed_join_order(connection):
        connection.execute(parsed(INSERT_COMPLETIONS))
    quarantine_incomplete_files(connection, batches)
    load_failures(connection, batches)
    connection.execute(parsed(BILLED_LINES))
    record_spending(connection, of_calls=of_calls)
    counts = connection.execute(parsed(COUNT_OUTCOMES)).fetchall()
    connection.execute("DROP TABLE result_line")  # it is as large as the answers
    return {batch_id: Loaded(answered, failed, quarantined.get(batch_id, 0)) for batch_id, answered, failed in counts}
