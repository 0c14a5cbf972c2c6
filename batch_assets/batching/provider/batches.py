"""Reads what an API returns for a batch, and makes it safe to use.

OpenAI's own answers are regular. Those of servers that imitate it have missing keys, nulls, upper-case words and empty
strings. Only this module handles them: other code can rely on `RemoteBatch`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import openai
from openai.types import Batch

from batch_assets.batching.provider.connection import why_no_connection
from batch_assets.batching.safety.outside_text import as_message

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
STATUSES = ENDED | {"validating", "in_progress", "finalizing", "cancelling"}
MISSING = "missing"  # this project's status of a batch that the API does not know: of another account, or deleted
# OpenAI cancels within ten minutes. A server that needs more than an hour will not finish.
CANCELLING_ENDS_AFTER = timedelta(hours=1)
# Servers without a list of batches answer with one of these.
NO_LIST_STATUSES = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)
PAGE = 100
# What `read_batch` raises if the answer is no batch, such as a page of HTML with status 200.
UNREADABLE_ERRORS = (AttributeError, KeyError, TypeError, ValueError, OverflowError)


@dataclass(frozen=True)
class RemoteError:
    """An entry of a batch's `errors`; `line` counts from 1 in the request file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True)
class RemoteBatch:
    """A batch as the API returns it. Times are UTC without zone; what the API does not return is None."""

    id: str
    status: str
    created_at: datetime | None = None
    in_progress_at: datetime | None = None
    finalizing_at: datetime | None = None
    cancelling_at: datetime | None = None
    ended_at: datetime | None = None
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    total: int | None = None
    completed: int | None = None
    failed: int | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    errors: tuple[RemoteError, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """Whether the batch will not change any more. A batch with an unknown status counts as running."""
        if self.status == "cancelling" and self.cancelling_at is not None:
            return now_utc() - self.cancelling_at > CANCELLING_ENDS_AFTER
        return self.status in ENDED

    @property
    def status_since(self) -> datetime | None:
        """Since when a batch that has not ended has its status; None if the API does not return that."""
        since = {
            "validating": self.created_at,
            "in_progress": self.in_progress_at,
            "finalizing": self.finalizing_at,
            "cancelling": self.cancelling_at,
        }
        return since.get(self.status)


def read_batch(batch: Batch) -> RemoteBatch:
    """Read the SDK's object. Only its id is sure to be there."""
    payload = batch.model_dump(mode="python", warnings=False)
    counts, usage = _mapping(payload.get("request_counts")), _mapping(payload.get("usage"))
    ends = (payload.get(f"{status}_at") for status in ("completed", "failed", "expired", "cancelled"))
    return RemoteBatch(
        id=str(payload["id"]),
        status=_status(str(payload.get("status") or "").lower()),
        created_at=utc(payload.get("created_at")),
        in_progress_at=utc(payload.get("in_progress_at")),
        finalizing_at=utc(payload.get("finalizing_at")),
        cancelling_at=utc(payload.get("cancelling_at")),
        ended_at=next((moment for moment in map(utc, ends) if moment), None),
        input_file_id=payload.get("input_file_id") or None,
        output_file_id=payload.get("output_file_id") or None,  # null, or "" from some servers
        error_file_id=payload.get("error_file_id") or None,
        total=counts.get("total"),
        completed=counts.get("completed"),
        failed=counts.get("failed"),
        input_tokens=_count(usage, "input_tokens"),
        cached_input_tokens=_count(_mapping(usage.get("input_tokens_details")), "cached_tokens"),
        output_tokens=_count(usage, "output_tokens"),
        reasoning_tokens=_count(_mapping(usage.get("output_tokens_details")), "reasoning_tokens"),
        errors=tuple(_errors(payload.get("errors"))),
        metadata=_mapping(payload.get("metadata")),
    )


def list_batches(
    client: openai.OpenAI,
    *,
    since: datetime | None,
    after: str | None = None,
    on_headers: Callable[[Mapping[str, str]], None] | None = None,
) -> Iterator[RemoteBatch]:
    """All batches created at or after `since` (UTC, without zone; None: all), newest first, a page of 100 at a time.

    after: the id of a batch: only the batches that the API lists after it.
    on_headers: called with the headers of each page.

    The content of a page decides whether it is the last, not `has_more`: some servers leave it out, or ignore `after`.
    A page with only known batches is the last. So is a page with only older batches, but only if it lists the newest
    first, which OpenAI does not promise. A batch without a creation time counts as new. Raises openai.OpenAIError.
    """
    seen: set[str] = set()
    while True:
        try:
            response = client.batches.with_raw_response.list(limit=PAGE, after=after or openai.omit)
            if on_headers is not None:
                on_headers(response.headers)
            page = response.parse()
            fresh = [batch for batch in map(read_batch, page.data or []) if batch.id not in seen]
        except UNREADABLE_ERRORS as error:
            raise openai.OpenAIError(f"what the API sent as its list of batches cannot be read ({error})") from error
        recent = [batch for batch in fresh if since is None or batch.created_at is None or batch.created_at >= since]
        yield from recent
        if not fresh or getattr(page, "has_more", None) is False or (not recent and _newest_first(fresh)):
            return
        seen.update(batch.id for batch in fresh)
        after = fresh[-1].id


def _newest_first(batches: list[RemoteBatch]) -> bool:
    first, last = batches[0].created_at, batches[-1].created_at
    return first is not None and last is not None and first >= last


def retrieve_batch(client: openai.OpenAI, batch_id: str) -> RemoteBatch:
    """The present state of the batch; `missing` if the API answers 404. Raises openai.OpenAIError."""
    try:
        return read_batch(client.batches.retrieve(batch_id))
    except openai.NotFoundError:
        return RemoteBatch(batch_id, MISSING)
    except UNREADABLE_ERRORS as error:
        raise openai.OpenAIError(f"what the API sent as {batch_id} cannot be read ({error})") from error


def error_message(error: Exception) -> str:
    """The API's own message or, without one, that of the error; on one line, without secrets."""
    if isinstance(error, openai.APIConnectionError):
        return as_message(why_no_connection(error))
    with suppress(AttributeError, TypeError):
        body = error.body  # type: ignore[attr-defined]
        if isinstance(body, dict) and body.get("message"):
            return as_message(str(body["message"]))
    return as_message(str(error)) or type(error).__name__


def utc(timestamp: object) -> datetime | None:
    """Unix seconds as a time of the tables: UTC, without zone. None if they are no possible time."""
    if not isinstance(timestamp, (int, float)) or not timestamp:
        return None
    try:
        return datetime.fromtimestamp(timestamp, UTC).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):  # milliseconds, for example
        return None


def now_utc() -> datetime:
    """The present time as a time of the tables: UTC, without zone."""
    return datetime.fromtimestamp(time.time(), UTC).replace(tzinfo=None)


def _count(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) else None


def _status(status: str) -> str:
    """The status without secrets and controls. A tick of the sensor reads thousands, so known ones are not cleaned."""
    return status if status in STATUSES else as_message(status)


def _errors(errors: object) -> Iterator[RemoteError]:
    for error in _mapping(errors).get("data") or []:
        payload = _mapping(error)
        yield RemoteError(
            code=as_message(str(payload.get("code") or "unknown")),
            message=as_message(str(payload.get("message") or "")),
            line=payload.get("line") if isinstance(payload.get("line"), int) else None,
            param=as_message(param) if isinstance(param := payload.get("param"), str) else None,
        )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
