"""A daemon in a simulated month: it evaluates the real sensor, and executes the runs that this requests.

It can be killed during a run, can lose its cursor or begin with an old one, and loads the code location again when the
environment changes.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import duckdb

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.waiting import summary
from batch_assets.cli.local_daemon import PROCESS_TAG, QUIET, fail_orphaned_runs, failure_message, materialize
from batch_assets.component import BatchTask
from batch_assets.day_events import DEDUP_TAG
from batch_assets.declare import declare
from batch_assets.definitions import defs
from batch_assets.resources import OPENAI, openai_resource
from batch_assets.run_requests import days_of
from batch_assets.settings import read_settings
from batch_assets.task_set import DeclaredTask
from batch_assets_tests.faults.accounts import PRICES
from batch_assets_tests.faults.driver import in_child
from batch_assets_tests.faults.simulated_clock import SimulatedClock, simulated_clock
from batch_assets_tests.first_task import batch_request_file, openai_batch, openai_batch_sensor, raw_articles

UPSTREAM = (raw_articles.key, batch_request_file.key, openai_batch.key)
VARIABLES = ("BATCH_ASSETS_DATA_DIR", "BATCH_ASSETS_SOURCE", "BATCH_ASSETS_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL")


@dataclass(frozen=True)
class Run:
    """A run to start: of the schedule, which has no tags, or of the sensor.

    day: None for a range, which the tags have.
    """

    day: str | None
    assets: tuple[dg.AssetKey, ...] = UPSTREAM
    tags: Mapping[str, str] = field(default_factory=dict)
    run_config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunInChild:
    """The same in a process of its own, which is killed."""

    run: Run
    dagster_home: Path
    now: datetime
    variables: Mapping[str, str]


class OpenTables:
    """Keeps the database file open between the runs, since opening it takes 3 ms, twenty times in a run.

    Everything else is as in use, including the lock. A run in another process needs `closed`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: duckdb.DuckDBPyConnection | None = None

    @contextmanager
    def opened(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        """In place of `Database._opened`."""
        if self._connection is None:
            self._connection = duckdb.connect(self._path, config={"threads": 1})
        with self._connection.cursor() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection

    @contextmanager
    def closed(self) -> Iterator[None]:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        yield


@contextmanager
def open_tables() -> Iterator[OpenTables]:
    """The database of the environment variables, for all runs of this process."""
    tables = OpenTables(read_settings().database)
    with mock.patch.object(Database, "_opened", lambda self, *, read_only: tables.opened(read_only=read_only)):
        yield tables
    with tables.closed():
        pass


@contextmanager
def known_prices() -> Iterator[None]:
    """The task has prices of its own, as a user may give it in its YAML."""

    def with_prices(component: BatchTask) -> DeclaredTask:
        return replace(declare(component), prices=PRICES)

    with mock.patch("batch_assets.declare.declare", with_prices):
        yield


class Daemon:
    """The daemon and its code location. `failures`: day → the sentences of its failed runs."""

    def __init__(
        self, dagster_home: Path, instance: dg.DagsterInstance, clock: SimulatedClock, tables: OpenTables
    ) -> None:
        self.dagster_home, self.instance, self.clock, self._tables = dagster_home, instance, clock, tables
        self.kill_next_run_at: int | None = None
        self.failures: dict[str, list[str]] = {}
        self._cursors: list[str | None] = [None]
        self._used_keys: set[str] = set()
        self.load_code_location()

    def load_code_location(self) -> None:
        """As after a restart: the definitions read the environment variables when they load."""
        self._definitions = defs()
        self._job = self._definitions.resolve_implicit_global_asset_job_def()
        self._openai = openai_resource(read_settings())

    def restart(self, *, forgotten_ticks: int | None) -> None:
        """Begin with the cursor from before so many ticks; None: without a cursor."""
        if forgotten_ticks is None:
            self._cursors = [None]
        else:
            del self._cursors[max(1, len(self._cursors) - forgotten_ticks) :]

    def tick(self) -> tuple[str, int]:
        """Evaluate the sensor, and execute the runs that it requests: (its text, number of these runs).

        The text is the skip reason or, if it requests runs, what it logs.
        """
        with (
            dg.build_sensor_context(
                instance=self.instance,
                cursor=self._cursors[-1],
                resources={OPENAI: self._openai},
                definitions=self._definitions,
            ) as context,
            mock.patch("batch_assets.sensors.summary", side_effect=summary) as texts,
        ):
            tick = openai_batch_sensor.evaluate_tick(context)
        text = summary(*texts.call_args.args, **texts.call_args.kwargs)
        self._cursors.append(tick.cursor)
        for event in tick.asset_events:
            self.instance.report_runless_asset_event(event)
        accepted = self._accepted(tick.run_requests or [])
        for request in accepted:
            self.start(
                Run(
                    request.partition_key,
                    tuple(request.asset_selection or ()),
                    {**request.tags, "dagster/run_key": request.run_key or ""},
                    request.run_config,
                )
            )
        return text, len(accepted)

    def _accepted(self, requests: Sequence[dg.RunRequest]) -> list[dg.RunRequest]:
        """Dagster accepts a run key once, also if its run was deleted."""
        new = [request for request in requests if request.run_key not in self._used_keys]
        self._used_keys |= {request.run_key for request in new if request.run_key is not None}
        return new

    def start(self, run: Run) -> None:
        """Execute the run. If its process is killed, execute it again, as `run_retries` of our dagster.yaml does."""
        if self.kill_next_run_at is not None:
            kill_at, self.kill_next_run_at = self.kill_next_run_at, None
            variables = {name: os.environ.get(name, "") for name in VARIABLES}
            with self._tables.closed():
                in_child(run_in_child, RunInChild(run, self.dagster_home, self.clock.now(), variables), kill_at)
            self.clock.advance(minutes=1)
            fail_orphaned_runs(self.instance)
        result = self._job.execute_in_process(
            instance=self.instance,
            asset_selection=list(run.assets),
            partition_key=run.day,
            run_config={**QUIET, **run.run_config},
            tags={PROCESS_TAG: f"month:{os.getpid()}", **run.tags},
            raise_on_error=False,
        )
        if not result.success:
            self.failures.setdefault(run.day or run.tags[DEDUP_TAG], []).append(failure_message(result))

    def delete_runs(self, day: str) -> None:
        """The user deletes the runs of the day in the UI, with all of their events."""
        for run in self.instance.get_runs():
            first, last = days_of(run)
            if first <= day <= last:
                self.instance.delete_run(run.run_id)


def run_in_child(run: RunInChild) -> None:
    os.environ.update(run.variables)
    with simulated_clock(run.now), known_prices(), dg.DagsterInstance.from_config(str(run.dagster_home)) as instance:
        materialize(instance, run.run.assets, run.run.day, tags=run.run.tags, run_config=run.run.run_config)
