"""The sensor of messages: sends each message once, and what a URL did not accept again later.

A message is sent first and recorded then. So a process that is killed in between sends it once more: a second message
does less harm than none.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import dagster as dg

from batch_assets.asset_keys import TaskKeys
from batch_assets.batching.counting import counted
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.batching.waiting import clock
from batch_assets.day_events import location_of_sensor
from batch_assets.notifications.delivery import names_of, send
from batch_assets.notifications.memory import MESSAGES, Memory, Unsent, as_text, recall, record
from batch_assets.notifications.news import (
    Kind,
    News,
    Reading,
    account_error,
    all_ids,
    backfills_in_progress,
    day_key,
    read_news,
)
from batch_assets.notifications.texts import message_of
from batch_assets.task_set import TaskSet

SENSOR = "batch_assets_notifications"  # a project of the user may have `notifications`
TICK_SECONDS = 30.0  # after them, a tick begins no message. Dagster ends a tick after 60 s
PAUSE = timedelta(minutes=10)  # between two messages of a kind: days that finish one after the other share one
LONGEST_WAIT = timedelta(hours=6)  # of a day that is done, for the other days of its backfill
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)  # until a URL gets a message again
GIVEN_UP_AFTER = timedelta(days=1)
MOST_UNSENT = 50  # the oldest are given up first


def build_notifications(tasks: TaskSet, urls: tuple[str, ...], minimum_interval_seconds: int) -> dg.Definitions:
    """The sensor, and the asset whose observations are the messages; nothing without URLs."""
    if not urls:
        return dg.Definitions()

    @dg.sensor(
        name=SENSOR,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends messages to BATCH_ASSETS_NOTIFY: days that are done, and days that need you.",
    )
    @without_secrets_in_errors
    def notifications(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return tick(context.instance, location_of_sensor(context), context.cursor, tasks.keys, urls, datetime.now(UTC))

    messages = dg.AssetSpec(
        MESSAGES,
        description="The messages that the sensor `batch_assets_notifications` has sent, as observations.",
        group_name="messages",
    )
    return dg.Definitions(assets=[messages], sensors=[notifications])


def tick(
    instance: dg.DagsterInstance,
    location: str,
    cursor: str | None,
    keys: Mapping[str, TaskKeys],
    urls: tuple[str, ...],
    now: datetime,
) -> dg.SensorResult:
    """Send what is new, and what is due again. keys: of the assets of each task."""
    memory = recall(instance, location, cursor)
    if memory is None:  # what happened before is no news
        ids = all_ids(instance, keys.values())
        memory = Memory(read_up_to=max(ids, default=0)).after(frozenset(ids), max(ids, default=0))
        memory = record(instance, location, memory, "Messages begin.")
        return dg.SensorResult(skip_reason="Messages begin now.", cursor=as_text(memory))
    sending = _Sending(instance, location, names_of(urls), now, memory)
    sending.send_again()
    reading = read_news(instance, location, keys, memory)
    sending.memory = _waiting_for_account(sending.memory, reading)
    held = _held(instance, location, keys, sending.memory, reading, now)
    for kind in Kind:
        news = [one for one in reading.news if one.kind is kind and one.storage_id not in held]
        if news:
            sending.send(kind, news)
    left = [*held, *reading.unread]
    newest = min(left) - 1 if left else reading.newest
    memory = replace(sending.memory.after(frozenset(reading.handled), newest), waiting=frozenset(held))
    return dg.SensorResult(skip_reason=sending.summary(len(held)), cursor=as_text(memory))


def _waiting_for_account(memory: Memory, reading: Reading) -> Memory:
    """The memory with the days that still wait after the error of the account that a message has named.

    Other days that wait after the same error are no news: they are added without a message.
    """
    if memory.account is None:
        return memory
    waiting = {day: at for day, at in memory.account_days.items() if reading.day_ids.get(day) == at}
    waiting |= reading.account
    if not waiting:
        return replace(memory, account=None, account_days={})
    same = [one for one in reading.news if one.kind is Kind.ACCOUNT and account_error(one.sentence) == memory.account]
    reading.news = [one for one in reading.news if one not in same]
    reading.handled.update(one.storage_id for one in same)
    return replace(memory, account_days=waiting)


def _held(
    instance: dg.DagsterInstance,
    location: str,
    keys: Mapping[str, TaskKeys],
    memory: Memory,
    reading: Reading,
    now: datetime,
) -> set[int]:
    """The storage ids of the news that waits: for the other days of a backfill, or since a message was just sent."""
    held: set[int] = set()
    done = [one for one in reading.news if one.kind is Kind.DONE and one.backfill is not None]
    backfills = sorted({str(one.backfill) for one in done})
    in_progress = backfills_in_progress(instance, location, keys, backfills) if backfills else set()
    for backfill in in_progress:
        of_backfill = [one for one in done if one.backfill == backfill]
        if now - min(one.at for one in of_backfill) < LONGEST_WAIT:
            held.update(one.storage_id for one in of_backfill)
    for one in reading.news:
        if one.kind is not Kind.ACCOUNT and one.backfill is None and _was_sent_just_now(memory, one.kind, now):
            held.add(one.storage_id)
    return held


def _was_sent_just_now(memory: Memory, kind: Kind, now: datetime) -> bool:
    # not in the future: the clock may have been wrong
    return 0 <= now.timestamp() - memory.sent_at.get(kind, 0) < PAUSE.total_seconds()


@dataclass
class _Sending:
    """The messages of a tick. failures: URL → why it did not accept one."""

    instance: dg.DagsterInstance
    location: str
    urls: Mapping[str, str]
    now: datetime
    memory: Memory
    sent: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    deadline: float = field(default_factory=lambda: time.monotonic() + TICK_SECONDS)

    def send(self, kind: Kind, news: Sequence[News]) -> None:
        """Send a message about this news, and record it."""
        at, message = int(self.now.timestamp()), message_of(kind, news, self.location)
        unsent = self._attempt(Unsent(message, tuple(self.urls), since=at))
        memory = replace(
            self.memory,
            handled=self.memory.handled | {one.storage_id for one in news},
            unsent=(*self.memory.unsent, *([] if unsent is None else [unsent]))[-MOST_UNSENT:],
            sent_at={**self.memory.sent_at, kind: at},
        )
        if kind is Kind.ACCOUNT:
            days = {**memory.account_days, **{day_key(*one.day): one.storage_id for one in news}}
            memory = replace(memory, account=account_error(news[0].sentence), account_days=days)
        self.memory = record(self.instance, self.location, memory, f"{message.title}\n{message.body}")

    def send_again(self) -> None:
        """Send what is due again, and record what has changed."""
        for unsent in self.memory.unsent:
            if 0 < unsent.next_at - self.now.timestamp() <= LONGEST_PAUSE.total_seconds():
                continue
            left = self._attempt(unsent)
            if left == unsent:
                continue
            kept = [left if one is unsent else one for one in self.memory.unsent]
            memory = replace(self.memory, unsent=tuple(one for one in kept if one is not None))
            self.memory = record(self.instance, self.location, memory, f"Sent again: {unsent.message.title}")

    def _attempt(self, unsent: Unsent) -> Unsent | None:
        """What is left to send of the message after an attempt; None if nothing is."""
        left = [name for name in unsent.names if name in self.urls and not self._is_accepted(name, unsent)]
        tried = [name for name in left if name in self.failures]
        if not left:
            return None
        if not tried:
            return replace(unsent, names=tuple(left))
        attempts = unsent.attempts + 1
        if self.now - datetime.fromtimestamp(unsent.since, UTC) >= GIVEN_UP_AFTER:
            self.notes.append(f"Given up after {counted(attempts, 'attempt')}: {unsent.message.title}.")
            return None
        pause = min(FIRST_PAUSE * 2 ** min(attempts - 1, 10), LONGEST_PAUSE)
        return replace(unsent, names=tuple(left), attempts=attempts, next_at=int((self.now + pause).timestamp()))

    def _is_accepted(self, name: str, unsent: Unsent) -> bool:
        """Whether the URL accepted the message. One that failed in this tick, and one after its time, gets none."""
        if name in self.failures or time.monotonic() > self.deadline:
            return False
        reason = send(self.urls[name], unsent.message)
        if reason is not None:
            self.failures[name] = reason
        else:
            self.sent += 1
        return reason is None

    def summary(self, held: int) -> str:
        """What the tick did, for the user."""
        notes = [f"{counted(self.sent, 'message')} sent."] if self.sent else []
        notes += [f"{name} did not accept a message: {reason}." for name, reason in self.failures.items()]
        notes += self.notes
        for name in self.urls:
            unsent = [one for one in self.memory.unsent if name in one.names]
            if unsent:
                due = datetime.fromtimestamp(min(one.next_at for one in unsent), UTC)
                attempt = f"at {clock(due, self.now)}" if due > self.now else "in the next tick"
                notes.append(f"{name} has not accepted {counted(len(unsent), 'message')} yet; next attempt {attempt}.")
        if held:
            notes.append(f"{counted(held, 'event')} for the next message.")
        return " ".join(notes) or "Nothing is new."
