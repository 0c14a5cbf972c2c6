"""Batch objects: creation, retrieval, listing, cancelling, and every change of status.

    validating → in_progress → finalizing → completed
         ↓            └─────────────┴─────→ expired
       failed      cancelling → cancelled

Each change is one UPDATE on the condition of the status before. A cancel and the background execution may race: the
second of them sees that the status has changed.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

from batch_assets.local_api.batches.batch_row import BatchRow, BatchStatus, batch_object, read_row
from batch_assets.local_api.batches.line_checks import Problem
from batch_assets.local_api.endpoints import registry
from batch_assets.local_api.settings import Settings
from batch_assets.local_api.storage.database import Store
from batch_assets.local_api.storage.files import expiry_seconds
from batch_assets.local_api.wire import errors, ids
from batch_assets.local_api.wire.errors import ApiError
from batch_assets.local_api.wire.listing import list_object, read_page
from batch_assets.local_api.wire.parameters import check_metadata

logger = logging.getLogger(__name__)

_PARAMETERS = ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after")
_END_STATEMENTS = {
    BatchStatus.COMPLETED: "UPDATE batch SET status = 'completed', completed_at = :now",
    BatchStatus.EXPIRED: "UPDATE batch SET status = 'expired', expired_at = :now, expires_at = min(expires_at, :now)",
    BatchStatus.CANCELLED: "UPDATE batch SET status = 'cancelled', cancelled_at = :now",
}


def create_batch(store: Store, settings: Settings, request: object) -> dict[str, Any]:
    """Record a batch as `validating`. Raises ApiError for a request that OpenAI refuses at once.

    A missing input file is not refused here. As at OpenAI, the batch fails a moment later.
    """
    if not isinstance(request, dict):
        raise errors.invalid_type("body", "an object", request)
    _check_parameters(request)
    metadata = check_metadata(request.get("metadata"))
    expires_after = request.get("output_expires_after")
    seconds = None if expires_after is None else expiry_seconds("output_expires_after", expires_after)
    now = time.time()
    input_file_id = without_surrogates(request["input_file_id"])
    with store.transaction() as connection:
        row = connection.execute(
            "INSERT INTO batch (id, status, endpoint, input_file_id, completion_window, metadata, "
            "output_expires_after_seconds, created_at, expires_at) "
            "VALUES (?, 'validating', ?, ?, ?, ?, ?, ?, ?) RETURNING *",
            (
                ids.new_batch_id(),
                request["endpoint"],
                input_file_id,
                request["completion_window"],
                None if metadata is None else json.dumps(metadata),
                seconds,
                now,
                now + settings.completion_window_seconds,
            ),
        ).fetchone()
    logger.info("%s: created from %s", row["id"], row["input_file_id"])
    return batch_object(read_row(row))


def _check_parameters(request: dict[str, Any]) -> None:
    """Raises ApiError for a parameter that is missing, unknown or not supported."""
    for name in ("input_file_id", "endpoint", "completion_window"):
        if request.get(name) is None:
            raise errors.missing_parameter(name)
        errors.check_string(name, request[name])
    for name in request:
        if name not in _PARAMETERS:
            raise errors.unknown_parameter(name)
    # OpenAI has more endpoints. This server refuses a batch that it couldn't execute.
    if request["endpoint"] not in registry.ENDPOINTS:
        raise errors.invalid_value("endpoint", request["endpoint"], tuple(registry.ENDPOINTS))
    if request["completion_window"] != "24h":
        raise errors.invalid_value("completion_window", request["completion_window"], ["24h"])


def find_batch(store: Store, batch_id: str) -> BatchRow:
    """Raises ApiError when there is no batch with this id."""
    if ids.is_batch_id(batch_id):
        with store.read() as connection:
            row: sqlite3.Row | None = connection.execute("SELECT * FROM batch WHERE id = ?", (batch_id,)).fetchone()
        if row is not None:
            return read_row(row)
    raise ApiError(404, f"No batch found with id '{batch_id}'.")


def list_batches(store: Store, settings: Settings, query: Mapping[str, str]) -> dict[str, Any]:
    """A page of batches, newest first, without those that the fault `list_lag` hides."""
    page = read_page(query, default_limit=20, maximum_limit=100)
    lag = settings.fault_injector.faults.list_lag
    seq = None
    if page.after is not None:
        seq = find_batch(store, page.after).seq
    with store.read() as connection:
        rows = connection.execute(
            "SELECT * FROM batch WHERE (:seq IS NULL OR seq < :seq) AND created_at <= :newest "
            "ORDER BY seq DESC LIMIT :limit",
            {"seq": seq, "newest": time.time() - lag if lag else math.inf, "limit": page.limit + 1},
        ).fetchall()
    return list_object([batch_object(read_row(row)) for row in rows], page.limit)


def cancel_batch(store: Store, batch_id: str) -> dict[str, Any]:
    """Set a batch to `cancelling`. One that is cancelling or cancelled stays as it is. For others, raises ApiError.

    That includes a finalizing batch, since all of its requests are executed (OpenAI's response is not known).
    """
    find_batch(store, batch_id)
    with store.transaction() as connection:
        connection.execute(
            "UPDATE batch SET status = 'cancelling', cancelling_at = ? "
            "WHERE id = ? AND status IN ('validating', 'in_progress')",
            (time.time(), batch_id),
        )
        row = read_row(connection.execute("SELECT * FROM batch WHERE id = ?", (batch_id,)).fetchone())
    if row.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
        raise ApiError(409, f"Cannot cancel a batch with status '{row.status}'.")
    logger.info("%s: %s", batch_id, row.status)
    return batch_object(row)


def without_surrogates(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair, which JSON may hold and SQLite can't store."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def unfinished_batches(store: Store) -> list[str]:
    """Ids of the batches that have not ended, oldest first."""
    with store.read() as connection:
        rows = connection.execute(
            "SELECT id FROM batch WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') "
            "ORDER BY seq"
        ).fetchall()
    return [row["id"] for row in rows]


def batches_in_progress(store: Store, model: str) -> list[str]:
    """Ids of the batches of a model that are in progress."""
    with store.read() as connection:
        rows = connection.execute(
            "SELECT id FROM batch WHERE status = 'in_progress' AND model = ?", (without_surrogates(model),)
        ).fetchall()
    return [row["id"] for row in rows]


def move_to_failed(store: Store, batch_id: str, problems: list[Problem]) -> bool:
    """validating → failed. False when the batch was cancelled meanwhile."""
    with store.transaction() as connection:
        cursor = connection.execute(
            "UPDATE batch SET status = 'failed', failed_at = ?, errors = ? WHERE id = ? AND status = 'validating'",
            (time.time(), json.dumps(problems), batch_id),
        )
    if cursor.rowcount == 1:
        logger.info("%s: failed, %s", batch_id, problems[0]["code"])
    return cursor.rowcount == 1


def move_to_in_progress(store: Store, batch_id: str, *, total: int, model: str) -> bool:
    """validating → in_progress. False when the batch was cancelled meanwhile."""
    with store.transaction() as connection:
        cursor = connection.execute(
            "UPDATE batch SET status = 'in_progress', in_progress_at = ?, total = ?, model = ? "
            "WHERE id = ? AND status = 'validating'",
            (time.time(), total, without_surrogates(model), batch_id),
        )
    if cursor.rowcount == 1:
        logger.info("%s: in progress, %s requests", batch_id, f"{total:,}")
    return cursor.rowcount == 1


def move_to_finalizing(store: Store, batch_id: str) -> bool:
    """in_progress → finalizing. False when the batch was cancelled meanwhile. True when it was finalizing before."""
    with store.transaction() as connection:
        connection.execute(
            "UPDATE batch SET status = 'finalizing', finalizing_at = ? WHERE id = ? AND status = 'in_progress'",
            (time.time(), batch_id),
        )
        row = connection.execute("SELECT status FROM batch WHERE id = ?", (batch_id,)).fetchone()
        return bool(row["status"] == "finalizing")


def set_ended(
    connection: sqlite3.Connection,
    batch_id: str,
    status: BatchStatus,
    *,
    output_file_id: str | None,
    error_file_id: str | None,
    completed: int,
    failed: int,
    usage: dict[str, Any],
) -> None:
    """finalizing or cancelling → `status`, in the transaction that adds the result files."""
    connection.execute(
        _END_STATEMENTS[status] + ", output_file_id = :output, error_file_id = :error, completed = :completed, "
        "failed = :failed, usage = :usage WHERE id = :id",
        {
            "now": time.time(),
            "output": output_file_id,
            "error": error_file_id,
            "completed": completed,
            "failed": failed,
            "usage": json.dumps(usage),
            "id": batch_id,
        },
    )
