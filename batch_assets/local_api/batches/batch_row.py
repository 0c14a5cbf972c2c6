"""A batch as the database has it, and as OpenAI's batch object shows it."""

from __future__ import annotations

import json
import sqlite3
from enum import StrEnum
from typing import Any, NamedTuple


class BatchStatus(StrEnum):
    """OpenAI's names. `batches` has the changes from one to another."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class BatchRow(NamedTuple):
    """A row of the table `batch`, with its columns. Times are seconds since 1970."""

    seq: int
    """The number of the batch on this server, counted from 1."""
    id: str
    status: BatchStatus
    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: str | None
    output_expires_after_seconds: int | None
    model: str | None
    errors: str | None
    output_file_id: str | None
    error_file_id: str | None
    usage: str | None
    total: int
    completed: int
    failed: int
    created_at: float
    expires_at: float
    in_progress_at: float | None
    finalizing_at: float | None
    completed_at: float | None
    failed_at: float | None
    expired_at: float | None
    cancelling_at: float | None
    cancelled_at: float | None


def read_row(row: sqlite3.Row) -> BatchRow:
    columns = dict(row)
    return BatchRow(**{**columns, "status": BatchStatus(columns["status"])})


def batch_object(row: BatchRow) -> dict[str, Any]:
    """OpenAI's batch object. Every key is present, with null until it means something [recorded]."""
    errors = _json(row.errors)
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "model": row.model,
        "errors": None if errors is None else {"object": "list", "data": errors},
        "input_file_id": row.input_file_id,
        "completion_window": row.completion_window,
        "status": row.status,
        "output_file_id": row.output_file_id,
        "error_file_id": row.error_file_id,
        "created_at": int(row.created_at),
        "in_progress_at": _whole(row.in_progress_at),
        "expires_at": int(row.expires_at),
        "finalizing_at": _whole(row.finalizing_at),
        "completed_at": _whole(row.completed_at),
        "failed_at": _whole(row.failed_at),
        "expired_at": _whole(row.expired_at),
        "cancelling_at": _whole(row.cancelling_at),
        "cancelled_at": _whole(row.cancelled_at),
        "request_counts": {"total": row.total, "completed": row.completed, "failed": row.failed},
        "usage": _json(row.usage),
        "metadata": _json(row.metadata),
    }


def _json(text: str | None) -> Any:
    return json.loads(text) if text else None


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
