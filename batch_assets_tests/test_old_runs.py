"""Guards against a prune of runs that changes what the sensor does, what Dagster shows of an asset, or what is paid."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import AssetMaterializationPlannedData
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from batch_assets.batching.operations.prune import unfinished_days
from batch_assets.cli.dagster_home.home import packaged_file
from batch_assets.day_events import DEFAULT_LOCATION
from batch_assets.days import read_days
from batch_assets.old_runs import FinishedDays, OldRuns, delete_runs, find_old_runs
from batch_assets.partitions import daily_partitions
from batch_assets.run_requests import FIRST_PARTITION_TAG, LAST_PARTITION_TAG, PARTITION_TAG
from batch_assets.stored_runs import KEPT_EVENTS, StorageError, delete_log
from batch_assets_tests.first_task import TASKS, assets_of, openai_batch, raw_articles, summaries
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import (
    DAY,
    EVERYTHING,
    UPSTREAM,
    HasKey,
    Project,
    generated_articles,
    nothing,
    write_articles,
)
from batch_assets_tests.sensors.support import tick

pytestmark = pytest.mark.end_to_end

NEXT_DAY, EMPTY_DAY = "2026-01-06", "2026-01-07"
OF_DAY = {PARTITION_TAG: DAY}
SUCCESS = dg.DagsterRunStatus.SUCCESS
FILES, TABLE = "a file for each run", "one table"  # as Dagster keeps them in SQLite, and in Postgres
IN_BOTH_STORAGES = pytest.mark.parametrize("instance", [FILES, TABLE], indirect=True)


@pytest.fixture
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Dagster's SQLite storage, with a file for each run; or, for IN_BOTH_STORAGES, one with one table for all runs."""
    if getattr(request, "param", FILES) == TABLE:
        with dg.DagsterInstance.ephemeral() as instance:
            yield instance
    else:
        home = tmp_path / "dagster_home"
        home.mkdir()
        shutil.copy(packaged_file("dagster.yaml"), home)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield instance


@pytest.fixture
def project(tmp_path: Path, local_api: LocalApi, instance: dg.DagsterInstance) -> Project:
    """A project with two articles on each of two days, nothing of it materialized yet."""
    source = write_articles(tmp_path / "articles.jsonl", generated_articles(4, days=2))
    return Project(tmp_path, local_api, instance, source)


@pytest.fixture
def done(project: Project) -> Project:
    """The same with two finished days."""
    for day in (DAY, NEXT_DAY):
        whole_day(project, day)
    return project


def whole_day(project: Project, day: str) -> None:
    assert project.materialize(day=day).success
    assert project.finish(day).success


def find(project: Project, before: date | None = None) -> OldRuns:
    """The old runs; by default, every run that has ended is old."""
    before = before or datetime.now(UTC).date() + timedelta(days=1)
    database = project.database
    finished = FinishedDays(before, unfinished_days(database), database.warehouse_id())
    return find_old_runs(project.instance, finished, project.tasks)


def prune(project: Project) -> OldRuns:
    found = find(project)
    delete_runs(project.instance, found)
    return found


def run_ids(instance: dg.DagsterInstance) -> set[str]:
    return {run.run_id for run in instance.get_runs()}


def shown(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What Dagster shows of the assets and checks, computed anew, and what the sensor reads."""
    found: dict[str, Any] = {"days": {where: read(instance, where) for where in (DEFAULT_LOCATION, "theirs")}}
    for asset in EVERYTHING:
        instance.event_log_storage.wipe_asset_cached_status(asset.key)
        status = get_and_update_asset_status_cache_value(instance, asset.key, daily_partitions)
        assert status is not None
        of_asset = dg.AssetRecordsFilter(asset_key=asset.key)
        found[asset.key.to_user_string()] = (
            status,
            [
                (event.storage_id, event.run_id, event.timestamp, event.asset_materialization)
                for event in instance.fetch_materializations(of_asset, limit=100).records
            ],
            instance.fetch_observations(of_asset, limit=100).records,
            instance.get_latest_materialization_event(asset.key),
        )
    checks = [(key, daily_partitions) for asset in assets_of(TASKS) for key in asset.check_keys]
    found["checks"] = instance.event_log_storage.get_asset_check_state(checks)
    found["evaluations"] = [
        instance.event_log_storage.get_asset_check_execution_history(key, limit=100) for key, _ in checks
    ]
    return found


def read(instance: dg.DagsterInstance, location: str) -> list[Any]:
    return read_days(instance, location)


def is_kept(entry: dg.EventLogEntry) -> bool:
    return entry.dagster_event_type is not None and entry.dagster_event_type.value in KEPT_EVENTS


def planned_run(
    project: Project,
    status: dg.DagsterRunStatus,
    tags: dict[str, str],
    assets: list[HasKey] = UPSTREAM,
    parent: str | None = None,
) -> str:
    """A run with this status that planned these assets, and materialized none."""
    job = dg.Definitions(project.assets, resources=project.resources)
    run = project.instance.create_run_for_job(
        job.resolve_implicit_global_asset_job_def(),
        tags=tags,
        asset_selection={asset.key for asset in assets},
        status=status,
        parent_run_id=parent,
        root_run_id=parent,
    )
    return run.run_id


@IN_BOTH_STORAGES
def test_pruning_all_runs_of_finished_days_changes_nothing_of_the_assets(done: Project) -> None:
    done.materialize([raw_articles])  # as on the next night: the first run of `raw_articles` is replaced
    before, paid = shown(done.instance), done.api.stats()
    assert len(run_ids(done.instance)) == 5
    assert len(prune(done).run_ids) == 5
    assert not run_ids(done.instance)
    assert shown(done.instance) == before
    ticked = tick(done.instance, done.api.url)
    assert (ticked.run_requests, ticked.asset_events) == ([], [])
    assert find(done) == OldRuns()
    # the days are as they were for the next runs, too
    whole_day(done, DAY)
    assert done.rows("SELECT DISTINCT status FROM summaries") == [("answered",)]
    assert not read(done.instance, DEFAULT_LOCATION)
    after = done.api.stats()
    assert (after["batches_created"], after["requests_executed"]) == (
        paid["batches_created"],
        paid["requests_executed"],
    )


@IN_BOTH_STORAGES
def test_the_log_of_a_pruned_run_is_deleted_and_the_other_events_stay(done: Project) -> None:
    instance = done.instance
    [*_, first] = instance.get_runs()
    kept = [entry for entry in instance.all_logs(first.run_id) if is_kept(entry)]
    storage = instance.event_log_storage
    found = prune(done)
    assert first.run_id in found.run_ids
    if isinstance(storage, SqliteEventLogStorage):
        assert found.lines == [f"4 runs in Dagster with all logs, {found.log_bytes / 1e6:.1f} MB"]
        assert found.log_bytes > 400_000
        files = {path.name for path in Path(storage.path_for_shard(first.run_id)).parent.iterdir()}
        assert {name for name in files if not name.endswith(("-wal", "-shm"))} <= {"index.db", ".db"}
        assert not list(Path(instance.storage_directory()).glob("*"))
    else:
        assert found.lines == ["4 runs in Dagster with all logs"]
        assert kept
        assert instance.all_logs(first.run_id) == kept


@IN_BOTH_STORAGES
def test_events_without_a_run_are_kept(done: Project) -> None:
    done.instance.report_runless_asset_event(dg.AssetObservation(openai_batch.key, partition=DAY))
    logged = done.instance.all_logs("")
    prune(done)
    assert logged
    assert done.instance.all_logs("") == logged


@IN_BOTH_STORAGES
def test_a_killed_prune_is_completed_by_the_next_one(done: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    before, runs = shown(done.instance), run_ids(done.instance)
    delete_run = done.instance.run_storage.delete_run
    deleted: list[str] = []

    def killed(run_id: str) -> None:
        if deleted:  # the log of this run is deleted, and its record is not
            raise KeyboardInterrupt
        deleted.append(run_id)
        delete_run(run_id)

    with monkeypatch.context() as patch:
        patch.setattr(done.instance.run_storage, "delete_run", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(done)
    assert run_ids(done.instance) == runs - set(deleted)
    assert shown(done.instance) == before
    assert set(prune(done).run_ids) == runs - set(deleted)
    assert not run_ids(done.instance)
    assert shown(done.instance) == before


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED])
def test_a_run_in_progress_is_kept_and_so_is_the_one_that_it_retries(
    project: Project, status: dg.DagsterRunStatus
) -> None:
    first = planned_run(project, dg.DagsterRunStatus.FAILURE, OF_DAY)
    second = planned_run(project, status, OF_DAY, parent=first)
    whole_day(project, DAY)
    assert len(prune(project).run_ids) == 2
    assert run_ids(project.instance) == {first, second}


@pytest.mark.parametrize("status", BulkActionStatus)
def test_a_run_of_a_backfill_is_kept_until_the_backfill_has_ended(project: Project, status: BulkActionStatus) -> None:
    planned_run(project, SUCCESS, {**OF_DAY, "dagster/backfill": "a_backfill"})
    whole_day(project, DAY)
    project.instance.add_backfill(PartitionBackfill("a_backfill", status, False, {}, 0.0))
    in_progress = status.value in ("REQUESTED", "CANCELING", "FAILING")
    assert len(find(project).run_ids) == (2 if in_progress else 3)


@pytest.mark.parametrize("one_event_for_all_days", ["0", "1"])
def test_a_run_of_several_days_is_kept_until_all_of_them_are_done(
    project: Project, monkeypatch: pytest.MonkeyPatch, one_event_for_all_days: str
) -> None:
    days = {FIRST_PARTITION_TAG: DAY, LAST_PARTITION_TAG: EMPTY_DAY}
    with monkeypatch.context() as patch:  # a switch of Dagster, by which these events have no partition
        patch.setenv("DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS", one_event_for_all_days)
        of_all = planned_run(project, SUCCESS, days)
    whole_day(project, DAY)
    whole_day(project, EMPTY_DAY)
    assert project.materialize(day=NEXT_DAY).success
    assert len(prune(project).run_ids) == 4
    assert of_all in run_ids(project.instance)
    assert project.finish(NEXT_DAY).success
    before = shown(project.instance)
    assert of_all in prune(project).run_ids
    assert not run_ids(project.instance)
    assert shown(project.instance) == before


def test_a_run_of_several_days_is_kept_while_one_of_them_is_young(project: Project) -> None:
    planned_run(project, SUCCESS, {FIRST_PARTITION_TAG: DAY, LAST_PARTITION_TAG: NEXT_DAY})
    whole_day(project, DAY)
    whole_day(project, NEXT_DAY)
    assert len(find(project).run_ids) == 5
    assert find(project, date.fromisoformat(NEXT_DAY)) == OldRuns()  # the runs have ended today
    later = datetime.now(UTC).date() + timedelta(days=1)
    young = FinishedDays(later, [NEXT_DAY], project.database.warehouse_id())
    assert len(find_old_runs(project.instance, young, project.tasks).run_ids) == 2


def test_a_day_is_old_only_before_the_date() -> None:
    finished = FinishedDays(date.fromisoformat(NEXT_DAY), ["2026-01-04"], "a_warehouse")
    days = ["2025-12-31", "2026-01-04", DAY, NEXT_DAY, EMPTY_DAY, "2026-01-60", "no day"]
    assert [day for day in days if finished.has(day)] == ["2025-12-31", DAY]


def test_a_run_that_has_ended_after_the_date_is_kept(done: Project) -> None:
    assert find(done, datetime.now(UTC).date()) == OldRuns()


def test_a_run_of_a_day_without_articles_is_pruned(project: Project) -> None:
    whole_day(project, EMPTY_DAY)
    before = shown(project.instance)
    assert len(prune(project).run_ids) == 2
    assert shown(project.instance) == before


def test_the_runs_of_a_day_that_has_no_summaries_yet_are_kept(project: Project) -> None:
    assert project.materialize().success
    assert find(project) == OldRuns()


def test_the_runs_of_a_day_with_a_new_article_are_kept(done: Project) -> None:
    with done.database.writing() as connection:
        connection.execute(
            "INSERT INTO raw_articles SELECT * REPLACE ('new' AS article_id) FROM raw_articles WHERE partition_date = ?"
            " LIMIT 1",
            [DAY],
        )
    assert len(find(done).run_ids) == 2


def test_the_runs_of_a_day_that_the_sensor_has_a_step_for_are_kept(done: Project) -> None:
    """A user asked for its failed requests again, or they are blocked."""
    for name in ("requests_pending", "requests_blocked"):
        report = dg.AssetMaterialization(summaries.key, partition=DAY, metadata={name: 1})
        done.instance.report_runless_asset_event(report)
        assert len(find(done).run_ids) == 2


@IN_BOTH_STORAGES
def test_a_failed_run_is_kept_until_a_later_run_replaces_what_it_failed_at(done: Project) -> None:
    broken = replace(done, source=str(done.folder / "none.jsonl"))
    failed = broken.materialize()
    assert not failed.success
    before = shown(done.instance)
    assert len(prune(done).run_ids) == 4
    assert run_ids(done.instance) == {failed.run_id}
    assert shown(done.instance) == before
    whole_day(done, DAY)
    before = shown(done.instance)
    assert failed.run_id in prune(done).run_ids
    assert shown(done.instance) == before


@IN_BOTH_STORAGES
def test_a_run_that_failed_before_any_check_is_kept_until_a_later_run_succeeds(done: Project) -> None:
    broken = replace(done, source=str(done.folder / "none.jsonl"))
    failed = broken.materialize([raw_articles])  # which has no checks
    before = shown(done.instance)
    assert len(prune(done).run_ids) == 4
    assert run_ids(done.instance) == {failed.run_id}
    assert shown(done.instance) == before
    assert done.materialize([raw_articles]).success
    assert len(prune(done).run_ids) == 2


@IN_BOTH_STORAGES
def test_a_run_whose_checks_were_skipped_is_kept_until_a_later_run_checks(done: Project) -> None:
    """Without the run, Dagster would take these checks for some in progress."""
    skipped = planned_run(done, SUCCESS, OF_DAY, [summaries])
    done.instance.report_runless_asset_event(dg.AssetMaterialization(summaries.key, partition=DAY))
    before = shown(done.instance)
    assert len(prune(done).run_ids) == 4
    assert run_ids(done.instance) == {skipped}
    assert shown(done.instance) == before
    assert done.materialize([summaries]).success
    before = shown(done.instance)
    assert len(prune(done).run_ids) == 2
    assert shown(done.instance) == before


def test_the_runs_of_another_code_location_with_another_database_are_kept(project: Project, tmp_path: Path) -> None:
    other = replace(project, folder=tmp_path / "other")
    theirs = set()
    for owner, location in ((project, "ours"), (other, "theirs")):
        for assets in (UPSTREAM, [summaries]):
            run = owner.materialize_from(location, assets)
            owner.wait_for_batches()
            assert run.is_success
            theirs |= {run.run_id} if owner is other else set()
    before = shown(project.instance)
    assert len(prune(project).run_ids) == 2
    assert run_ids(project.instance) == theirs
    assert shown(project.instance) == before
    assert set(prune(other).run_ids) == theirs


def test_the_runs_of_another_database_in_the_same_code_location_are_kept(done: Project) -> None:
    other = dg.AssetMaterialization(
        openai_batch.key, partition=DAY, metadata={"batch_ids": [], "deferred_files": 0, "warehouse_id": "another"}
    )
    done.instance.report_runless_asset_event(other)
    done.instance.report_runless_asset_event(dg.AssetMaterialization(summaries.key, partition=DAY))
    assert not read(done.instance, DEFAULT_LOCATION)
    assert len(find(done).run_ids) == 2


def test_the_runs_of_days_that_an_earlier_version_submitted_are_pruned(done: Project) -> None:
    """Its events name neither their code location nor their database."""
    done.instance.report_runless_asset_event(
        dg.AssetMaterialization(openai_batch.key, partition=DAY, metadata={"batch_ids": []})
    )
    done.instance.report_runless_asset_event(dg.AssetMaterialization(summaries.key, partition=DAY))
    assert len(find(done).run_ids) == 4


def test_the_runs_of_a_day_that_no_event_names_are_kept(done: Project) -> None:
    """The user has wiped the asset."""
    done.instance.wipe_assets([openai_batch.key])
    assert find(done) == OldRuns()


def test_runs_with_other_assets_or_without_assets_are_kept(done: Project) -> None:
    mixed = dg.materialize(
        [*done.assets, nothing],
        selection=[raw_articles.key, nothing.key],
        instance=done.instance,
        partition_key=DAY,
        resources=done.resources,
    )
    theirs = dg.materialize([nothing], instance=done.instance, partition_key=DAY)

    @dg.job(partitions_def=daily_partitions)
    def without_assets() -> None: ...

    job = without_assets.execute_in_process(instance=done.instance, partition_key=DAY)
    assert len(prune(done).run_ids) == 4
    assert run_ids(done.instance) == {mixed.run_id, theirs.run_id, job.run_id}


@pytest.mark.parametrize("instance", [TABLE], indirect=True)
@pytest.mark.parametrize("run_id", ["index", "../escaped", "a_run"])
def test_a_run_whose_id_is_no_id_of_dagster_is_kept(project: Project, run_id: str) -> None:
    """The id is part of a path."""
    project.instance.add_run(dg.DagsterRun("a_job", run_id=run_id, status=SUCCESS, tags=OF_DAY))
    planned = AssetMaterializationPlannedData(raw_articles.key, partition=DAY)
    event = dg.DagsterEvent.build_asset_materialization_planned_event("a_job", "raw_articles", planned)
    project.instance.report_dagster_event(event, run_id)
    whole_day(project, DAY)
    assert len(find(project).run_ids) == 2
    assert run_id not in find(project).run_ids


def test_days_that_are_no_dates_keep_their_run(project: Project) -> None:
    planned_run(project, SUCCESS, {"some": "tag"})
    whole_day(project, DAY)
    assert len(find(project).run_ids) == 2


def test_a_storage_that_is_not_known_is_left_alone(done: Project) -> None:
    class Other(SimpleNamespace): ...

    instance: Any = SimpleNamespace(event_log_storage=Other(), get_runs=done.instance.get_runs)
    with pytest.raises(StorageError, match=r"Dagster's events are in Other, .* has deleted no run"):
        delete_log(instance, "a_run")


def test_a_page_of_runs_is_read_at_a_time(done: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_assets.old_runs.RUNS_AT_ONCE", 1)
    assert set(find(done).run_ids) == run_ids(done.instance)
