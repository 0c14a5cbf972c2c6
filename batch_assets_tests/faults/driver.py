"""Does the work of a daemon in a process that a test can kill: submits days, and ticks the sensor until they are done.

The process is a child of a fork server, which has imported everything. `kill_at` kills the child, with SIGKILL, at a
point where something becomes durable or is sent: before and after each HTTP request, transaction, rename, fsync and
materialization event. The child counts the points, so the tests cover a new point without a change.
"""

import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import httpx2

from batch_assets import resources
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.timing import Timing
from batch_assets.cli import local_daemon
from batch_assets.cli.dagster_home.home import make_dagster_home
from batch_assets.cli.local_daemon import Sensor, is_done, materialize, open_instance
from batch_assets.days import read_days
from batch_assets.resources import BatchApi
from batch_assets.run_requests import FIRST_PARTITION_TAG, LAST_PARTITION_TAG
from batch_assets.settings import Settings, read_settings
from batch_assets_tests.first_task import batch_request_file, openai_batch, raw_articles

SECONDS_FOR_A_CHILD = 420
TIMING = Timing(
    create_timeout_seconds=2.0,
    rate_limit_seconds=0.1,
    file_not_found_pauses_seconds=(0.1, 0.1, 0.1),
    find_batch_pauses_seconds=(0.0, 0.2, 0.2),
    capacity_retry=timedelta(seconds=1),
    first_requeue_pause=timedelta(seconds=0.3),
    download_pauses_seconds=(0.1, 0.2, 0.4, 0.4),
    lost_after=timedelta(0),
    next_round_pause=timedelta(seconds=0.2),
    max_run_attempts=50,
    first_run_pause=timedelta(seconds=0.2),
)


@dataclass(frozen=True)
class DaysToDrive:
    """The days to submit and to collect; `variables` are further environment variables."""

    data: Path
    api_url: str
    source: str
    days: Sequence[str]
    kill_at: int | None = None
    variables: tuple[tuple[str, str], ...] = ()


def drive(days_to_drive: DaysToDrive) -> int:
    """Submit and collect in a child process; returns how many points it passed, or -1 if it was killed."""
    return in_child(_drive, days_to_drive, days_to_drive.kill_at)


def in_child(
    function: Callable[[Any], None], argument: object, kill_at: int | None, seconds: float = SECONDS_FOR_A_CHILD
) -> int:
    """Run a function in a child process; returns how many points it passed, or -1 if it was killed at `kill_at`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    counter = context.Value("i", 0)
    process = context.Process(target=_counted, args=(function, argument, kill_at, counter))
    process.start()
    process.join(seconds)
    if process.exitcode == -signal.SIGKILL:
        return -1
    assert process.exitcode == 0, f"the driver ended with {process.exitcode}"
    return int(counter.value)


def _counted(function: Callable[[Any], None], argument: object, kill_at: int | None, counter: Any) -> None:
    _count_points(counter, kill_at)
    function(argument)


def _drive(days_to_drive: DaysToDrive) -> None:
    _shorten_pauses()
    variables = {
        "BATCH_ASSETS_DATA_DIR": str(days_to_drive.data),
        "BATCH_ASSETS_SOURCE": days_to_drive.source,
        "OPENAI_BASE_URL": days_to_drive.api_url,
        "OPENAI_API_KEY": "",
        "DAGSTER_HOME": "",
        **dict(days_to_drive.variables),
    }
    os.environ.update(variables)
    settings = read_settings()
    with open_instance(make_dagster_home(settings)) as instance:
        for day, tags in _runs(days_to_drive.days):
            materialize(instance, [raw_articles.key, batch_request_file.key, openai_batch.key], day, tags=tags)
        sensor = Sensor(instance, settings)
        while not all(is_done(instance, day) for day in days_to_drive.days) or _buys_missing_results_again(instance):
            requests, _ = sensor.tick()
            for request in requests:
                materialize(
                    instance,
                    request.asset_selection or [],
                    request.partition_key,
                    tags=request.tags,
                    run_config=request.run_config,
                )
            if not requests:
                time.sleep(0.1)


def _runs(days: Sequence[str]) -> list[tuple[str | None, dict[str, str]]]:
    """The runs that submit these days, as (day, tags): one for all, if they follow each other, as in a backfill."""
    if not days:
        return []
    first, last = date.fromisoformat(days[0]), date.fromisoformat(days[-1])
    if len(days) == 1 or list(days) != [(first + timedelta(n)).isoformat() for n in range((last - first).days + 1)]:
        return [(day, {}) for day in days]
    return [(None, {FIRST_PARTITION_TAG: days[0], LAST_PARTITION_TAG: days[-1]})]


def _buys_missing_results_again(instance: dg.DagsterInstance) -> bool:
    """Whether a day has requests whose results are missing. Its user has them sent again: no run does it by itself."""
    blocked = [day.day for day in read_days(instance) if day.blocked]
    for day in blocked:
        config = {"ops": {"submission": {"config": {"retry_failed": True}}}}
        materialize(instance, [batch_request_file.key, openai_batch.key], day, run_config=config)
    return bool(blocked)


def _shorten_pauses() -> None:
    """Give runs and sensor the shorter pauses of the tests."""
    make = resources.openai_resource

    def with_short_pauses(settings: Settings) -> BatchApi:
        return replace(make(settings), timing=TIMING)

    for module in (resources, local_daemon):
        module.openai_resource = with_short_pauses  # type: ignore[attr-defined]


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

    class CountedConnection:
        """A connection; for writing, there is a point before it is opened and after it is closed."""

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

    Database._opened = lambda self, *, read_only: CountedConnection(self, read_only)  # type: ignore[method-assign,assignment,return-value]

    store_event = dg.DagsterInstance.store_event

    def counted_store(instance: dg.DagsterInstance, event: Any) -> None:
        is_materialization = event.is_dagster_event and event.dagster_event.is_step_materialization
        if is_materialization:
            point()
        store_event(instance, event)
        if is_materialization:
            point()

    dg.DagsterInstance.store_event = counted_store  # type: ignore[method-assign,assignment]
