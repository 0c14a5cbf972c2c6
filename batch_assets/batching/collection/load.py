"""Results of ended batches into tables: every request ends up as an answer, or as a failure with its reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb

from batch_assets.batching.collection.result_lines import read_result_files
from batch_assets.batching.collection.token_costs import (
    COST_USD_SQL,
    RATE_COLUMNS,
    RATE_COLUMNS_DDL,
    rate_values,
)
from batch_assets.batching.ledger import batch_transitions
from batch_assets.batching.ledger.aliases import refuse_option
from batch_assets.batching.ledger.billing import record_spending
from batch_assets.batching.ledger.database import fixed_join_order
from batch_assets.batching.ledger.in_flight import find_requests_of, share_requests
from batch_assets.batching.ledger.transitions import CANCELLED_BY_USER
from batch_assets.batching.planning.model_options import OPENAI_API, OPTIONAL_PARAMETERS
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.provider.prices import ModelPrice, batch_rates
from batch_assets.batching.safety.secrets import HIDDEN, known_secrets_pattern

MISSING = "missing_from_results"
REFUSED_OPTION = "refused_option"
BATCH_STATUS_CODES = {"expired": "batch_expired", "cancelled": "batch_cancelled", "failed": "batch_failed"}
# Client errors that are worth another try: time-out, conflict, too early, rate limit.
RETRYABLE_CLIENT_ERRORS = (408, 409, 425, 429)
# Batches are loaded together, so that all cores have something to do; but not more than fits into memory.
BYTES_AT_ONCE = 400_000_000

CREATE_BATCHES = f"""
    CREATE OR REPLACE TEMP TABLE ended_batch (
        batch INTEGER, submission_id VARCHAR, batch_id VARCHAR, model VARCHAR, ended_at TIMESTAMP,
        api VARCHAR, is_simulated BOOLEAN, max_output_tokens BIGINT, is_refresh BOOLEAN,
        code VARCHAR, message VARCHAR,                                 -- of a request that nothing else is said of
        cancelled_by_user BOOLEAN,
        {RATE_COLUMNS_DDL}     -- USD per token; NULL if not known
    )
"""
ENTER_BATCH = f"""
    INSERT INTO ended_batch (
        batch, submission_id, batch_id, model, ended_at, api, is_simulated, max_output_tokens, is_refresh, code,
        message, cancelled_by_user, {", ".join(RATE_COLUMNS)}
    )
    VALUES ({", ".join("?" * (12 + len(RATE_COLUMNS)))})
"""
# What of the batches' requests was answered before, by whichever batch, is not answered again, unless the new answer is
# better: of a refresh, of a model instead of the built-in engine, or instead of one that was cut.
FIND_ANSWERED_BEFORE = """
    CREATE OR REPLACE TEMP TABLE answered_before AS
    SELECT custom_id, api, finish_reason FROM completion SEMI JOIN requested USING (custom_id);
"""
# Of several lines for one request the better one counts. None: `chosen` is NULL.
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
# Each line that tells a usage was billed, whether or not it counts for a request: some are a request's second ones, or
# of no request of the batch. `cost` of a line that tells no usage is zero: nothing was billed, as far as it says.
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
        custom_id, text, finish_reason, model, api, max_output_tokens, input_tokens, cached_input_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, cost_usd, simulated_cost_usd, batch_id, request_id,
        completed_at
    )
    SELECT
        custom_id, text, finish_reason, coalesce(line.model, ended_batch.model), api, max_output_tokens,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        CASE WHEN NOT is_simulated THEN {COST_USD_SQL} END, CASE WHEN is_simulated THEN {COST_USD_SQL} END,
        batch_id, request_id, ended_at
    FROM result_line AS line
    SEMI JOIN outcome ON line.rowid = outcome.chosen
    ANTI JOIN answered_before USING (custom_id)
    JOIN ended_batch USING (batch)
    WHERE line.code IS NULL
"""
# A refresh asked anew: what failed before counts no longer.
SUPERSEDE_FAILURES = """
    UPDATE failed_request SET superseded = true
    WHERE custom_id IN (SELECT custom_id FROM requested JOIN ended_batch USING (batch) WHERE is_refresh)
"""
INSERT_FAILURES = f"""
    INSERT INTO failed_request (
        custom_id, batch_id, code, message, http_status, retryable, superseded, api, max_output_tokens, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd, simulated_cost_usd,
        failed_at
    )
    WITH failure AS (
        SELECT
            batch, custom_id,
            -- an API may repeat the key that it was sent; without secrets, $secrets is NULL
            coalesce(regexp_replace(line.code, $secrets::VARCHAR, $hidden, 'gi'), line.code) AS code,
            coalesce(regexp_replace(line.message, $secrets::VARCHAR, $hidden, 'gi'), line.message) AS message,
            status_code,
            line.code NOT IN ('content_refused', 'max_output_tokens') AND NOT coalesce(
                status_code BETWEEN 400 AND 499 AND NOT list_contains($retryable, status_code), false
            ) AS retryable,
            input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens
        FROM result_line AS line WHERE line.code IS NOT NULL AND rowid IN (SELECT chosen FROM outcome)
        UNION ALL
        SELECT
            batch, custom_id, refused.code, refused.message, NULL, refused.custom_id IS NULL,
            NULL, NULL, NULL, NULL, NULL
        FROM outcome LEFT JOIN refused USING (custom_id) WHERE chosen IS NULL
    )
    SELECT
        custom_id, batch_id,
        CASE
            WHEN is_refused_option THEN $refused_option
            WHEN retryable AND cancelled_by_user THEN $cancelled
            ELSE coalesce(failure.code, ended_batch.code)
        END,
        CASE WHEN failure.code IS NULL THEN ended_batch.message ELSE failure.message END,
        status_code, retryable OR is_refused_option, is_refused_option, api, max_output_tokens,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        CASE WHEN NOT is_simulated THEN {COST_USD_SQL} END, CASE WHEN is_simulated THEN {COST_USD_SQL} END, ended_at
    FROM (
        SELECT
            *,
            coalesce(len(list_filter($refused_now::VARCHAR[], lambda option: contains(message, option))) > 0, false)
                OR (code IS NULL AND list_contains($refused_batches::INTEGER[], batch)) AS is_refused_option
        FROM failure
    ) AS failure JOIN ended_batch USING (batch)
"""
# By lines that were executed, or by the validation of the whole batch, which then ran none of its requests.
FIND_REFUSED_OPTION = """
    SELECT batch, message, false AS is_of_validation
    FROM result_line WHERE status_code = 400 AND contains(message, $option)
    UNION ALL
    SELECT batch, refused.message, true
    FROM refused JOIN requested USING (custom_id) WHERE contains(refused.message, $option)
    UNION ALL
    SELECT batch, message, true FROM ended_batch WHERE contains(message, $option)
"""
COUNT_OUTCOMES = """
    SELECT
        batch_id, count(*) FILTER (is_answer AND answered_before.custom_id IS NULL), count(*) FILTER (NOT is_answer)
    FROM ended_batch LEFT JOIN outcome USING (batch) LEFT JOIN answered_before USING (custom_id)
    GROUP BY batch_id
"""


@dataclass(frozen=True)
class EndedBatch:
    """A batch that has ended, with its result files on disk.

    `api` is the name of the API that made it; `max_output_tokens` the limit of an answer that was in force, None if it
    is not known; `is_refresh`: its answers replace those that are there; `planned_at` when its file was written.
    `reasons` names requests that OpenAI refused before it ran anything: custom_id →
    (code, message). `reason` is what it said of the batch as a whole. `cancelled_by_user`: what has no answer isn't to
    go out again by itself.
    """

    submission_id: str
    batch_id: str
    model: str
    status: str
    ended_at: datetime
    files: list[Path]
    api: str | None = None
    max_output_tokens: int | None = None
    is_refresh: bool = False
    reasons: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    reason: tuple[str, str] | None = None
    cancelled_by_user: bool = False
    planned_at: datetime | None = None


@dataclass(frozen=True)
class Loaded:
    """What became of a batch's requests; `quarantined` counts lines."""

    answered: int
    failed: int
    quarantined: int


def in_groups(batches: Sequence[EndedBatch]) -> Iterator[list[EndedBatch]]:
    """The batches in groups, of which each is worth a transaction of its own.

    A transaction keeps what was read until its end, and so grows with what it loads.
    """
    group: list[EndedBatch] = []
    group_bytes = 0
    for batch in batches:
        batch_bytes = sum(path.stat().st_size for path in batch.files)
        if group and group_bytes + batch_bytes > BYTES_AT_ONCE:
            yield group
            group, group_bytes = [], 0
        group.append(batch)
        group_bytes += batch_bytes
    if group:
        yield group


def load_results(
    connection: duckdb.DuckDBPyConnection, batches: Sequence[EndedBatch], own_prices: tuple[ModelPrice, ...] = ()
) -> dict[str, Loaded]:
    """Enter the batches' results and what they cost; returns what became of each, by its batch_id.

    Call it inside a transaction, once for a batch, and with a group of `in_groups`: it holds all of them in memory.
    """
    keys = [(batch.submission_id, batch.batch_id) for batch in batches]
    if len(batches) > 1 and share_requests(connection, [submission_id for submission_id, _ in keys]):
        loaded = [load_results(connection, [batch], own_prices) for batch in batches]
        return {batch_id: outcome for one in loaded for batch_id, outcome in one.items()}
    _enter_batches(connection, batches, own_prices)
    find_requests_of(connection)
    connection.execute(FIND_ANSWERED_BEFORE)
    files = [(path, number, batch.batch_id) for number, batch in enumerate(batches) for path in batch.files]
    quarantined = read_result_files(connection, files)
    connection.execute(CHOOSE_LINES)
    connection.execute(FIND_REPLACED, {"built_in_engine": BUILT_IN_ENGINE})
    connection.execute(DELETE_REPLACED)
    with fixed_join_order(connection):
        connection.execute(INSERT_COMPLETIONS)
    if any(batch.is_refresh for batch in batches):
        connection.execute(SUPERSEDE_FAILURES)
    refused_now, refused_batches = _note_refused_options(connection, batches)
    connection.execute(
        INSERT_FAILURES,
        {
            "retryable": list(RETRYABLE_CLIENT_ERRORS),
            "cancelled": CANCELLED_BY_USER,
            "refused_option": REFUSED_OPTION,
            "refused_now": refused_now,
            "refused_batches": refused_batches,
            "secrets": known_secrets_pattern(),
            "hidden": HIDDEN,
        },
    )
    connection.execute(BILLED_LINES)
    record_spending(connection)
    batch_transitions.collect(connection, keys)
    counts = connection.execute(COUNT_OUTCOMES).fetchall()
    connection.execute("DROP TABLE result_line")  # it is as large as the texts
    return {batch_id: Loaded(answered, failed, quarantined.get(batch_id, 0)) for batch_id, answered, failed in counts}


def _enter_batches(
    connection: duckdb.DuckDBPyConnection, batches: Sequence[EndedBatch], own_prices: tuple[ModelPrice, ...]
) -> None:
    connection.execute(CREATE_BATCHES)
    rows = [_row(number, batch, own_prices) for number, batch in enumerate(batches)]
    connection.executemany(ENTER_BATCH, rows)
    connection.execute("CREATE OR REPLACE TEMP TABLE refused (custom_id VARCHAR, code VARCHAR, message VARCHAR)")
    if refused := [(custom_id, *why) for batch in batches for custom_id, why in batch.reasons.items()]:
        connection.executemany("INSERT INTO refused (custom_id, code, message) VALUES (?, ?, ?)", refused)


def _row(number: int, batch: EndedBatch, own_prices: tuple[ModelPrice, ...]) -> tuple[object, ...]:
    code, message = batch.reason or (
        BATCH_STATUS_CODES.get(batch.status, MISSING),
        f"The batch ended as {batch.status}, and neither of its result files has a line for this request.",
    )
    return (
        number, batch.submission_id, batch.batch_id, batch.model, batch.ended_at, batch.api,
        batch.api == BUILT_IN_ENGINE, batch.max_output_tokens, batch.is_refresh, code, message, batch.cancelled_by_user,
        *rate_values(batch_rates(batch.model, api=batch.api or OPENAI_API, own_prices=own_prices)),
    )  # fmt: skip


def _note_refused_options(
    connection: duckdb.DuckDBPyConnection, batches: Sequence[EndedBatch]
) -> tuple[list[str], list[int]]:
    """The optional parameters that the API has refused in these batches, and which batches it did not run for them.

    They are not sent again, and cost no round. One that was refused before the request file was written is not in its
    requests, and so is no reason.
    """
    refused_now: list[str] = []
    not_run: set[int] = set()
    for option in OPTIONAL_PARAMETERS:
        rows = connection.execute(FIND_REFUSED_OPTION, {"option": option}).fetchall()
        first_of = {number: message for number, message, _ in reversed(rows)}
        news = {
            number
            for number, message in first_of.items()
            if refuse_option(
                connection,
                batches[number].api or "",
                batches[number].model,
                option,
                message,
                batches[number].planned_at,
            )
        }
        if news:
            refused_now.append(option)
        not_run |= {number for number, _, is_of_validation in rows if is_of_validation and number in news}
    return refused_now, sorted(not_run)
