"""The keys of the runs that the sensor requests. A key names a step and a set of days, and ends with a number."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from hashlib import sha256

from batch_assets.batching.next_step import Day, Step
from batch_assets.batching.task_day import FIRST_TASK


@dataclass(frozen=True)
class NextRun:
    """A step that these days of one task are ready for, in one run: consecutive partitions.

    `once_on`: the step is repeated daily, and one successful run on this date (UTC) is enough. `ended_at`: when the
    batches of the day had ended that was ready first.
    """

    days: tuple[Day, ...]
    step: Step
    once_on: date | None = None
    ended_at: datetime | None = None

    @property
    def day_keys(self) -> tuple[str, ...]:
        """A key for each day. Runs with the same key of a day are attempts of the same step of this day.

        The key has the storage id of the event that made the day ready: a new event begins a new step. The key of a
        step that is repeated daily has neither this id nor the date. So its failures are counted over the days, and
        submissions without success, one each hour, neither stop nor repeat it.
        """
        return tuple(f"{self._step}/{_ending(day, is_daily=self.once_on is not None)}" for day in self.days)

    @property
    def dedup_key(self) -> str:
        """The name of the set: an indexed tag of the run, which the UI shows."""
        keys = self.day_keys
        if len(keys) == 1:
            return keys[0]
        digest = sha256("\n".join(sorted(keys)).encode()).hexdigest()[:12]
        return f"{self._step}/{self.first}..{self.last}/{len(keys)}-days-{digest}"

    @property
    def task(self) -> str:
        return self.days[0].task

    @property
    def _step(self) -> str:
        """The step and, before it, the task unless it is `summaries`, whose keys earlier versions made."""
        return str(self.step) if self.task == FIRST_TASK else f"{self.task}:{self.step}"

    @property
    def first(self) -> str:
        return min(day.day for day in self.days)

    @property
    def last(self) -> str:
        return max(day.day for day in self.days)


@dataclass(frozen=True)
class RunNumbers:
    """The highest number of a run key that the sensor ever used, by dedup key; part of the sensor's cursor.

    Dagster accepts a run key once, also after its run has failed or was deleted. So a key is numbered from the highest
    number of this memory and of the existing runs. The memory is lost with the cursor, and then the highest run may
    have been deleted. So `since` is part of each key, too: when this memory began, in Unix seconds. No key of an
    earlier memory has it.

    `sets`: the keys of the days, for each dedup key of several days. A run may take a day together with others, and a
    later run alone: the failures of the first one count for the second one. After a lost cursor, they count only if
    the set is the same.
    """

    since: int
    highest: Mapping[str, int] = field(default_factory=dict)
    sets: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def of(self, days: Iterable[Day]) -> "RunNumbers":
        """The numbers of these days' present steps: the others are not used any more."""
        present = {_ending(day, is_daily=is_daily) for day in days for is_daily in (False, True)}
        kept = {
            key: number
            for key, number in self.highest.items()
            if any(day_key.partition("/")[2] in present for day_key in self.sets.get(key, [key]))
        }
        return RunNumbers(self.since, kept, {key: keys for key, keys in self.sets.items() if key in kept})

    def keys_with(self, next_run: NextRun) -> set[str]:
        """The dedup keys of this step that have any of these days, as far as this memory knows them."""
        wanted = set(next_run.day_keys)
        overlapping = {key for key, keys in self.sets.items() if not wanted.isdisjoint(keys)}
        return {next_run.dedup_key, *wanted, *overlapping}

    def next_of(self, next_run: NextRun, used: int) -> "RunNumbers":
        """With the next number of this step; used: the highest number of its existing runs."""
        key = next_run.dedup_key
        sets = self.sets if len(next_run.days) == 1 else {**self.sets, key: next_run.day_keys}
        return RunNumbers(self.since, {**self.highest, key: max(self.highest.get(key, 0), used) + 1}, sets)

    def run_key(self, next_run: NextRun) -> str:
        key = next_run.dedup_key
        return f"{key}/{self.since}/attempt-{self.highest[key]}"


def _ending(day: Day, *, is_daily: bool) -> str:
    """The key of a day without its step."""
    return f"{day.day}/{'daily' if is_daily else day.storage_id}"
