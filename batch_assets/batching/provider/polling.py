"""Reads the present state of many batches with few HTTP calls."""

import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import openai

from batch_assets.batching.provider.batches import (
    MISSING,
    NO_LIST_STATUSES,
    PAGE,
    RemoteBatch,
    list_batches,
    retrieve_batch,
)
from batch_assets.batching.provider.identity import api_name
from batch_assets.batching.timing import Timing

# Of the time until the deadline. The rest is for single retrievals, so that a long list leaves time for them.
LIST_TIME_SHARE = 0.75


@dataclass(frozen=True)
class PollCursor:
    """Where a poll that ran out of time stopped: in the list of batches, and in the single retrievals.

    The next poll continues from there, so that it does not read the same batches again while others wait. A lost
    cursor costs only time.
    """

    listed_after: str | None = None
    retrieved_last: str | None = None


@dataclass(frozen=True)
class PollResult:
    """The batches that the API returned, by id, and where the next poll continues.

    `api` is the name of the API. `checked_again`: of the batches to check again, those for which the time was enough.
    """

    batches: Mapping[str, RemoteBatch] = field(default_factory=dict)
    cursor: PollCursor = field(default_factory=PollCursor)
    api: str | None = None
    checked_again: frozenset[str] = frozenset()


def poll_batches(
    client: openai.OpenAI,
    days: Sequence[Collection[str]],
    *,
    since: datetime,
    deadline: float,
    cursor: PollCursor | None = None,
    grace_seconds: float = Timing.poll_grace_seconds,
    check_again: Collection[str] = (),
) -> PollResult:
    """The present state of these batches: first from the list of those created after `since`, then one by one.

    `days` has the batch ids of each day. A day can be judged only if all of its batches are known together, so single
    retrievals go day after day. An API without a list is asked for each batch, some in each poll.

    `check_again`: batches to retrieve although they are listed, unless they have ended: some servers advance a batch
    only when a client retrieves it, and list it unchanged until then.

    The poll stops at `deadline` (of `time.monotonic`) with what it has, and returns
    `grace_seconds` later at the latest, whatever the server does. A batch is not in the result if the time was over
    before, or the API returned an error for it. Raises openai.OpenAIError if the list itself fails, and if
    the API finds neither the list nor a batch.
    """
    start = cursor or PollCursor()
    poll = _Poll(client, days, since, deadline, check_again)
    finished: Future[PollCursor] = Future()

    def run() -> None:
        try:
            finished.set_result(poll.run(start))
        except BaseException as error:
            finished.set_exception(error)

    # A timeout of the client bounds the wait for the next byte only. A slow server could send one now and then.
    threading.Thread(target=run, name="poll_batches", daemon=True).start()
    try:
        stopped_at = finished.result(deadline - time.monotonic() + grace_seconds)
    except TimeoutError:
        if not poll.found:
            raise openai.OpenAIError("the API took too long to answer") from None
        stopped_at = start
    return PollResult(dict(poll.found), stopped_at, poll.api, frozenset(poll.checked_again))


class _Poll:
    """A poll that runs in a thread of its own. `found` may be read while the thread fills it."""

    def __init__(
        self,
        client: openai.OpenAI,
        days: Sequence[Collection[str]],
        since: datetime,
        deadline: float,
        check_again: Collection[str],
    ) -> None:
        self.found: dict[str, RemoteBatch] = {}
        self.checked_again: set[str] = set()
        self.api: str | None = None
        self._client = client
        self._days = days
        self._batch_ids = dict.fromkeys(batch_id for day in days for batch_id in day)
        self._since = since
        self._deadline = deadline
        self._check_again = check_again

    def run(self, cursor: PollCursor) -> PollCursor:
        """Fill `found`; returns where the next poll continues."""
        no_list: openai.APIStatusError | None = None
        listed_after: str | None = None
        try:
            listed_after = self._list(cursor.listed_after)
        except openai.APIStatusError as error:
            if error.status_code not in NO_LIST_STATUSES:
                raise
            self._read_api(error.response.headers)
            no_list = error
        listed = set(self.found)
        retrieved_last = self._retrieve(self._not_listed(cursor.retrieved_last, is_list_complete=listed_after is None))
        if no_list and no_list.status_code == 404 and all(batch.status == MISSING for batch in self.found.values()):
            raise no_list  # nothing is found at this address: it is no Batch API, and says nothing about the batches
        self._retrieve_again(batch_id for batch_id in self._check_again if batch_id in listed)
        return PollCursor(listed_after, retrieved_last)

    def _list(self, after: str | None) -> str | None:
        """Read the list from `after` to its end, then from its beginning, until it has found all or the time is over.

        Returns where the next poll continues; None if it read the whole list.
        """
        now = time.monotonic()
        deadline = now + (self._deadline - now) * LIST_TIME_SHARE
        if after is not None:
            try:
                if (stopped_at := self._list_from(after, deadline)) is not None:
                    return stopped_at
            except openai.APIStatusError as error:
                if error.status_code not in (400, *NO_LIST_STATUSES):  # the batch to continue from no longer exists
                    raise
        return self._list_from(None, deadline)

    def _list_from(self, after: str | None, deadline: float) -> str | None:
        listed: list[str] = []
        for batch in list_batches(self._client, since=self._since, after=after, on_headers=self._read_api):
            if len(self.found) == len(self._batch_ids):
                return None
            if listed and len(listed) % PAGE == 0 and time.monotonic() > deadline:
                # The next poll reads up to a page again: one poll must read all batches of a day, which are neighbors.
                return listed[-1 - min(PAGE, len(listed) // 2)]
            listed.append(batch.id)
            if batch.id in self._batch_ids:
                self.found[batch.id] = batch
        return None

    def _read_api(self, headers: Mapping[str, str]) -> None:
        self.api = self.api or api_name(self._client, headers)

    def _not_listed(self, retrieved_last: str | None, *, is_list_complete: bool) -> list[str]:
        """The batches to retrieve one by one, in the order of urgency."""
        missing = [batch_id for batch_id in self._batch_ids if batch_id not in self.found]
        missing = _rotated(missing, self._batch_ids, retrieved_last)
        if is_list_complete:
            return missing
        return list(dict.fromkeys([*_missing_of_ended(self._days, self.found), *missing]))

    def _retrieve(self, batch_ids: Iterable[str]) -> str | None:
        """Retrieve these batches; returns the last one before the deadline, or None if the time was enough for all."""
        last = None
        for batch_id in batch_ids:
            if time.monotonic() > self._deadline:
                return last
            last = batch_id
            try:
                self.found[batch_id] = retrieve_batch(self._client, batch_id)
            except openai.OpenAIError:
                continue  # an error for one batch must not hide the others; the next poll retries it
        return None

    def _retrieve_again(self, batch_ids: Iterable[str]) -> None:
        """Retrieve these listed batches unless they have ended. One that cannot be retrieved stays as it is listed."""
        for batch_id in batch_ids:
            if not self.found[batch_id].has_ended:
                if time.monotonic() > self._deadline:
                    return
                with suppress(openai.OpenAIError):
                    batch = retrieve_batch(self._client, batch_id)
                    if batch.status != MISSING:
                        self.found[batch_id] = batch
            self.checked_again.add(batch_id)


def _rotated(batch_ids: list[str], order: Iterable[str], last: str | None) -> list[str]:
    """The batches after `last` first, then the others."""
    position = {batch_id: number for number, batch_id in enumerate(order)}
    start = position.get(last or "", -1)
    return sorted(batch_ids, key=lambda batch_id: (position[batch_id] <= start, position[batch_id]))


def _missing_of_ended(days: Iterable[Collection[str]], found: Mapping[str, RemoteBatch]) -> list[str]:
    """The missing batches of days whose other batches have all ended: each may complete its day."""
    missing: list[str] = []
    for day in days:
        batches = [found[batch_id] for batch_id in day if batch_id in found]
        if batches and all(batch.has_ended for batch in batches):
            missing += [batch_id for batch_id in day if batch_id not in found]
    return missing
