"""A backfill of all four assets is green, and the sensor still collects its days.

Dagster marks each selected day as failed that no run of the backfill has materialized. Once, such a backfill was red,
although each of its runs succeeded.
"""

from datetime import UTC, datetime

import pytest

from batch_assets.assets import summaries
from batch_assets.batching.next_step import Step, next_step
from batch_assets.batching.provider.batches import retrieve_batch
from batch_assets.batching.timing import Timing
from batch_assets.days import CollectedDays, read_new_days
from batch_assets_tests.conftest import serving
from batch_assets_tests.project import DAY, EVERYTHING, Project

pytestmark = pytest.mark.end_to_end
BACKFILL = {"dagster/backfill": "abcdefgh"}
LOCATION = "batch_assets"


def test_a_backfill_materializes_a_day_whose_batches_run_and_the_sensor_collects_it(project: Project) -> None:
    with serving(project.folder / "slow_api", batch_seconds=3) as project.api:
        done = project.materialize(EVERYTHING, **BACKFILL)
        assert done.success
        assert {event.asset_key for event in done.get_asset_materialization_events()} == {
            asset.key for asset in EVERYTHING
        }
        assert project.metadata(summaries)["requests_in_flight"] == 20
        known = CollectedDays()
        for _ in range(2):
            read = read_new_days(project.instance, LOCATION, known)
            [day] = read.days
            assert (day.day, len(day.batch_ids), day.is_in_flight) == (DAY, 1, True)
            known = read.collected
        [batch_id] = day.batch_ids
        project.api.wait(batch_id)
        polled = {batch_id: retrieve_batch(project.api.client, batch_id)}
        assert next_step(day, polled, datetime.now(UTC), None, Timing()) is Step.COLLECT
        assert project.materialize([summaries]).success
    assert project.metadata(summaries)["requests_in_flight"] == 0
    assert project.rows("SELECT DISTINCT status FROM summaries") == [("answered",)]
    assert read_new_days(project.instance, LOCATION, known).days == []
    assert read_new_days(project.instance, LOCATION, CollectedDays()).days == []


def test_a_backfill_of_a_day_that_has_ended_is_as_any_other_run(project: Project) -> None:
    assert project.materialize(EVERYTHING[:3], **BACKFILL).success
    project.wait_for_batches()
    assert project.materialize([summaries], **BACKFILL).success
    assert project.days_seen_from(LOCATION) == []


def test_a_second_submission_after_an_early_materialization_is_seen(project: Project) -> None:
    with serving(project.folder / "slow_api", batch_seconds=60) as project.api:
        assert project.materialize(EVERYTHING, **BACKFILL).success
        known = read_new_days(project.instance, LOCATION, CollectedDays()).collected
        for _ in range(2):
            assert project.materialize().success
            [day] = read_new_days(project.instance, LOCATION, known).days
            assert len(day.batch_ids) == 1
        assert project.materialize([summaries]).success  # the user's run materializes nothing
        assert len(read_new_days(project.instance, LOCATION, known).days) == 1
        assert project.api.stats()["batches_created"] == 1


@pytest.mark.parametrize("other", ["another", "a third one"])
def test_an_early_materialization_of_another_code_location_hides_no_day(project: Project, other: str) -> None:
    with serving(project.folder / "slow_api", batch_seconds=60) as project.api:
        project.materialize_from(LOCATION)
        project.materialize_from(other, EVERYTHING, **BACKFILL)
        assert [day.day for day in project.days_seen_from(LOCATION)] == [DAY]
        assert [day.day for day in project.days_seen_from(other)] == [DAY]
