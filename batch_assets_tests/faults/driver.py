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
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import httpx2

from batch_assets import sensors
from batch_assets.assets import batch_request_file, openai_batch, raw_articles
from batch_assets.batching.collection import collect
from batch_assets.batching.ledger import batch_transitions, claims
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.provider import download
from batch_assets.batching.submission import create
from batch_assets.cli.dagster_home import dagster_home
from batch_assets.cli.local_daemon import Sensor, is_done, materialize, opened_instance
from batch_assets.settings import read_settings

DONE, SECONDS_FOR_A_CHILD = 0, 420


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
    _hurry()
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
    with opened_instance(str(dagster_home(settings))) as instance:
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


def _hurry() -> None:
    """Pauses that make sense for a day's work are too long for a test."""
    sensors.FIRST_PAUSE = sensors.ROUND_PAUSE = timedelta(seconds=0.2)
    sensors.TRIES = 50
    create.LOOK_AFTER_SECONDS = (0.0, 0.2, 0.2)
    create.FILE_NOT_FOUND_SECONDS = (0.1, 0.1, 0.1)
    create.RATE_LIMIT_SECONDS = 0.1
    create.CREATE_TIMEOUT_SECONDS = 2.0
    collect.LOST_AFTER = timedelta(0)
    sensors.LOST_AFTER = timedelta(0)  # type: ignore[attr-defined]
    download.DOWNLOAD_PAUSES_SECONDS = (0.1, 0.2, 0.4, 0.4)
    batch_transitions.FIRST_PAUSE = timedelta(seconds=0.3)
    claims.LOOK_AGAIN = timedelta(seconds=1)


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
