"""Batches that have ended: as values, and as rows of the temp table `ended_batch`, which the load reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from batch_assets.batching.ledger.outcomes import Scope
from batch_assets.batching.provider.batches import RemoteBatch
from batch_assets.batching.provider.endpoint import CHAT_COMPLETIONS
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.provider.model_options import OPENAI_API
from batch_assets.batching.provider.prices import ModelPrice, batch_rates, standard_rates
from batch_assets.batching.provider.token_costs import RATE_COLUMNS, RATE_COLUMNS_DDL, rate_values

MISSING_LINE = "missing_from_results"
BATCH_STATUS_CODES = {"expired": "batch_expired", "cancelled": "batch_cancelled", "failed": "batch_failed"}
# Batches are loaded together, so that DuckDB uses all cores; the limit keeps them within the memory.
BYTES_AT_ONCE = 400_000_000

CREATE_BATCHES = f"""
    CREATE OR REPLACE TEMP TABLE ended_batch (
        batch INTEGER, submission_id VARCHAR, batch_id VARCHAR, model VARCHAR, ended_at TIMESTAMP,
        api VARCHAR, is_simulated BOOLEAN, max_output_tokens BIGINT, is_refresh BOOLEAN,
        code VARCHAR, message VARCHAR, scope VARCHAR,  -- of a request that has no result line
        cancelled_by_user BOOLEAN,
        {RATE_COLUMNS_DDL}     -- USD per token; NULL if not known
    )
"""
ENTER_BATCH = f"""
    INSERT INTO ended_batch (
        batch, submission_id, batch_id, model, ended_at, api, is_simulated, max_output_tokens, is_refresh, code,
        message, scope, cancelled_by_user, {", ".join(RATE_COLUMNS)}
    )
    VALUES ({", ".join("?" * (13 + len(RATE_COLUMNS)))})
"""


class FailureReason(NamedTuple):
    """Why a request, or a batch as a whole, failed."""

    code: str
    message: str


@dataclass(frozen=True)
class EndedBatch:
    """A batch that has ended, with its result files on disk.

    api: the name of the API that ran it.
    files: its result files by kind: "output", "errors".
    max_output_tokens: the limit of an answer in its requests, None if it is not known.
    is_refresh: its answers replace earlier ones.
    planned_at: when its request file was written.
    reasons: custom_id → why OpenAI refused the request before it ran any.
    reason: why OpenAI failed the batch as a whole.
    cancelled_by_user: its requests without an answer wait until the user plans them again.
    reported: what the API returned for it, to compare with the files; None: they are not compared. requests: how many
        its request file has.
    endpoint: the path of the one that answered.
    output_schema: the JSON schema that an answer must fit; None: it is text, or a vector.
    vector_length: how many numbers an answer has; None: it is not known, or an answer is no vector.
    is_synchronous: it is one request that was asked outside of a batch, and is billed at the standard price.
    """

    submission_id: str
    batch_id: str
    model: str
    status: str
    ended_at: datetime
    files: Mapping[str, Path]
    api: str | None = None
    max_output_tokens: int | None = None
    is_refresh: bool = False
    reasons: Mapping[str, FailureReason] = field(default_factory=dict)
    reason: FailureReason | None = None
    cancelled_by_user: bool = False
    planned_at: datetime | None = None
    reported: RemoteBatch | None = None
    requests: int = 0
    endpoint: str = CHAT_COMPLETIONS.path
    output_schema: Mapping[str, Any] | None = None
    vector_length: int | None = None
    is_synchronous: bool = False


def in_groups(batches: Sequence[EndedBatch], bytes_at_once: int = BYTES_AT_ONCE) -> Iterator[list[EndedBatch]]:
    """The batches in groups, one for each transaction. Until its end, a transaction keeps in memory what it reads."""
    group: list[EndedBatch] = []
    group_bytes = 0
    for batch in batches:
        batch_bytes = sum(path.stat().st_size for path in batch.files.values())
        if group and group_bytes + batch_bytes > bytes_at_once:
            yield group
            group, group_bytes = [], 0
        group.append(batch)
        group_bytes += batch_bytes
    if group:
        yield group


def enter_batches(
    connection: duckdb.DuckDBPyConnection, batches: Sequence[EndedBatch], own_prices: tuple[ModelPrice, ...]
) -> None:
    """Fill the temp tables `ended_batch`, numbered in this order, and `refused` (custom_id, code, message)."""
    connection.execute(CREATE_BATCHES)
    rows = [_row(number, batch, own_prices) for number, batch in enumerate(batches)]
    connection.executemany(ENTER_BATCH, rows)
    connection.execute("CREATE OR REPLACE TEMP TABLE refused (custom_id VARCHAR, code VARCHAR, message VARCHAR)")
    if refused := [(custom_id, *reason) for batch in batches for custom_id, reason in batch.reasons.items()]:
        connection.executemany("INSERT INTO refused (custom_id, code, message) VALUES (?, ?, ?)", refused)


def _row(number: int, batch: EndedBatch, own_prices: tuple[ModelPrice, ...]) -> tuple[object, ...]:
    code, message = batch.reason or FailureReason(
        BATCH_STATUS_CODES.get(batch.status, MISSING_LINE),
        f"The batch ended as {batch.status}, and neither of its result files has a line for this request.",
    )
    api = batch.api or OPENAI_API
    rates = (
        standard_rates(batch.model, api=api)
        if batch.is_synchronous
        else batch_rates(batch.model, api=api, own_prices=own_prices)
    )
    return (
        number, batch.submission_id, batch.batch_id, batch.model, batch.ended_at, batch.api,
        batch.api == BUILT_IN_ENGINE, batch.max_output_tokens, batch.is_refresh, code, message,
        _scope(batch), batch.cancelled_by_user, *rate_values(rates),
    )  # fmt: skip


def _scope(batch: EndedBatch) -> Scope:
    """Whose failure a request without a line is: of the batch, if that failed before it ran any request."""
    if batch.status == "failed" and not batch.files:
        return Scope.BATCH
    return Scope.REQUEST
