"""Steps that days are ready for → Dagster's run requests: one run at a time, with retries and back-off."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from batch_assets.assets import batch_request_file, openai_batch, summaries
from batch_assets.batching.counting import counted
from batch_assets.batching.next_step import Day, Step
from batch_assets.batching.timing import Timing

RUNS_PER_TICK = 25
DEDUP_TAG = "batch_assets/dedup_key"
ASSETS_OF = {
    Step.COLLECT: [summaries.key],
    Step.COLLECT_PART: [summaries.key],
    Step.SUBMIT: [openai_batch.key],
    Step.NEXT_ROUND: [batch_request_file.key, openai_batch.key],
}


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


def request_runs(
    instance: dg.DagsterInstance, next_runs: Sequence[NextRun], now: datetime, timing: Timing
) -> tuple[list[dg.RunRequest], list[str]]:
    """A run request for each of these steps, unless a run is in progress or it is too early for another attempt.

    Also returns a sentence for each day whose runs failed too often. Dagster accepts a run key once, also after its run
    has failed, so the key ends with the number of the attempt.
    """
    earlier = _earlier_runs(instance, [next_run.dedup_key for next_run in next_runs])
    requests: list[dg.RunRequest] = []
    failed_too_often: list[str] = []
    for next_run in next_runs:
        runs = earlier[next_run.dedup_key]
        failures = [run for run in runs if not run.dagster_run.is_success]
        if len(requests) == RUNS_PER_TICK or any(not run.dagster_run.is_finished for run in runs):
            continue
        if len(failures) >= timing.max_run_attempts:
            failed_too_often.append(_failed_too_often(next_run, failures))
            continue
        if next_run.once_on and len(failures) < len(runs):
            continue
        # A run that succeeded and did not change the day found that another batch or run must end first.
        if runs and now < _ended(runs[0]) + timing.run_pause(len(runs)):
            continue
        requests.append(_run_request(next_run, attempt=len(runs) + 1))
    return requests, failed_too_often


def _earlier_runs(instance: dg.DagsterInstance, dedup_keys: Collection[str]) -> Mapping[str, list[dg.RunRecord]]:
    """The runs that the sensor requested so far, newest first, for each key; one query."""
    runs: dict[str, list[dg.RunRecord]] = defaultdict(list)
    if dedup_keys:
        for record in instance.get_run_records(dg.RunsFilter(tags={DEDUP_TAG: list(dedup_keys)})):
            runs[record.dagster_run.tags[DEDUP_TAG]].append(record)
    return runs


def _ended(run: dg.RunRecord) -> datetime:
    return datetime.fromtimestamp(run.end_time or run.create_timestamp.timestamp(), UTC)


def _failed_too_often(next_run: NextRun, failures: Sequence[dg.RunRecord]) -> str:
    day, last = next_run.day.day, failures[0].dagster_run.run_id
    names = " and ".join(f"`{key.to_user_string()}`" for key in ASSETS_OF[next_run.step])
    return (
        f"{day}: {counted(len(failures), 'run')} for the step {next_run.step} failed, the last is {last}. "
        f"Read its error, fix the cause, and materialize {names} of the day."
    )


def _run_request(next_run: NextRun, *, attempt: int) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{next_run.dedup_key}/attempt-{attempt}",
        partition_key=next_run.day.day,
        asset_selection=ASSETS_OF[next_run.step],
        tags={DEDUP_TAG: next_run.dedup_key},
        run_config=_config_of(next_run.step),
    )


def _config_of(step: Step) -> dict[str, Any]:
    """The next round uses the task that the ledger recorded for the day, not the configured one.

    With another task, every request of the day would be pending and would cost money again. Requests that the user
    cancelled stay cancelled.
    """
    if step is not Step.NEXT_ROUND:
        return {}
    return {"ops": {"batch_request_file": {"config": {"resume_cancelled": False, "same_task": True}}}}
