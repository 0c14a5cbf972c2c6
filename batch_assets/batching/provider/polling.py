"""How far batches are, for many of them at once and with few calls."""

import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime

import openai

from batch_assets.batching.provider.batches import PAGE, RemoteBatch, list_batches, retrieve_batch
from batch_assets.batching.provider.identity import api_name

# Of the time there is. The rest is for asking singly, so that a list that is too long for it holds nobody up.
SHARE_OF_THE_LIST = 0.75
GRACE_SECONDS = 10.0  # after the deadline, for the call that is under way


@dataclass(frozen=True)
class PollCursor:
    """Where a look-up that ran out of time left off: in the list of batches, and in asking singly.

    The next one goes on from there, so that the same batches aren't looked up again and again while others wait. To
    lose it costs time, no more.
    """

    listed_after: str | None = None
    asked_last: str | None = None


@dataclass(frozen=True)
class PollResult:
    """The batches that were had, by id, and where to go on. `api` is the name of the one that answered."""

    batches: Mapping[str, RemoteBatch] = field(default_factory=dict)
    place: PollCursor = field(default_factory=PollCursor)
    api: str | None = None


def poll_batches(
    client: openai.OpenAI,
    days: Sequence[Collection[str]],
    *,
    since: datetime,
    deadline: float,
    place: PollCursor | None = None,
) -> PollResult:
    """These batches as they are, by listing what was made after `since`, and singly what that didn't show.

    `days` holds the batch ids of each day, and a day can be judged only if all of its batches are seen together: so
    they are asked for day by day. Stops at `deadline` (of `time.monotonic`) with what it has until then, whatever the
    server does ten seconds later: a batch that is not in the answer was not asked for, or could not be had. Raises
    openai.OpenAIError only if the list itself cannot be had.
    """
    place = place or PollCursor()
    seen: dict[str, RemoteBatch] = {}
    left_at: Future[PollCursor] = Future()
    apis: list[str] = []

    def ask() -> None:
        try:
            left_at.set_result(_poll(client, days, seen, since, deadline, place, apis))
        except BaseException as error:
            left_at.set_exception(error)

    # A client's timeout bounds the wait for the next byte: a server that sends one now and then is never done.
    threading.Thread(target=ask, name="poll_batches", daemon=True).start()
    try:
        left = left_at.result(deadline - time.monotonic() + GRACE_SECONDS)
        return PollResult(seen, left, apis[0] if apis else None)
    except TimeoutError:
        if not seen:
            raise openai.OpenAIError("the API took too long to answer") from None
        return PollResult(dict(seen), place, apis[0] if apis else None)


def _poll(
    client: openai.OpenAI,
    days: Sequence[Collection[str]],
    seen: dict[str, RemoteBatch],
    since: datetime,
    deadline: float,
    place: PollCursor,
    apis: list[str],
) -> PollCursor:
    """Put what is found into `seen`, and which API it was into `apis`; returns where to go on."""
    wanted = dict.fromkeys(batch_id for day in days for batch_id in day)
    now = time.monotonic()
    list_deadline = now + (deadline - now) * SHARE_OF_THE_LIST
    listed_after = _list_on(client, wanted, seen, since, list_deadline, place.listed_after, apis)
    missing = _in_turn([batch_id for batch_id in wanted if batch_id not in seen], wanted, place.asked_last)
    if listed_after is not None:  # first what may complete a day
        missing = list(dict.fromkeys([*_missing_of_ended(days, seen), *missing]))
    asked_last = None
    for batch_id in missing:
        if time.monotonic() > deadline:
            break
        asked_last = batch_id
        try:
            seen[batch_id] = retrieve_batch(client, batch_id)
        except openai.OpenAIError:
            continue  # one that can't be had now must not hide the others; it is asked for again
    else:
        asked_last = None
    return PollCursor(listed_after, asked_last)


def _list_on(
    client: openai.OpenAI,
    wanted: Collection[str],
    seen: dict[str, RemoteBatch],
    since: datetime,
    deadline: float,
    after: str | None,
    apis: list[str],
) -> str | None:
    """Read the list from `after` to its end, and then from its beginning, until all is seen or the time is up.

    Returns where to go on the next time; None if the whole list was read.
    """
    if after is not None:
        try:
            if (left_at := _list_from(client, wanted, seen, since, deadline, after, apis)) is not None:
                return left_at
        except openai.APIStatusError as error:
            if error.status_code not in (400, 404):
                raise
            # the batch to go on from isn't there any more
    return _list_from(client, wanted, seen, since, deadline, None, apis)


def _list_from(
    client: openai.OpenAI,
    wanted: Collection[str],
    seen: dict[str, RemoteBatch],
    since: datetime,
    deadline: float,
    after: str | None,
    apis: list[str],
) -> str | None:
    listed: list[str] = []

    def tell_headers(headers: Mapping[str, str]) -> None:
        apis.append(api_name(client, headers))

    for batch in list_batches(client, since=since, after=after, tell_headers=tell_headers):
        if len(seen) == len(wanted):
            return None
        if listed and len(listed) % PAGE == 0 and time.monotonic() > deadline:
            # A page is read again: the batches of a day, which lie together, must not be torn apart here for ever.
            return listed[-1 - min(PAGE, len(listed) // 2)]
        listed.append(batch.id)
        if batch.id in wanted:
            seen[batch.id] = batch
    return None


def _in_turn(batch_ids: list[str], order: Iterable[str], last: str | None) -> list[str]:
    """Those after `last` first, then the others."""
    place = {batch_id: number for number, batch_id in enumerate(order)}
    turn = place.get(last or "", -1)
    return sorted(batch_ids, key=lambda batch_id: (place[batch_id] <= turn, place[batch_id]))


def _missing_of_ended(days: Iterable[Collection[str]], seen: Mapping[str, RemoteBatch]) -> list[str]:
    """What is missing of days of which something was seen, and nothing that still runs."""
    missing: list[str] = []
    for day in days:
        there = [seen[batch_id] for batch_id in day if batch_id in seen]
        if there and all(batch.has_ended for batch in there):
            missing += [batch_id for batch_id in day if batch_id not in seen]
    return missing
