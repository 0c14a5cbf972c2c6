"""Results of ended batches into tables: every request ends up as an answer, or as a failure with its reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb

from batch_assets.batching.database import joins_as_written
from batch_assets.batching.prices import batch_rates
from batch_assets.batching.result_lines import read_result_files
from batch_assets.batching.secrets import HIDDEN, known_secrets_pattern

MISSING = "missing_from_results"
CANCELLED_BY_USER = "cancelled_by_user"
BATCH_STATUS_CODES = {"expired": "batch_expired", "cancelled": "batch_cancelled", "failed": "batch_failed"}
# Client errors that are worth another try: time-out, conflict, too early, rate limit.
RETRYABLE_CLIENT_ERRORS = (408, 409, 425, 429)
# Batches are loaded together, so that all cores have something to do; but not more than fits into memory.
BYTES_AT_ONCE = 400_000_000

CREATE_BATCHES = """
    CREATE OR REPLACE TEMP TABLE ended_batch (
        batch INTEGER, submission_key VARCHAR, batch_id VARCHAR, model VARCHAR, ended_at TIMESTAMP,
        input_usd DOUBLE, cached_input_usd DOUBLE, output_usd DOUBLE,  -- per token; NULL if not known
        code VARCHAR, message VARCHAR,                                 -- of a request that nothing else is said of
        cancelled_by_user BOOLEAN
    )
"""
# What the batches were asked. What of it was answered before, by whichever batch, is not answered again.
FIND_KNOWN = """
    CREATE OR REPLACE TEMP TABLE known AS
    SELECT batch, custom_id FROM pending_request JOIN ended_batch USING (submission_key);
    CREATE OR REPLACE TEMP TABLE answered_before AS
    SELECT custom_id FROM completion SEMI JOIN known USING (custom_id);
"""
# Of several lines for one request the better one counts. None: `chosen` is NULL.
CHOOSE_LINES = """
    CREATE OR REPLACE TEMP TABLE outcome AS
    SELECT
        custom_id, min(batch) AS batch,
        arg_min(line.rowid, CASE WHEN code IS NULL THEN 0 WHEN status_code IS NOT NULL THEN 1 ELSE 2 END) AS chosen,
        coalesce(bool_or(line.rowid IS NOT NULL AND code IS NULL), false) AS is_answer
    FROM known LEFT JOIN result_line AS line USING (batch, custom_id)
    GROUP BY custom_id
"""
INSERT_COMPLETIONS = """
    INSERT INTO completion
    SELECT
        custom_id, text, finish_reason, coalesce(line.model, ended_batch.model),
        input_tokens, cached_input_tokens, output_tokens, reasoning_tokens,
        (input_tokens - coalesce(cached_input_tokens, 0)) * input_usd
            + coalesce(cached_input_tokens, 0) * cached_input_usd
            + output_tokens * output_usd,
        batch_id, request_id, ended_at
    FROM result_line AS line
    SEMI JOIN outcome ON line.rowid = outcome.chosen
    ANTI JOIN answered_before USING (custom_id)
    JOIN ended_batch USING (batch)
    WHERE line.code IS NULL
"""
INSERT_FAILURES = """
    INSERT INTO failed_request
    WITH failure AS (
        SELECT
            batch, custom_id,
            -- an API may repeat the key that it was sent; without secrets, $secrets is NULL
            coalesce(regexp_replace(line.code, $secrets::VARCHAR, $hidden, 'gi'), line.code) AS code,
            coalesce(regexp_replace(line.message, $secrets::VARCHAR, $hidden, 'gi'), line.message) AS message,
            status_code,
            line.code NOT IN ('content_refused', 'max_output_tokens') AND NOT coalesce(
                status_code BETWEEN 400 AND 499 AND NOT list_contains($retryable, status_code), false
            ) AS retryable
        FROM result_line AS line WHERE line.code IS NOT NULL AND rowid IN (SELECT chosen FROM outcome)
        UNION ALL
        SELECT batch, custom_id, refused.code, refused.message, NULL, refused.custom_id IS NULL
        FROM outcome LEFT JOIN refused USING (custom_id) WHERE chosen IS NULL
    )
    SELECT
        custom_id, batch_id,
        CASE WHEN retryable AND cancelled_by_user THEN $cancelled ELSE coalesce(failure.code, ended_batch.code) END,
        CASE WHEN failure.code IS NULL THEN ended_batch.message ELSE failure.message END,
        status_code, retryable, ended_at
    FROM failure JOIN ended_batch USING (batch)
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

    `reasons` names requests that OpenAI refused before it ran anything: custom_id → (code, message).
    `reason` is what it said of the batch as a whole. `cancelled_by_user`: what has no answer isn't to go out again
    by itself.
    """

    submission_key: str
    batch_id: str
    model: str
    status: str
    ended_at: datetime
    files: list[Path]
    reasons: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    reason: tuple[str, str] | None = None
    cancelled_by_user: bool = False


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


def load_results(connection: duckdb.DuckDBPyConnection, batches: Sequence[EndedBatch]) -> dict[str, Loaded]:
    """Enter the batches' results into the tables; returns what became of each, by its batch_id.

    Call it inside a transaction, once for a batch, and with a group of `in_groups`: it holds all of them in memory.
    """
    connection.execute(CREATE_BATCHES)
    connection.executemany(
        "INSERT INTO ended_batch VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_row(number, batch) for number, batch in enumerate(batches)],
    )
    connection.execute("CREATE OR REPLACE TEMP TABLE refused (custom_id VARCHAR, code VARCHAR, message VARCHAR)")
    if refused := [(custom_id, *why) for batch in batches for custom_id, why in batch.reasons.items()]:
        connection.executemany("INSERT INTO refused VALUES (?, ?, ?)", refused)
    connection.execute(FIND_KNOWN)
    files = [(path, number, batch.batch_id) for number, batch in enumerate(batches) for path in batch.files]
    quarantined = read_result_files(connection, files)
    connection.execute(CHOOSE_LINES)
    with joins_as_written(connection):
        connection.execute(INSERT_COMPLETIONS)
    words = {"cancelled": CANCELLED_BY_USER, "secrets": known_secrets_pattern(), "hidden": HIDDEN}
    connection.execute(INSERT_FAILURES, {"retryable": list(RETRYABLE_CLIENT_ERRORS), **words})
    keys = [batch.submission_key for batch in batches]
    connection.execute("DELETE FROM pending_request WHERE submission_key IN (SELECT unnest(?))", [keys])
    connection.execute(
        """
        UPDATE openai_batch SET collected_at = now() AT TIME ZONE 'UTC'
        WHERE submission_key IN (SELECT unnest(?))
        """,
        [keys],
    )
    counts = connection.execute(COUNT_OUTCOMES).fetchall()
    connection.execute("DROP TABLE result_line")  # it is as large as the texts
    return {batch_id: Loaded(answered, failed, quarantined.get(batch_id, 0)) for batch_id, answered, failed in counts}


def _row(number: int, batch: EndedBatch) -> tuple[object, ...]:
    rates = batch_rates(batch.model)
    prices = (rates.input_usd, rates.cached_input_usd, rates.output_usd) if rates else (None, None, None)
    code, message = batch.reason or (
        BATCH_STATUS_CODES.get(batch.status, MISSING),
        f"The batch ended as {batch.status}, and neither of its result files has a line for this request.",
    )
    batch_facts = (batch.submission_key, batch.batch_id, batch.model, batch.ended_at)
    return (number, *batch_facts, *prices, code, message, batch.cancelled_by_user)
