"""What a daemon does, in a process that can be killed anywhere: submit days, follow the sensor to the end.

Runs in a child of a fork server, so that it is a real process with nothing to import first. `kill_at` kills it, with
SIGKILL, at one of the points where something becomes durable or leaves the machine: before and after each HTTP
request, each transaction, each rename, each fsync and each materialization event. The points are counted, not listed:
a new one is found by itself.
"""

import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import httpx2

from batch_assets import resources
from batch_assets.assets import batch_request_file, openai_batch, raw_articles
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.timing import Timing
from batch_assets.cli import local_daemon
from batch_assets.cli.dagster_home import make_dagster_home
from batch_assets.cli.local_daemon import Sensor, is_done, materialize, open_instance
from batch_assets.resources import BatchApi
from batch_assets.settings import Settings, read_settings

DONE, SECONDS_FOR_A_CHILD = 0, 420
SHORT = Timing(
    create_timeout_seconds=2.0,
    rate_limit_seconds=0.1,
    file_not_found_pauses_seconds=(0.1, 0.1, 0.1),
    find_batch_pauses_seconds=(0.0, 0.2, 0.2),
    budget_retry=timedelta(seconds=1),
    first_requeue_pause=timedelta(seconds=0.3),
    download_pauses_seconds=(0.1, 0.2, 0.4, 0.4),
    lost_after=timedelta(0),
    next_round_pause=timedelta(seconds=0.2),
    max_run_attempts=50,
    first_run_pause=timedelta(seconds=0.2),
)


@dataclass(frozen=True)
class Drive:
    """What to do: submit these days, and follow the sensor until they are done."""

    data: Path
    api_url: str
    source: str
    days: Sequence[str]
    kill_at: int | None = None
    variables: tuple[tuple[str, str], ...] = ()


def drive(task: Drive) -> int:
    """Run it in a process of its own; returns how many points it passed, or -1 if it was killed."""
    return in_child(_child, task, task.kill_at)


def in_child(function: Callable[[Any], None], argument: object, kill_at: int | None) -> int:
    """Run a function in a child, and kill that at a point; returns the number of points passed, -1 if killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    counter = context.Value("i", 0)
    process = context.Process(target=_counted, args=(function, argument, kill_at, counter))
    with mock.patch.dict(os.environ, {"BATCH_ASSETS_SOURCE": "none of the sample"}):
        # read when the fork server starts, and imports our partitions: only the sample's days have an end
        process.start()
    process.join(SECONDS_FOR_A_CHILD)
    if process.exitcode == -signal.SIGKILL:
        return -1
    assert process.exitcode == DONE, f"the driver ended with {process.exitcode}"
    return int(counter.value)


def _counted(function: Callable[[Any], None], argument: object, kill_at: int | None, counter: Any) -> None:
    _wait_shortly()
    _count_points(counter, kill_at)
    function(argument)


def _child(task: Drive) -> None:
    variables = {
        "BATCH_ASSETS_DATA_DIR": str(task.data),
        "BATCH_ASSETS_SOURCE": task.source,
        "OPENAI_BASE_URL": task.api_url,
        "OPENAI_API_KEY": "",
        "DAGSTER_HOME": "",
        **dict(task.variables),
    }
    os.environ.update(variables)
    settings = read_settings()
    with open_instance(make_dagster_home(settings)) as instance:
        for day in task.days:
            materialize(instance, [raw_articles.key, batch_request_file.key, openai_batch.key], day)
        sensor = Sensor(instance, settings)
        while not all(is_done(instance, day) for day in task.days):
            requests, _ = sensor.tick()
            for request in requests:
                materialize(
                    instance,
                    request.asset_selection or [],
                    request.partition_key or "",
                    tags=request.tags,
                    run_config=request.run_config,
                )
            if not requests:
                time.sleep(0.1)


def _wait_shortly() -> None:
    """Give runs and sensor the times of a test: those of a day's work are too long for one."""
    make = resources.openai_resource

    def with_short_times(settings: Settings) -> BatchApi:
        return replace(make(settings), timing=SHORT)

    for module in (resources, local_daemon):
        module.openai_resource = with_short_times  # type: ignore[attr-defined]


def _count_points(counter: Any, kill_at: int | None) -> None:
    def point() -> None:
        if counter.value == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        counter.value += 1

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            point()
            result = function(*args, **kwargs)
            point()
            return result

        return wrapper

    httpx2.Client.send = around(httpx2.Client.send)  # type: ignore[method-assign]
    Path.replace = around(Path.replace)  # type: ignore[method-assign]
    os.fsync = around(os.fsync)

    opened = Database._opened

    class Watched:
        """A connection for writing; there is a point before it is opened and after it is closed."""

        def __init__(self, database: Database, read_only: bool) -> None:
            self.inner, self.read_only = opened(database, read_only=read_only), read_only

        def __enter__(self) -> Any:
            if not self.read_only:
                point()
            return self.inner.__enter__()

        def __exit__(self, *error: Any) -> Any:
            result = self.inner.__exit__(*error)
            if not self.read_only:
                point()
            return result

    Database._opened = lambda self, *, read_only: Watched(self, read_only)  # type: ignore[method-assign,assignment,return-value]

    store_event = dg.DagsterInstance.store_event

    def watched_store(instance: dg.DagsterInstance, event: Any) -> None:
        is_materialization = event.is_dagster_event and event.dagster_event.is_step_materialization
        if is_materialization:
            point()
        store_event(instance, event)
        if is_materialization:
            point()

    dg.DagsterInstance.store_event = watched_store  # type: ignore[method-assign,assignment]
