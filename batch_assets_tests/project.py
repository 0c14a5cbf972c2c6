"""A whole project on a temporary data folder: the real assets and resources, on a real local Batch API."""

import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_openai import OpenAIResource

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.next_step import Day
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.timing import Timing
from batch_assets.days import read_days
from batch_assets.partitions import daily_partitions
from batch_assets.resources import OPENAI, WAREHOUSE, BatchApi, Warehouse
from batch_assets.task_set import TaskSet
from batch_assets_tests.first_task import (
    assets_of,
    batch_request_file,
    first_task,
    openai_batch,
    raw_articles,
    summaries,
)
from batch_assets_tests.local_api_client import LocalApi

DAY = "2026-01-05"
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class HasKey(Protocol):
    """An asset, or its specification."""

    @property
    def key(self) -> dg.AssetKey: ...


UPSTREAM: list[HasKey] = [raw_articles, batch_request_file, openai_batch]
EVERYTHING: list[HasKey] = [*UPSTREAM, summaries]


@dg.asset(partitions_def=daily_partitions)
def nothing() -> None:
    """An asset whose materialization changes no table."""


@dataclass
class Project:
    """A user's source, data folder and Dagster instance, and an API that counts."""

    folder: Path
    api: LocalApi
    instance: dg.DagsterInstance
    source: str
    model: str = "gpt-6-luna"
    max_cost_usd: float | None = None
    prices: tuple[ModelPrice, ...] = ()
    is_stand_in: bool = False
    openai: BatchApi | None = None  # in place of one at the API
    other_tasks: TaskSet | None = None

    @property
    def database(self) -> Database:
        return Database(str(self.folder / "data" / "batch_assets.duckdb"), lock_timeout_seconds=30)

    @property
    def tasks(self) -> TaskSet:
        """The tasks of the project: `summaries`, unless a test has others."""
        return self.other_tasks or first_task(
            self.source, model=self.model, max_cost_usd=self.max_cost_usd, prices=self.prices
        )

    @property
    def assets(self) -> list[dg.AssetsDefinition]:
        return assets_of(self.tasks)

    @property
    def resources(self) -> dict[str, Any]:
        return {
            WAREHOUSE: Warehouse(data_dir=str(self.folder / "data"), database=self.database.path),
            OPENAI: self.openai or api_at(self.api.url, is_stand_in=self.is_stand_in),
        }

    def materialize(
        self,
        assets: Iterable[HasKey] = UPSTREAM,
        day: str = DAY,
        *,
        config: Any = None,
        **tags: str,
    ) -> dg.ExecuteInProcessResult:
        """A run of these assets for the day; one that fails is returned, not raised."""
        return dg.materialize(
            self.assets,
            selection=[asset.key for asset in assets],
            instance=self.instance,
            partition_key=day,
            resources=self.resources,
            tags=tags,
            run_config={**QUIET, **(config or {})},
            raise_on_error=False,
        )

    def materialize_days(
        self, first: str, last: str, assets: Iterable[HasKey] = UPSTREAM, *, config: Any = None, **tags: str
    ) -> dg.ExecuteInProcessResult:
        """One run of these assets for all days from the first to the last, as in a backfill."""
        return dg.materialize(
            self.assets,
            selection=[asset.key for asset in assets],
            instance=self.instance,
            resources=self.resources,
            tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last, **tags},
            run_config={**QUIET, **(config or {})},
            raise_on_error=False,
        )

    def materialized(self, asset: HasKey) -> set[str]:
        """The days of the asset that Dagster shows as materialized."""
        return set(self.instance.get_materialized_partitions(asset.key)) - self.failed(asset)

    def failed(self, asset: HasKey) -> set[str]:
        """The days of the asset that Dagster shows as failed."""
        with partition_loading_context(dynamic_partitions_store=self.instance):
            status = get_and_update_asset_status_cache_value(self.instance, asset.key, daily_partitions)
            assert status is not None
            return set(status.deserialize_failed_partition_subsets(daily_partitions).get_partition_keys())

    def materialize_from(
        self, location: str, assets: Iterable[HasKey] = UPSTREAM, day: str = DAY, **tags: str
    ) -> dg.DagsterRun:
        """The same as a run of this code location, which Dagster records in the run."""
        job = dg.Definitions(self.assets, resources=self.resources, executor=dg.in_process_executor)
        whole = job.resolve_implicit_global_asset_job_def()
        repository = RemoteRepositoryOrigin(code_location_origin(location), "__repository__")
        run = self.instance.create_run_for_job(
            whole,
            run_config=QUIET,
            tags={"dagster/partition": day, **tags},
            asset_selection={asset.key for asset in assets},
            remote_job_origin=RemoteJobOrigin(repository, whole.name),
        )
        execute_run(InMemoryJob(whole), run, self.instance)
        finished = self.instance.get_run_by_id(run.run_id)
        assert finished is not None
        return finished

    def check(self, check: dg.AssetCheckSpec, day: str = DAY) -> dg.AssetCheckEvaluation:
        """The result of the check of the day, from a run that materializes none of the four assets.

        Dagster gives a run without any partitioned asset no partition.
        """
        result = dg.materialize(
            [*self.assets, nothing],
            selection=dg.AssetSelection.assets(nothing) | dg.AssetSelection.checks(check.key),
            instance=self.instance,
            partition_key=day,
            resources=self.resources,
            run_config=QUIET,
            raise_on_error=False,
        )
        [evaluation] = result.get_asset_check_evaluations()
        return evaluation

    def finish(self, day: str = DAY) -> dg.ExecuteInProcessResult:
        """Wait until the day's batches have ended, and materialize its summaries."""
        self.wait_for_batches()
        return self.materialize([summaries], day)

    def wait_for_batches(self) -> None:
        """Wait until the uncollected batches have ended."""
        for (batch_id,) in self.rows("SELECT batch_id FROM openai_batch WHERE state IN ('submitted', 'missing')"):
            self.api.wait(batch_id)

    def days_seen_from(self, location: str) -> list[Day]:
        """The days that the sensor of this code location finds in the event log."""
        return read_days(self.instance, location)

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.database.reading() as connection:
            return connection.execute(statement, list(parameters)).fetchall()

    def warnings(self, run_id: str) -> list[str]:
        """What the run has logged as warnings."""
        return [
            entry.user_message
            for entry in self.instance.all_logs(run_id)
            if entry.level == logging.WARNING and entry.dagster_event is None
        ]

    def failed_checks(self, run_id: str) -> list[dg.AssetCheckEvaluation]:
        """The evaluations in the run's events that did not pass; the result of a failed run does not have them all."""
        events = [entry.dagster_event for entry in self.instance.all_logs(run_id) if entry.dagster_event is not None]
        evaluations = [
            event.asset_check_evaluation_data
            for event in events
            if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ]
        return [evaluation for evaluation in evaluations if not evaluation.passed]

    def metadata(self, asset: HasKey) -> dict[str, Any]:
        """The values of the asset's newest materialization."""
        event = self.instance.get_latest_materialization_event(asset.key)
        assert event is not None
        assert event.asset_materialization is not None
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def code_location_origin(name: str) -> InProcessCodeLocationOrigin:
    """Where Dagster says that a code location of this name is."""
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name="batch_assets.definitions")
    return InProcessCodeLocationOrigin(target, location_name=name)


def api_at(url: str, key: str = "local", *, is_stand_in: bool = False, timing: Timing | None = None) -> BatchApi:
    return BatchApi(lambda: OpenAIResource(api_key=key, base_url=url), is_stand_in, timing or Timing())


def write_articles(path: Path, articles: Iterable[dict[str, Any]]) -> str:
    """A JSONL source of these articles, on DAY at noon unless they say otherwise."""
    noon = f"{DAY}T12:00:00Z"
    lines = [json.dumps({"published_at": noon, **article}, ensure_ascii=False) for article in articles]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def generated_articles(number: int, first_day: str = DAY, days: int = 1) -> list[dict[str, Any]]:
    """Distinct little articles, spread evenly over some days."""
    start = datetime.combine(date.fromisoformat(first_day), datetime.min.time())
    return [
        {
            "id": f"a{n}",
            "title": f"Report {n}",
            "body": f"The harbour of town {n} reopened. It had been closed for {n % 50 + 2} days. Ships are waiting.",
            "published_at": (start + timedelta(days=n % days, hours=12)).isoformat() + "Z",
        }
        for n in range(number)
    ]
