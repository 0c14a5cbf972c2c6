"""A backfill as the daemon sees it: it ends green, and has no days of `summaries` beside those of the other assets."""

import time

import dagster as dg
import pytest
from dagster._core.execution.asset_backfill import AssetBackfillData

from batch_assets.definitions import defs
from batch_assets_tests.conftest import serving
from batch_assets_tests.first_task import summaries
from batch_assets_tests.project import DAY, EVERYTHING, UPSTREAM, Project

pytestmark = pytest.mark.end_to_end
DAYS = [DAY, "2026-01-06", "2026-01-07"]


def targets(instance: dg.DagsterInstance, assets: list[dg.AssetKey]) -> dict[str, set[str]]:
    """asset → the days that a backfill of these assets materializes, as the UI launches it."""
    data = AssetBackfillData.from_asset_partitions(
        defs().resolve_asset_graph(), DAYS, assets, instance, backfill_start_timestamp=time.time(), all_partitions=False
    )
    return {
        key.to_user_string(): set(data.target_subset.get_partitions_subset(key).get_partition_keys())
        for key in data.target_subset.asset_keys
    }


def test_materialize_all_over_many_days_leaves_summaries_to_the_sensor(project: Project) -> None:
    """Dagster marks each day as failed that no run of the backfill has materialized, although its runs succeed."""
    assert targets(project.instance, [asset.key for asset in EVERYTHING]) == {
        asset.key.to_user_string(): {*DAYS} for asset in UPSTREAM
    }


def test_a_backfill_of_summaries_alone_has_its_days(project: Project) -> None:
    assert targets(project.instance, [summaries.key]) == {"summaries": {*DAYS}}


def test_all_assets_of_one_day_are_one_run_that_succeeds_and_collects_nothing_yet(project: Project) -> None:
    with serving(project.folder / "slow_api", batch_seconds=60) as project.api:
        done = project.materialize(EVERYTHING)
        assert done.success
        assert {event.asset_key for event in done.get_asset_materialization_events()} == {
            asset.key for asset in UPSTREAM
        }
        [day] = project.days_seen_from("batch_assets")
        assert day.is_in_flight


def test_a_run_of_many_days_has_at_most_the_days_of_the_setting() -> None:
    graph = defs().resolve_asset_graph()
    for asset in EVERYTHING:
        policy = graph.get(asset.key).backfill_policy
        assert policy is not None
        assert policy.max_partitions_per_run == 30
