"""Events of the first version, which have other names and no code location."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from batch_assets.batching.next_step import Step
from batch_assets.days import read_days
from batch_assets_tests.first_task import openai_batch, summaries
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY
from batch_assets_tests.sensors.support import a_batch, next_step, requested, tick


def submitted_by_the_first_version(
    instance: dg.DagsterInstance, *batch_ids: str, waiting: int = 0, look_again_at: datetime | None = None
) -> None:
    """An event with the names of that version, and without a code location, a database or an API."""
    metadata: dict[str, dg.MetadataValue] = {
        "batch_ids": dg.MetadataValue.json(list(batch_ids)),
        "waiting_shards": dg.MetadataValue.int(waiting),
    }
    if look_again_at is not None:
        metadata["look_again_at"] = dg.MetadataValue.timestamp(look_again_at)
    instance.report_runless_asset_event(dg.AssetMaterialization(openai_batch.key, partition=DAY, metadata=metadata))


def test_a_batch_of_the_first_version_is_polled_and_collected(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    submitted_by_the_first_version(instance, batch := a_batch(local_api))
    local_api.wait(batch)
    assert requested(tick(instance, local_api.url)) == [(DAY, [summaries.key])]


def test_deferred_files_of_the_first_version_are_submitted_when_their_pause_is_over(
    instance: dg.DagsterInstance,
) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    submitted_by_the_first_version(instance, waiting=2, look_again_at=soon)
    [day] = read_days(instance)
    assert day.deferred == 2
    assert next_step(day, {}, datetime.now(UTC)) is Step.WAIT
    assert next_step(day, {}, soon + timedelta(seconds=1)) is Step.SUBMIT


def test_requests_owed_in_the_first_version_are_sent_in_another_round(instance: dg.DagsterInstance) -> None:
    submitted_by_the_first_version(instance)
    instance.report_runless_asset_event(
        dg.AssetMaterialization(summaries.key, partition=DAY, metadata={"requests_owed": 3})
    )
    [day] = read_days(instance)
    assert next_step(day, {}, datetime.now(UTC) + timedelta(hours=1)) is Step.NEXT_ROUND
