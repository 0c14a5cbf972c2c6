"""Steps that days are ready for → Dagster's run requests: one run at a time, with pauses between failed runs."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from batch_assets.assets import batch_request_file, openai_batch, summaries
from batch_assets.batching.counting import counted
from batch_assets.batching.next_step import Day, Step
from batch_assets.batching.timing import Timing
from batch_assets.batching.waiting import clock
from batch_assets.day_events import DEDUP_TAG

RUNS_PER_TICK = 25
RUN_KEY_TAG, PRIORITY_TAG = "dagster/run_key", "dagster/priority"
ATTEMPT = re.compile(r"/attempt-(\d+)$")
ASSETS_OF = {
    Step.COLLECT: [summaries.key],
    Step.COLLECT_PART: [summaries.key],
    Step.SUBMIT: [openai_batch.key],
    Step.NEXT_ROUND: [batch_request_file.key, openai_batch.key],
}
# Dagster's queue starts the runs of a backfill, whose priority is 0, after these: results come before new submissions.
PRIORITY_OF = {Step.COLLECT: 2, Step.COLLECT_PART: 2, Step.SUBMIT: 1, Step.NEXT_ROUND: 1}


@dataclass(frozen=True)
class NextRun:
    """A step that a day is ready for. Runs with the same `dedup_key` are attempts of the same step.

    `once_on`: the date (UTC) on which one successful run is enough.
    """

    day: Day
    step: Step
    once_on: date | None = None

    @property
    def dedup_key(self) -> str:
        return f"{self.step}/{self.day.day}/{self.once_on or self.day.storage_id}"

    @property
    def assets(self) -> str:
        """Their names, for a sentence."""
        return " and ".join(f"`{key.to_user_string()}`" for key in ASSETS_OF[self.step])


@dataclass(frozen=True)
class RunNumbers:
    """The highest number of a run key that the sensor ever used, by dedup key; part of the sensor's cursor.

    Dagster accepts a run key once, also after its run has failed or was deleted. So a key is numbered from the highest
    number of this memory and of the existing runs. The memory is lost with the cursor, and then the highest run may
    have been deleted. So `since` is part of each key, too: when this memory began, in Unix seconds. No key of an
    earlier memory has it.
    """

    since: int
    highest: Mapping[str, int] = field(default_factory=dict)

    def of(self, days: Iterable[Day], now: datetime) -> "RunNumbers":
        """The numbers of these days' present steps: the others are not used any more."""
        in_flight = {day.day: str(day.storage_id) for day in days}
        kept = {
            key: number
            for key, number in self.highest.items()
            for _, day, last in [key.split("/")]
            if day in in_flight and last in (in_flight[day], now.date().isoformat())
        }
        return RunNumbers(self.since, kept)


@dataclass(frozen=True)
class RequestedRuns:
    """The run requests of a tick.

    waiting: day → why a day that is ready for a step waits. failing: those whose runs failed too often. numbers: the
    memory after these requests.
    """

    requests: list[dg.RunRequest]
    waiting: dict[str, str]
    failing: dict[str, str]
    numbers: RunNumbers


def request_runs(
    instance: dg.DagsterInstance, next_runs: Sequence[NextRun], now: datetime, timing: Timing, numbers: RunNumbers
) -> RequestedRuns:
    """A run request for each of these steps, unless a run is in progress or it is too early for another attempt.

    No step is given up. After `max_run_attempts` failed runs, the pauses are an hour, and after a day a day.
    """
    earlier = _earlier_runs(instance, [next_run.dedup_key for next_run in next_runs])
    requested = RequestedRuns([], {}, {}, numbers)
    highest = dict(numbers.highest)
    for next_run in next_runs:
        day, runs = next_run.day.day, earlier[next_run.dedup_key]
        failures = [run for run in runs if not run.dagster_run.is_success]
        if any(not run.dagster_run.is_finished for run in runs):
            requested.waiting[day] = f"a run of {next_run.assets} is in progress"
            continue
        if next_run.once_on and len(failures) < len(runs):
            continue
        next_at = _next_attempt_at(runs, failures, now, timing)
        if next_at is not None and len(failures) >= timing.max_run_attempts:
            requested.failing[day] = _failing(
                next_run, failures, f"at {clock(next_at, now)}" if next_at > now else "now"
            )
        if next_at is not None and now < next_at:
            requested.waiting[day] = f"the next run of {next_run.assets} is at {clock(next_at, now)}"
        elif len(requested.requests) == RUNS_PER_TICK:
            requested.waiting[day] = f"a later tick requests {next_run.assets}"
        else:
            number = max([highest.get(next_run.dedup_key, 0), len(runs), *map(_number_of, runs)]) + 1
            highest[next_run.dedup_key] = number
            requested.requests.append(_run_request(next_run, f"{numbers.since}/attempt-{number}"))
    return replace(requested, numbers=RunNumbers(numbers.since, highest))


def _earlier_runs(instance: dg.DagsterInstance, dedup_keys: Collection[str]) -> Mapping[str, list[dg.RunRecord]]:
    """The runs that the sensor requested so far, newest first, for each key; one query."""
    runs: dict[str, list[dg.RunRecord]] = defaultdict(list)
    if dedup_keys:
        for record in instance.get_run_records(dg.RunsFilter(tags={DEDUP_TAG: list(dedup_keys)})):
            runs[record.dagster_run.tags[DEDUP_TAG]].append(record)
    return runs


def _next_attempt_at(
    runs: Sequence[dg.RunRecord], failures: Sequence[dg.RunRecord], now: datetime, timing: Timing
) -> datetime | None:
    """When the next run may start; None: there was none so far. Both lists have the newest first."""
    if not runs:
        return None
    if len(failures) >= timing.max_run_attempts:
        return _ended(runs[0]) + timing.failed_run_pause(len(failures), now - _ended(failures[-1]))
    # A run that succeeded and did not change the day found that another batch or run must end first.
    return _ended(runs[0]) + timing.run_pause(len(runs))


def _ended(run: dg.RunRecord) -> datetime:
    return datetime.fromtimestamp(run.end_time or run.create_timestamp.timestamp(), UTC)


def _number_of(run: dg.RunRecord) -> int:
    """The number at the end of its run key; 0 if it has none."""
    match = ATTEMPT.search(run.dagster_run.tags.get(RUN_KEY_TAG, ""))
    return int(match[1]) if match else 0


def _failing(next_run: NextRun, failures: Sequence[dg.RunRecord], next_attempt: str) -> str:
    day, last = next_run.day.day, failures[0].dagster_run.run_id
    return (
        f"{day}: {counted(len(failures), 'run')} of {next_run.assets} failed, the last is {last}. Read its error, fix "
        f"the cause, and materialize {next_run.assets} of the day, or wait: the next attempt is {next_attempt}."
    )


def _run_request(next_run: NextRun, attempt: str) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{next_run.dedup_key}/{attempt}",
        partition_key=next_run.day.day,
        asset_selection=ASSETS_OF[next_run.step],
        tags={DEDUP_TAG: next_run.dedup_key, PRIORITY_TAG: str(PRIORITY_OF[next_run.step])},
        run_config=_config_of(next_run.step),
    )


def _config_of(step: Step) -> dict[str, Any]:
    """The next round uses the task that the ledger recorded for the day, not the configured one.

    With another task, every request of the day would be pending and would cost money again. Requests that the user
    cancelled stay cancelled.
    """
    if step is not Step.NEXT_ROUND:
        return {}
    return {
        "ops": {
            "batch_request_file": {"config": {"resume_cancelled": False, "respect_pauses": True, "same_task": True}}
        }
    }
