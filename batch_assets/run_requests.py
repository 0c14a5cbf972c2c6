"""Steps that days are ready for → Dagster's run requests: one run at a time, with pauses between failed runs."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import takewhile
from typing import Any

import dagster as dg

from batch_assets.asset_keys import TaskKeys, keys_of_task
from batch_assets.batching.counting import counted
from batch_assets.batching.next_step import Step
from batch_assets.batching.task_day import FIRST_TASK
from batch_assets.batching.timing import Timing
from batch_assets.batching.waiting import Problem, clock
from batch_assets.day_events import DEDUP_TAG, location_of_run
from batch_assets.figure_checks import CHECKS_OF_REQUEST_FILES, CHECKS_OF_RESULTS
from batch_assets.run_keys import NextRun, RunNumbers
from batch_assets.run_ranges import DueRun, in_ranges

RUNS_PER_TICK = 25
RUN_KEY_TAG, PRIORITY_TAG = "dagster/run_key", "dagster/priority"
PARTITION_TAG = "dagster/partition"
FIRST_PARTITION_TAG, LAST_PARTITION_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
UNFINISHED = [status for status in dg.DagsterRunStatus if status not in ENDED]
ATTEMPT = re.compile(r"/attempt-(\d+)$")
# Of a run that the user has not asked for. It uses the task that the ledger recorded for the day: with another task,
# every request of the day would be pending and would cost money again. Requests that the user cancelled stay cancelled.
WITHOUT_USER: Mapping[str, Any] = {"resume_cancelled": False, "respect_pauses": True, "same_task": True}
# Dagster's queue starts the runs of a backfill, whose priority is 0, after these: results come before new submissions.
PRIORITY_OF = {Step.COLLECT: 2, Step.COLLECT_PART: 2, Step.SUBMIT: 1, Step.NEXT_ROUND: 1}


@dataclass(frozen=True)
class TaskRuns:
    """What the runs of a task consist of: the keys of its assets, and the step that has its request files."""

    keys: TaskKeys
    step: str

    def assets(self, step: Step) -> list[dg.AssetKey]:
        """The assets that a run for this step materializes."""
        return {
            Step.SUBMIT: [self.keys.openai_batch],
            Step.NEXT_ROUND: [self.keys.batch_request_file, self.keys.openai_batch],
        }.get(step, [self.keys.results])

    def checks(self, step: Step) -> list[dg.AssetCheckKey]:
        """The checks that this run evaluates: those of the same steps. Dagster would skip any other check of these
        assets, for example of freshness, and a skipped check loses the result that it had.
        """
        names = {
            self.keys.batch_request_file: CHECKS_OF_REQUEST_FILES,
            self.keys.results: CHECKS_OF_RESULTS,
        }
        return [dg.AssetCheckKey(asset, name) for asset in self.assets(step) for name in names.get(asset, ())]

    @property
    def config_without_user(self) -> dict[str, Any]:
        return {"ops": {self.step: {"config": dict(WITHOUT_USER)}}}


@dataclass(frozen=True)
class RequestedRuns:
    """The run requests of a tick.

    days: those that the requested runs take. waiting: day → why a day that is ready for a step waits. failing: those
    whose runs failed too often. numbers: the memory after these requests.
    """

    requests: list[dg.RunRequest]
    days: set[str]
    waiting: dict[str, str]
    failing: dict[str, Problem]
    numbers: RunNumbers


@dataclass(frozen=True)
class EarlierRuns:
    """The runs that the sensor of this code location requested so far.

    attempts: key of a day → its runs, newest first. in_progress: step with its task, first and last day of each run
    that has not ended, whichever event each day had when the sensor requested it.
    """

    attempts: Mapping[str, Sequence[dg.RunRecord]]
    in_progress: Sequence[tuple[str, str, str]]

    def of(self, next_run: NextRun) -> dict[str, Sequence[dg.RunRecord]]:
        """day → its attempts of this step, newest first."""
        return {
            day.label: self.attempts.get(key, []) for day, key in zip(next_run.days, next_run.day_keys, strict=True)
        }

    @property
    def is_collecting(self) -> bool:
        """Whether a run in progress collects days that are complete."""
        return any(step.rpartition(":")[2] == Step.COLLECT for step, _, _ in self.in_progress)

    def is_in_progress(self, next_run: NextRun) -> bool:
        """Whether a run in progress takes this step for any of these days."""
        return any(
            step == next_run.day_keys[0].split("/")[0] and first <= day.day <= last
            for step, first, last in self.in_progress
            for day in next_run.days
        )


FIRST_TASK_RUNS: Mapping[str, TaskRuns] = {FIRST_TASK: TaskRuns(keys_of_task(FIRST_TASK, ()), "submission")}


def request_runs(
    instance: dg.DagsterInstance,
    location: str,
    next_runs: Sequence[NextRun],
    now: datetime,
    timing: Timing,
    numbers: RunNumbers,
    days_per_run: int = 1,
    tasks: Mapping[str, TaskRuns] = FIRST_TASK_RUNS,
    most: int = RUNS_PER_TICK,
) -> RequestedRuns:
    """A run request for each of these steps, unless a run is in progress or it is too early for another attempt.

    tasks: by their names. most: how many runs at most.
    Consecutive days that are ready for the same step are one run, of at most `days_per_run` days. No step is given up.
    After `max_run_attempts` failed runs, the pauses are an hour, and after a day a day. A run of several days waits for
    the one with the longest pause.
    """
    earlier = _earlier_runs(instance, location, next_runs, numbers)
    due: list[DueRun] = []
    requests: list[dg.RunRequest] = []
    running: set[str] = set()
    waiting: dict[str, str] = {}
    failing: dict[str, Problem] = {}
    for next_run in next_runs:
        attempts, assets = earlier.of(next_run), _assets(next_run, tasks)
        if earlier.is_in_progress(next_run):
            waiting.update(dict.fromkeys(attempts, f"a run of {assets} is in progress"))
            continue
        if next_run.once_on:
            if all(_has_success_on(next_run.once_on, runs) for runs in attempts.values()):
                continue
            attempts = {day: _since_success(runs) for day, runs in attempts.items()}
        next_at = max((_next_attempt_at(runs, now, timing) for runs in attempts.values() if runs), default=now)
        facts = dict(zip(attempts, next_run.day_keys, strict=True))
        failing.update(_failing(assets, attempts, facts, next_at, now, timing))
        if now < next_at:
            waiting.update({day: _waits_until(assets, runs, next_at, now) for day, runs in attempts.items()})
        else:
            due.append(DueRun(next_run, earlier.of(next_run), len(due)))
    is_collecting = earlier.is_collecting
    for run in in_ranges(due, days_per_run):
        if is_collecting and _can_wait(run, now, timing, days_per_run):
            waiting.update(dict.fromkeys(run.attempts, "it is collected together with the days that end next"))
        elif len(requests) >= most:
            waiting.update(dict.fromkeys(run.attempts, f"a later tick requests {_assets(run.next_run, tasks)}"))
        else:
            numbers = numbers.next_of(run.next_run, _highest_number(run.attempts.values()))
            requests.append(_run_request(run.next_run, numbers, tasks[run.next_run.task]))
            is_collecting = is_collecting or run.next_run.step is Step.COLLECT
            running.update(run.attempts)
    return RequestedRuns(requests, running, waiting, failing, numbers)


def _can_wait(run: DueRun, now: datetime, timing: Timing, days_per_run: int) -> bool:
    """Whether a run of complete days may wait for the next one to take more days: a process takes seconds to start.

    A run that is full never waits, and no day waits longer than `collection_pause` after its batches have ended.
    """
    next_run = run.next_run
    return (
        next_run.step is Step.COLLECT
        and len(next_run.days) < days_per_run
        and next_run.ended_at is not None
        and now - next_run.ended_at < timing.collection_pause
    )


def _earlier_runs(
    instance: dg.DagsterInstance, location: str, next_runs: Sequence[NextRun], numbers: RunNumbers
) -> EarlierRuns:
    """Two queries, whatever the number of days: the attempts by their tag, and all runs in progress."""
    if not next_runs:
        return EarlierRuns({}, [])
    sets = {**numbers.sets, **{next_run.dedup_key: next_run.day_keys for next_run in next_runs}}
    wanted = sorted({key for next_run in next_runs for key in numbers.keys_with(next_run)})
    attempts: dict[str, list[dg.RunRecord]] = defaultdict(list)
    for record in instance.get_run_records(dg.RunsFilter(tags={DEDUP_TAG: wanted})):
        if location_of_run(record.dagster_run) == location:
            dedup_key = record.dagster_run.tags[DEDUP_TAG]
            for day_key in sets.get(dedup_key, [dedup_key]):
                attempts[day_key].append(record)
    unfinished = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    ours = [run for run in unfinished if DEDUP_TAG in run.tags and location_of_run(run) == location]
    return EarlierRuns(attempts, [(run.tags[DEDUP_TAG].split("/")[0], *days_of(run)) for run in ours])


def days_of(run: dg.DagsterRun) -> tuple[str, str]:
    """The first and the last day that the run takes. Dagster's tags have them."""
    day = run.tags.get(PARTITION_TAG, "")
    return run.tags.get(FIRST_PARTITION_TAG, day), run.tags.get(LAST_PARTITION_TAG, day)


def _next_attempt_at(runs: Sequence[dg.RunRecord], now: datetime, timing: Timing) -> datetime:
    """When the next run of a day may start, after these runs, the newest first."""
    failures = _failures(runs)
    if len(failures) >= timing.max_run_attempts:
        return _ended(runs[0]) + timing.failed_run_pause(len(failures), now - _ended(failures[-1]))
    # A run that succeeded and did not change the day found that another batch or run must end first.
    return _ended(runs[0]) + timing.run_pause(len(runs))


def _has_success_on(date_utc: date, runs: Sequence[dg.RunRecord]) -> bool:
    return any(_has_succeeded(run) and _ended(run).date() == date_utc for run in runs)


def _since_success(runs: Sequence[dg.RunRecord]) -> Sequence[dg.RunRecord]:
    """Those after the last successful one; the newest is the first."""
    return list(takewhile(lambda run: not _has_succeeded(run), runs))


def _failures(runs: Sequence[dg.RunRecord]) -> list[dg.RunRecord]:
    return [run for run in runs if not _has_succeeded(run)]


def _has_succeeded(run: dg.RunRecord) -> bool:
    return run.dagster_run.is_success


def _ended(run: dg.RunRecord) -> datetime:
    return datetime.fromtimestamp(run.end_time or run.create_timestamp.timestamp(), UTC)


def _highest_number(attempts: Iterable[Sequence[dg.RunRecord]]) -> int:
    """The highest number at the end of their run keys; at least the number of runs, since a run may have no key."""
    return max(max([len(runs), *map(_number_of, runs)]) for runs in attempts)


def _number_of(run: dg.RunRecord) -> int:
    """The number at the end of its run key; 0 if it has none."""
    match = ATTEMPT.search(run.dagster_run.tags.get(RUN_KEY_TAG, ""))
    return int(match[1]) if match else 0


def _waits_until(assets: str, runs: Sequence[dg.RunRecord], next_at: datetime, now: datetime) -> str:
    """A run that succeeded may have found result files that are late, or a batch that must end first."""
    reason = ""
    if runs and _has_succeeded(runs[0]):
        reason = f"; the log of the last one, {runs[0].dagster_run.run_id}, says what it waits for"
    return f"the next run of {assets} is at {clock(next_at, now)}{reason}"


def _failing(
    assets: str,
    attempts: Mapping[str, Sequence[dg.RunRecord]],
    day_keys: Mapping[str, str],
    next_at: datetime,
    now: datetime,
    timing: Timing,
) -> dict[str, Problem]:
    """day → the problem, for each day whose runs failed too often."""
    problems: dict[str, Problem] = {}
    next_attempt = f"at {clock(next_at, now)}" if next_at > now else "now"
    for day, runs in attempts.items():
        failures = _failures(runs)
        if len(failures) >= timing.max_run_attempts:
            problems[day] = Problem(
                "runs_failed",
                day_keys[day],
                f"{day}: {counted(len(failures), 'run')} of {assets} failed, the last is "
                f"{failures[0].dagster_run.run_id}. Read its error, fix the cause, and materialize {assets} of the "
                f"day, or wait: the next attempt is {next_attempt}.",
            )
    return problems


def _assets(next_run: NextRun, tasks: Mapping[str, TaskRuns]) -> str:
    """Their names, for a sentence."""
    return " and ".join(f"`{key.to_user_string()}`" for key in tasks[next_run.task].assets(next_run.step))


def _run_request(next_run: NextRun, numbers: RunNumbers, task: TaskRuns) -> dg.RunRequest:
    first, last = next_run.first, next_run.last
    is_range = first != last
    return dg.RunRequest(
        run_key=numbers.run_key(next_run),
        partition_key=None if is_range else first,
        asset_selection=task.assets(next_run.step),
        asset_check_keys=task.checks(next_run.step),
        tags={
            DEDUP_TAG: next_run.dedup_key,
            PRIORITY_TAG: str(PRIORITY_OF[next_run.step]),
            **({FIRST_PARTITION_TAG: first, LAST_PARTITION_TAG: last} if is_range else {}),
        },
        run_config=task.config_without_user if next_run.step is Step.NEXT_ROUND else {},
    )
