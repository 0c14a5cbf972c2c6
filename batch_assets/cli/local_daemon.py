"""What Dagster's daemon does, in this process: evaluate the sensor, and execute the runs that it requests.

For `batch-assets demo` and for tests. The runs are in the persistent instance, like any others, but no daemon monitors
them. So each has the tag PROCESS_TAG, and the next process marks the runs of a killed process as failed.
"""

import logging
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from batch_assets.asset_keys import TaskKeys
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.batching.task_day import FIRST_TASK
from batch_assets.day_events import server_location
from batch_assets.days import FIRST_KEYS, read_days
from batch_assets.definitions import defs
from batch_assets.resources import OPENAI, openai_resource
from batch_assets.run_requests import UNFINISHED
from batch_assets.sensors import SENSOR
from batch_assets.settings import Settings

PROCESS_TAG = "batch_assets/process"  # host:pid
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def materialize(
    instance: dg.DagsterInstance,
    assets: Iterable[dg.AssetKey],
    day: str | None,
    *,
    tags: Mapping[str, str] | None = None,
    run_config: Mapping[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run these assets for the day in this process. A failure is returned, not raised: see `failure_message`.

    day: None for a run of several days, which Dagster's tags have.
    """
    job = defs().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        asset_selection=list(assets),
        partition_key=day,
        run_config={**QUIET, **(run_config or {})},
        tags={PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}", **(tags or {})},
        raise_on_error=False,
    )


def failure_message(result: dg.ExecuteInProcessResult) -> str:
    """The messages of the failed steps, printable and without stack traces."""
    messages = []
    for event in result.get_step_failure_events():
        failure = event.step_failure_data
        if failure.user_failure_data and failure.user_failure_data.description:
            messages.append(failure.user_failure_data.description)
        elif failure.error:
            messages.append((failure.error.cause or failure.error).message.strip())
    for evaluation in result.get_asset_check_evaluations():
        if not evaluation.passed and evaluation.blocking and evaluation.description:
            messages.append(evaluation.description)
    return as_message(" ".join(messages))


class Sensor:
    """The real sensor, evaluated in this process. It keeps its cursor from one tick to the next.

    waits_for: what the last tick waits for, in sentences; None if it requested a run.
    """

    def __init__(self, instance: dg.DagsterInstance, settings: Settings) -> None:
        self._instance = instance
        self._definitions = defs()
        self._sensor = self._definitions.resolve_sensor_def(SENSOR)
        self._resources = {OPENAI: openai_resource(settings)}
        self._cursor: str | None = None
        self.waits_for: str | None = None

    def tick(self) -> tuple[Sequence[dg.RunRequest], list[dg.AssetObservation]]:
        """Evaluate the sensor: the runs that it requests, and the observations, which are reported to the instance."""
        with dg.build_sensor_context(
            instance=self._instance, cursor=self._cursor, resources=self._resources, definitions=self._definitions
        ) as context:
            context.log.setLevel(logging.CRITICAL)  # Dagster would print it between the lines of the command
            tick = self._sensor.evaluate_tick(context)
        self._cursor, self.waits_for = tick.cursor, tick.skip_message
        for event in tick.asset_events:
            self._instance.report_runless_asset_event(event)
        return tick.run_requests or [], [event for event in tick.asset_events if isinstance(event, dg.AssetObservation)]


def is_done(instance: dg.DagsterInstance, day: str, task: str = FIRST_TASK, keys: TaskKeys = FIRST_KEYS) -> bool:
    """Whether the sensor has nothing left to do for a day that was submitted. Of a blocked day, the user decides."""
    unfinished = [one for one in read_days(instance, task=task, keys=keys) if one.is_in_flight or one.needs_next_round]
    return day not in {one.day for one in unfinished}


def fail_orphaned_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs of killed processes of this machine as failed, so that the sensor does not wait for them."""
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        host, _, process = run.tags.get(PROCESS_TAG, "").partition(":")
        if host == socket.gethostname() and process.isdecimal() and not _is_running(int(process)):
            instance.report_run_failed(run, "The process of the run was killed.")


def fail_runs_of_locations(instance: dg.DagsterInstance, locations: Collection[str]) -> None:
    """Mark the started runs of these code locations as failed. Only for a caller who knows that no server of them runs.

    Other projects may use the same instance: runs of other code locations, and runs without one, do not change.
    """
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        is_of_a_process = PROCESS_TAG in run.tags  # of `demo`, which may still run
        if server_location(run) in locations and not is_of_a_process and run.status is not dg.DagsterRunStatus.QUEUED:
            instance.report_run_failed(run, "Dagster was killed before the run finished.")


@contextmanager
def open_instance(dagster_home: Path) -> Iterator[dg.DagsterInstance]:
    """The persistent instance of a Dagster home. Runs of killed processes are marked as failed first."""
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        fail_orphaned_runs(instance)
        yield instance


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
