"""What the sensor remembers from one tick to the next. The cursor may be lost, and holds only days in flight."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from batch_assets.batching.provider.polling import PollCursor
from batch_assets.batching.task_day import FIRST_TASK
from batch_assets.days import CollectedDays
from batch_assets.resources import OPENAI
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
class TaskCursor:
    """What the sensor remembers of a task. problems: day → a hash of the problem that was observed last."""

    numbers: RunNumbers
    days: Mapping[str, ShownDay] = field(default_factory=dict)
    collected: CollectedDays = field(default_factory=CollectedDays)
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cursor:
    """After a lost cursor, the sensor shows the progress again, and reads the event log again, a part in each tick.

    tasks: by their names. poll: by the key of the resource with the API. since: when this memory began (Unix seconds).
    """

    since: int
    tasks: Mapping[str, TaskCursor] = field(default_factory=dict)
    poll: Mapping[str, PollCursor] = field(default_factory=dict)

    def of(self, task: str) -> TaskCursor:
        return self.tasks.get(task) or TaskCursor(RunNumbers(self.since))


def read_cursor(text: str | None, now: datetime) -> Cursor:
    """The cursor of an earlier tick; a new one if it is unreadable.

    That of an earlier version, which had one task, is the memory of `summaries`.
    """
    try:
        saved = json.loads(text or "{}")
        of_tasks = saved.get("tasks", {FIRST_TASK: saved})
        tasks = {
            task: TaskCursor(
                RunNumbers(**of_task["numbers"]),
                {day: ShownDay(*values) for day, values in of_task["days"].items()},
                CollectedDays(of_task["collected"]["read_up_to"], tuple(of_task["collected"]["pending"])),
                dict(of_task.get("problems", {})),
            )
            for task, of_task in of_tasks.items()
        }
        since = saved["since"] if "since" in saved else int(now.timestamp())
        polls = saved["poll"] if "tasks" in saved else {OPENAI: saved["poll"]}
        return Cursor(int(since), tasks, {name: PollCursor(**poll) for name, poll in polls.items()})
    except (ValueError, TypeError, KeyError, AttributeError):
        return Cursor(int(now.timestamp()))


def write_cursor(cursor: Cursor) -> str:
    """About 60 bytes for each day in flight, and 40 for each that had a run."""
    tasks = {
        task: {
            "numbers": asdict(of_task.numbers),
            "days": {
                day: [seen.shown, seen.state, seen.moved_at, seen.checked_at] for day, seen in of_task.days.items()
            },
            "collected": asdict(of_task.collected),
            "problems": dict(of_task.problems),
        }
        for task, of_task in cursor.tasks.items()
    }
    saved = {"since": cursor.since, "tasks": tasks, "poll": {name: asdict(poll) for name, poll in cursor.poll.items()}}
    return json.dumps(saved, separators=(",", ":"))
