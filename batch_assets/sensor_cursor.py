"""What the sensor remembers from one tick to the next. The cursor may be lost, and holds only days in flight."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from batch_assets.batching.provider.polling import PollCursor
from batch_assets.days import CollectedDays
from batch_assets.run_keys import RunNumbers


@dataclass(frozen=True)
class ShownDay:
    """The state of a day's batches in the last tick that knew it.

    shown: a short hash of the progress in the last observation; empty if there was none. state: one of the exact
    statuses and counts. moved_at: when `state` last changed; checked_at: when its batches were last retrieved
    although they are listed; both in Unix seconds.
    """

    shown: str
    state: str
    moved_at: int
    checked_at: int = 0

    @property
    def unmoved_since(self) -> datetime:
        return datetime.fromtimestamp(self.moved_at, UTC)


@dataclass(frozen=True)
class Cursor:
    """After a lost cursor, the sensor shows the progress again, and reads the event log again, a part in each tick."""

    numbers: RunNumbers
    days: Mapping[str, ShownDay] = field(default_factory=dict)
    poll: PollCursor = field(default_factory=PollCursor)
    collected: CollectedDays = field(default_factory=CollectedDays)


def read_cursor(text: str | None, now: datetime) -> Cursor:
    """The cursor of an earlier tick; a new one if it is unreadable, for example that of an earlier version."""
    try:
        saved = json.loads(text or "{}")
        return Cursor(
            RunNumbers(**saved["numbers"]),
            {day: ShownDay(*values) for day, values in saved["days"].items()},
            PollCursor(**saved["poll"]),
            CollectedDays(saved["collected"]["read_up_to"], tuple(saved["collected"]["pending"])),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return Cursor(RunNumbers(since=int(now.timestamp())))


def write_cursor(cursor: Cursor) -> str:
    """About 60 bytes for each day in flight, and 40 for each that had a run."""
    saved = {
        "numbers": asdict(cursor.numbers),
        "days": {day: [seen.shown, seen.state, seen.moved_at, seen.checked_at] for day, seen in cursor.days.items()},
        "poll": asdict(cursor.poll),
        "collected": asdict(cursor.collected),
    }
    return json.dumps(saved, separators=(",", ":"))
