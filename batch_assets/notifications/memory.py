"""What was sent, in Dagster's event log: observations of the asset `batch_assets_messages`, with the texts.

The newest one has the whole memory of the sensor. So a lost cursor, a restart or another daemon repeats no message.
The cursor only saves work: it has what the sensor has read since.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import dagster as dg

from batch_assets.day_events import CODE_LOCATION
from batch_assets.days import OVERLAP
from batch_assets.notifications.delivery import Message

MESSAGES = dg.AssetKey("batch_assets_messages")
MEMORY = "batch_assets/notified"
RECORDS_AT_ONCE = 20  # several code locations may have messages


@dataclass(frozen=True)
class Unsent:
    """A message that some URLs have not accepted.

    names: of these URLs. attempts: how often it was sent to them. since: of the first attempt; next_at: of the next;
    both in Unix seconds.
    """

    message: Message
    names: tuple[str, ...]
    since: int
    attempts: int = 0
    next_at: int = 0


@dataclass(frozen=True)
class Memory:
    """What the sensor has read and sent.

    number: of the record; the cursor has that of the record that it continues.
    read_up_to: the storage id up to which all events are handled. handled: the ids of the others, and of the last ones
        before it: an event may become visible late. waiting: the ids of news for the next message.
    unsent: messages that a URL has not accepted yet.
    account, account_days: the error of the account that a message has named, and the days that wait for its end: task
        and day → storage id of its event.
    sent_at: kind of message → when the last one was made, in Unix seconds.
    """

    number: int = 0
    read_up_to: int = 0
    handled: frozenset[int] = frozenset()
    waiting: frozenset[int] = frozenset()
    unsent: tuple[Unsent, ...] = ()
    account: str | None = None
    account_days: Mapping[str, int] = field(default_factory=dict)
    sent_at: Mapping[str, int] = field(default_factory=dict)

    def is_new(self, storage_id: int) -> bool:
        return storage_id > self.read_up_to - OVERLAP and storage_id not in self.handled

    def after(self, handled: frozenset[int], read_up_to: int) -> "Memory":
        """With these events handled, and all up to `read_up_to`, which never becomes lower."""
        newest = max(read_up_to, self.read_up_to)
        kept = frozenset(storage_id for storage_id in self.handled | handled if storage_id > newest - OVERLAP)
        return replace(self, read_up_to=newest, handled=kept)


def recall(instance: dg.DagsterInstance, location: str, cursor: str | None) -> Memory | None:
    """The memory of this code location: that of the cursor if it continues the newest record, else the record's.

    None if there is no record: messages begin now.
    """
    recorded = _newest_record(instance, location)
    if recorded is None:
        return None
    of_cursor = _read(cursor)
    return of_cursor if of_cursor is not None and of_cursor.number == recorded.number else recorded


def record(instance: dg.DagsterInstance, location: str, memory: Memory, text: str) -> Memory:
    """Write the memory to the event log, with the text of what happened; returns the memory with its number."""
    numbered = replace(memory, number=memory.number + 1)
    metadata: dict[str, Any] = {
        "text": text,  # plain text: Dagster renders only descriptions as Markdown
        MEMORY: dg.MetadataValue.text(as_text(numbered)),
        CODE_LOCATION: location,
    }
    instance.report_runless_asset_event(dg.AssetObservation(MESSAGES, metadata=metadata))
    return numbered


def as_text(memory: Memory) -> str:
    """For the cursor and the record."""
    ids = {"handled": sorted(memory.handled), "waiting": sorted(memory.waiting)}
    return json.dumps({**asdict(memory), **ids}, separators=(",", ":"), ensure_ascii=False)


def _newest_record(instance: dg.DagsterInstance, location: str) -> Memory | None:
    cursor: str | None = None
    while True:
        page = instance.fetch_observations(MESSAGES, limit=RECORDS_AT_ONCE, cursor=cursor)
        for found in page.records:
            observation = found.event_log_entry.asset_observation
            metadata = {} if observation is None else observation.metadata
            if MEMORY in metadata and metadata[CODE_LOCATION].value == location:
                memory = _read(str(metadata[MEMORY].value))
                if memory is not None:
                    return memory
        if not page.has_more:
            return None
        cursor = page.cursor


def _read(text: str | None) -> Memory | None:
    """None if it is not readable."""
    try:
        saved = json.loads(text or "")
        unsent = tuple(
            Unsent(**{**one, "message": Message(**one["message"]), "names": tuple(one["names"])})
            for one in saved["unsent"]
        )
        ids = {name: frozenset(saved[name]) for name in ("handled", "waiting")}
        return Memory(**{**saved, **ids, "unsent": unsent})
    except (ValueError, TypeError, KeyError):
        return None
