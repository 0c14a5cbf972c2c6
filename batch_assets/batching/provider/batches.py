"""What an API says of a batch, made safe to read.

OpenAI's own answers are regular; those of servers that imitate it have missing keys, nulls, upper-case words and
empty strings. All of that is dealt with here, once, so that nobody else has to think of it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import openai
from openai.types import Batch

from batch_assets.batching.safety.outside_text import as_message

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
STATUSES = ENDED | {"validating", "in_progress", "finalizing", "cancelling"}
MISSING = "missing"  # our word for a batch that the API does not know: of another account, or any more
# OpenAI cancels within ten minutes; somebody who needs hours will not come back.
CANCELLING_FOR_EVER = timedelta(hours=1)
PAGE = 100
# What reading raises where an answer is no batch: a page of HTML that is sent as a success, say.
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError, OverflowError)


@dataclass(frozen=True)
class RemoteError:
    """An entry of a batch's `errors`; `line` counts from 1 in the request file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True)
class RemoteBatch:
    """A batch as the API shows it. Times are UTC without zone; what the API does not say is None."""

    id: str
    status: str
    created_at: datetime | None = None
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
        """Whether it will not change any more. A status that nobody knows yet is taken for a running one."""
        if self.status == "cancelling" and self.cancelling_at is not None:
            return now_utc() - self.cancelling_at > CANCELLING_FOR_EVER
        return self.status in ENDED


def read_batch(batch: Batch) -> RemoteBatch:
    """Read the SDK's object, of which nothing but the id can be relied upon."""
    said = batch.model_dump(mode="python", warnings=False)
    counts, usage = _mapping(said.get("request_counts")), _mapping(said.get("usage"))
    ends = (said.get(f"{status}_at") for status in ("completed", "failed", "expired", "cancelled"))
    return RemoteBatch(
        id=str(said["id"]),
        status=_status(str(said.get("status") or "").lower()),
        created_at=utc(said.get("created_at")),
        cancelling_at=utc(said.get("cancelling_at")),
        ended_at=next((moment for moment in map(utc, ends) if moment), None),
        input_file_id=said.get("input_file_id") or None,
        output_file_id=said.get("output_file_id") or None,  # null, or "" from some servers
        error_file_id=said.get("error_file_id") or None,
        total=counts.get("total"),
        completed=counts.get("completed"),
        failed=counts.get("failed"),
        input_tokens=_count(usage, "input_tokens"),
        cached_input_tokens=_count(_mapping(usage.get("input_tokens_details")), "cached_tokens"),
        output_tokens=_count(usage, "output_tokens"),
        reasoning_tokens=_count(_mapping(usage.get("output_tokens_details")), "reasoning_tokens"),
        errors=tuple(_errors(said.get("errors"))),
        metadata=_mapping(said.get("metadata")),
    )


def list_batches(
    client: openai.OpenAI,
    *,
    since: datetime | None,
    after: str | None = None,
    tell_headers: Callable[[Mapping[str, str]], None] | None = None,
) -> Iterator[RemoteBatch]:
    """All batches made at or after `since` (UTC, without zone; None: ever), newest first, a page of 100 at a time.

    With `after`, the id of a batch, only those that are listed after it.

    Goes by what is listed, not by `has_more`: some servers leave it out, or ignore `after`. A page of nothing but
    known batches is the last; so is one of older batches, but only where the newest come first, which OpenAI doesn't
    promise. A batch that doesn't say when it was made counts as new. `tell_headers` is called with those of each page.
    Raises openai.OpenAIError.
    """
    seen: set[str] = set()
    while True:
        try:
            response = client.batches.with_raw_response.list(limit=PAGE, after=after or openai.omit)
            if tell_headers is not None:
                tell_headers(response.headers)
            page = response.parse()
            fresh = [batch for batch in map(read_batch, page.data or []) if batch.id not in seen]
        except UNREADABLE as error:
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
    """The batch as it is now; one that the API answers 404 for has the status `missing`. Raises openai.OpenAIError."""
    try:
        return read_batch(client.batches.retrieve(batch_id))
    except openai.NotFoundError:
        return RemoteBatch(batch_id, MISSING)
    except UNREADABLE as error:
        raise openai.OpenAIError(f"what the API sent as {batch_id} cannot be read ({error})") from error


def error_message(error: Exception) -> str:
    """What the API said, in its own words if there are any; without secrets, which it may repeat, and on one line."""
    with suppress(AttributeError, TypeError):
        body = error.body  # type: ignore[attr-defined]
        if isinstance(body, dict) and body.get("message"):
            return as_message(str(body["message"]))
    return as_message(str(error)) or type(error).__name__


def utc(timestamp: object) -> datetime | None:
    """Unix seconds as the tables have it: UTC, without zone."""
    if not isinstance(timestamp, (int, float)) or not timestamp:
        return None
    try:
        return datetime.fromtimestamp(timestamp, UTC).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):  # milliseconds, say: no time is known then
        return None


def now_utc() -> datetime:
    """Now, as the tables have it: UTC, without zone."""
    return datetime.fromtimestamp(time.time(), UTC).replace(tzinfo=None)


def _count(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) else None


def _status(word: str) -> str:
    """There is one for each batch that a tick of the sensor sees, so the usual ones take no time."""
    return word if word in STATUSES else as_message(word)


def _errors(errors: object) -> Iterator[RemoteError]:
    for error in _mapping(errors).get("data") or []:
        said = _mapping(error)
        yield RemoteError(
            code=as_message(str(said.get("code") or "unknown")),
            message=as_message(str(said.get("message") or "")),
            line=said.get("line") if isinstance(said.get("line"), int) else None,
            param=as_message(param) if isinstance(param := said.get("param"), str) else None,
        )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
