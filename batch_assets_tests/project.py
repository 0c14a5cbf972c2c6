"""A whole project on a temporary data folder: the real assets and resources, on a real local Batch API."""

import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_openai import OpenAIResource

from batch_assets.assets import batch_request_file, openai_batch, raw_articles, summaries
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.next_step import Day
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.timing import Timing
from batch_assets.checks import day_is_within_budget, every_article_is_accounted_for, usage_adds_up
from batch_assets.days import read_days
from batch_assets.partitions import daily_partitions
from batch_assets.resources import ArticleSource, BatchApi, SummaryTask, Warehouse
from batch_assets_tests.local_api_client import LocalApi

DAY = "2026-01-05"
UPSTREAM = [raw_articles, batch_request_file, openai_batch]
EVERYTHING = [*UPSTREAM, summaries]
CHECKS = [day_is_within_budget, every_article_is_accounted_for, usage_adds_up]
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


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

    @property
    def database(self) -> Database:
        return Database(str(self.folder / "data" / "batch_assets.duckdb"), lock_timeout_seconds=30)

    @property
    def resources(self) -> dict[str, Any]:
        return {
            "warehouse": Warehouse(data_dir=str(self.folder / "data"), database=self.database.path),
            "article_source": ArticleSource(source=self.source),
            "task": SummaryTask(model=self.model, max_cost_usd=self.max_cost_usd, prices=self.prices),
            "openai": self.openai or api_at(self.api.url, is_stand_in=self.is_stand_in),
        }

    def materialize(
        self,
        assets: Iterable[dg.AssetsDefinition] = UPSTREAM,
        day: str = DAY,
        *,
        config: Any = None,
        **tags: str,
    ) -> dg.ExecuteInProcessResult:
        """A run of these assets for the day; one that fails is returned, not raised."""
        return dg.materialize(
            [*EVERYTHING, *CHECKS],
            selection=[asset.key for asset in assets],
            instance=self.instance,
            partition_key=day,
            resources=self.resources,
            tags=tags,
            run_config={**QUIET, **(config or {})},
            raise_on_error=False,
        )

    def materialize_from(
        self, location: str, assets: Iterable[dg.AssetsDefinition] = UPSTREAM, day: str = DAY, **tags: str
    ) -> dg.DagsterRun:
        """The same as a run of this code location, which Dagster records in the run."""
        job = dg.Definitions(
            [*EVERYTHING], asset_checks=CHECKS, resources=self.resources, executor=dg.in_process_executor
        )
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

    def check(self, check: dg.AssetChecksDefinition, day: str = DAY) -> dg.AssetCheckEvaluation:
        """The result of the check of the day, from a run that materializes none of the four assets.

        Dagster gives a run without any partitioned asset no partition.
        """
        result = dg.materialize(
            [*EVERYTHING, *CHECKS, nothing],
            selection=dg.AssetSelection.assets(nothing) | dg.AssetSelection.checks(check),
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

    def metadata(self, asset: dg.AssetsDefinition) -> dict[str, Any]:
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
