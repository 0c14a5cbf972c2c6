"""What the pages say about a batch, made of OpenAI's batch object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from batch_assets.local_api.batches.batch_row import BatchStatus

_ENDED = (BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)
_CANCELLABLE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)


class LogEntry(NamedTuple):
    """seconds: since 1970."""

    seconds: int
    text: str


class Progress(NamedTuple):
    """Shares in percent, and the counts in words."""

    completed: float
    failed: float
    text: str


def is_running(batch: dict[str, Any]) -> bool:
    return batch["status"] not in _ENDED


def can_be_cancelled(batch: dict[str, Any]) -> bool:
    return batch["status"] in _CANCELLABLE


def ended_at(batch: dict[str, Any]) -> int | None:
    """Seconds since 1970; None while it runs."""
    ended: int | None = None if is_running(batch) else batch[f"{batch['status']}_at"]
    return ended


def progress(batch: dict[str, Any]) -> Progress:
    counts = batch["request_counts"]
    total, completed, failed = counts["total"], counts["completed"], counts["failed"]
    if not total:
        return Progress(0, 0, "not counted yet" if batch["status"] == BatchStatus.VALIDATING else "none executed")
    text = f"{completed + failed:,} of {total:,}" + (f", {failed:,} failed" if failed else "")
    return Progress(100 * completed / total, 100 * failed / total, text)


def log_of(batch: dict[str, Any]) -> list[LogEntry]:
    """An entry for each change of the status, oldest first."""
    return [LogEntry(batch[name], text) for name, text in _changes(batch) if batch[name] is not None]


def _changes(batch: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The key of each time, in the order of the states, and what happened then."""
    counts = batch["request_counts"]
    total, executed = counts["total"], counts["completed"] + counts["failed"]
    yield "created_at", "Created. The server validates the file."
    yield "in_progress_at", f"The file is valid. {total:,} request{' is' if total == 1 else 's are'} executed."
    yield "finalizing_at", "The execution has ended. The server writes the result files."
    yield "cancelling_at", "A client cancelled the batch. Requests in execution finish."
    yield "completed_at", f"Completed: {counts['completed']:,} answered, {counts['failed']:,} failed."
    yield "failed_at", "Failed: the server refused the batch, and executed no request."
    yield "expired_at", f"Expired: {executed:,} of {total:,} requests were executed in time."
    yield "cancelled_at", f"Cancelled: {executed:,} of {total:,} requests were executed."
