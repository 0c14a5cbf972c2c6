"""Dagster's daemon in one process: materialize days, and do what the sensor asks for.

For `batch-assets demo` and for tests. Runs are like any others in the persistent instance, except that no daemon
watches over them: so they bear the process that they live in, and those of a killed one are buried by the next.
"""

import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from batch_assets.batching.safety.outside_text import as_message
from batch_assets.definitions import defs
from batch_assets.resources import openai_resource
from batch_assets.sensors import openai_batch_sensor, read_days
from batch_assets.settings import Settings

PROCESS_TAG = "batch_assets/process"  # host:pid
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def materialize(
    instance: dg.DagsterInstance,
    assets: Iterable[dg.AssetKey],
    day: str,
    *,
    tags: Mapping[str, str] | None = None,
    run_config: Mapping[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run these assets for the day in this process. A failure is returned, not raised: see `reasons`."""
    job = defs().resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance,
        asset_selection=list(assets),
        partition_key=day,
        run_config={**QUIET, **(run_config or {})},
        tags={PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}", **(tags or {})},
        raise_on_error=False,
    )


def reasons(result: dg.ExecuteInProcessResult) -> str:
    """What the failed steps said, fit to be shown: an error's own words, without its stack trace."""
    said = []
    for event in result.get_step_failure_events():
        failure = event.step_failure_data
        if failure.user_failure_data and failure.user_failure_data.description:
            said.append(failure.user_failure_data.description)
        elif failure.error:
            said.append((failure.error.cause or failure.error).message.strip())
    for evaluation in result.get_asset_check_evaluations():
        if not evaluation.passed and evaluation.blocking and evaluation.description:
            said.append(evaluation.description)
    return as_message(" ".join(said))


class Sensor:
    """The real sensor, evaluated here; it keeps its cursor from one tick to the next."""

    def __init__(self, instance: dg.DagsterInstance, settings: Settings) -> None:
        self._instance = instance
        self._definitions = defs()
        self._resources = {"openai": openai_resource(settings)}
        self._cursor: str | None = None

    def tick(self) -> tuple[Sequence[dg.RunRequest], list[dg.AssetObservation]]:
        """What it asks for, and the progress that it shows, which is reported as the daemon does."""
        with dg.build_sensor_context(
            instance=self._instance, cursor=self._cursor, resources=self._resources, definitions=self._definitions
        ) as context:
            tick = openai_batch_sensor.evaluate_tick(context)
        self._cursor = tick.cursor
        for event in tick.asset_events:
            self._instance.report_runless_asset_event(event)
        return tick.run_requests or [], [event for event in tick.asset_events if isinstance(event, dg.AssetObservation)]


def is_done(instance: dg.DagsterInstance, day: str) -> bool:
    """Whether the sensor has nothing left to do for a day that was submitted."""
    return day not in {unfinished.day for unfinished in read_days(instance)}


def fail_orphaned_runs(instance: dg.DagsterInstance, *, of_a_daemon: bool = False) -> None:
    """Mark runs of killed processes of this machine as failed, so that nobody waits for them.

    `of_a_daemon`: also those that a daemon had started, by somebody who knows that none is running.
    """
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        host, _, process = run.tags.get(PROCESS_TAG, "").partition(":")
        if of_a_daemon and not host and run.status is not dg.DagsterRunStatus.QUEUED:
            instance.report_run_failed(run, "It was left unfinished when Dagster was killed.")
        elif host == socket.gethostname() and process.isdecimal() and not _is_running(int(process)):
            instance.report_run_failed(run, "Its process was killed.")


@contextmanager
def opened_instance(home: str) -> Iterator[dg.DagsterInstance]:
    """The persistent instance of a Dagster home, without the dead."""
    with dg.DagsterInstance.from_config(home) as instance:
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
