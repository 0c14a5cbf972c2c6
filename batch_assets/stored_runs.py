"""What Dagster's storage has of a run: its assets, the states that are from it, its log; and the deletion of the log.

Dagster's `delete_run` also deletes the materializations of the run, and none of its other calls deletes a log. So this
module knows where Dagster's storages keep a log, and deletes what belongs to nothing but the run:

SQLite, Dagster's default: each run has a file with all of its events. The file `index.db` has the events of assets, of
    asset checks and of the status of runs once more, and Dagster reads them there. So the file of the run is deleted.
    `delete_run` would empty this file, and keep its size.
Postgres and other SQL databases: one table has the events of all runs. So the rows are deleted that SQLite does not
    have in `index.db`.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import dagster as dg
import sqlalchemy
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

from batch_assets.batching.safety.outside_text import as_message

EVENTS, CHECKS = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
KEPT_EVENTS = [str(kind.value) for kind in (*ASSET_EVENTS, *ASSET_CHECK_EVENTS, *EVENT_TYPE_TO_PIPELINE_RUN_STATUS)]
# Dagster's name of the folder with what the steps of a run have printed.
PRINTED = "compute_logs"


class StorageError(Exception):
    """Dagster's events are in a storage that this module does not know."""


def assets_of_runs(
    instance: dg.DagsterInstance, run_ids: Sequence[str]
) -> Mapping[str, set[tuple[dg.AssetKey, str | None]]]:
    """run → the assets and partitions that it planned, materialized, observed or checked. Raises StorageError."""
    found: dict[str, set[tuple[dg.AssetKey, str | None]]] = defaultdict(set)
    statement = (
        sqlalchemy.select(EVENTS.run_id, EVENTS.asset_key, EVENTS.partition)
        .where(EVENTS.run_id.in_(run_ids), EVENTS.asset_key.isnot(None))
        .distinct()
    )
    with _storage(instance).index_connection() as connection:
        for run_id, key, partition in connection.execute(statement):
            asset_key = dg.AssetKey.from_db_string(key)
            if asset_key is not None:
                found[run_id].add((asset_key, partition))
    return found


def runs_that_states_are_from(instance: dg.DagsterInstance, assets: Collection[dg.AssetKey]) -> set[str]:
    """The runs that were the last to plan a partition or a check of it, and did not materialize or check it.

    Dagster reads the status of such a run: if it failed, the partition has failed. Without the run, Dagster takes a
    check for one in progress. Raises StorageError.
    """
    storage = _storage(instance)
    attempts = [
        run_id
        for key in assets
        for run_id, _ in storage.get_latest_asset_partition_materialization_attempts_without_materializations(
            key
        ).values()
    ]
    newest = (
        sqlalchemy.select(sqlalchemy.func.max(CHECKS.id))
        .where(CHECKS.asset_key.in_([key.to_string() for key in assets]))
        .group_by(CHECKS.asset_key, CHECKS.check_name, CHECKS.partition)
    )
    planned = AssetCheckExecutionRecordStatus.PLANNED.value
    statement = sqlalchemy.select(CHECKS.run_id).where(CHECKS.id.in_(newest), CHECKS.execution_status == planned)
    with storage.index_connection() as connection:
        return {*attempts, *connection.execute(statement).scalars()}


def log_bytes(instance: dg.DagsterInstance, run_id: str) -> int:
    """The size of the files that `delete_log` deletes; 0 for what is in no file of this machine."""
    folder = _folder_of_run(instance, run_id)
    printed = [] if folder is None else list((folder / PRINTED).glob("*"))
    return sum(path.stat().st_size for path in [*_files(instance, run_id), *printed] if path.is_file())


def delete_log(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete the log of the run, and what its steps have printed. The events of assets and of their checks stay.

    It deletes nothing else, may be repeated, and does not delete the run itself. Raises StorageError, OSError.
    """
    storage = _storage(instance)
    if isinstance(storage, SqliteEventLogStorage):
        for path in _files(instance, run_id):
            path.unlink(missing_ok=True)
    else:
        kind = EVENTS.dagster_event_type
        statement = SqlEventLogStorageTable.delete().where(
            EVENTS.run_id == run_id, sqlalchemy.or_(kind.is_(None), kind.not_in(KEPT_EVENTS))
        )
        with storage.run_connection(run_id) as connection:
            connection.execute(statement)
    instance.compute_log_manager.delete_logs(prefix=[run_id, PRINTED])
    folder = _folder_of_run(instance, run_id)
    if folder is not None:
        with suppress(OSError):  # the folder has something else, or never existed
            folder.rmdir()


def _storage(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise StorageError(
            f"Dagster's events are in {as_message(type(storage).__name__)}, not in SQLite, Postgres or another SQL "
            "database. `batch-assets prune --runs` does not know it, and has deleted no run."
        )
    return storage


def _files(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    """The run's file in SQLite, and the two that SQLite puts beside it while a process has it open."""
    storage = instance.event_log_storage
    if not isinstance(storage, SqliteEventLogStorage):
        return []
    path = storage.path_for_shard(run_id)
    return [Path(f"{path}{ending}") for ending in ("", "-wal", "-shm")]


def _folder_of_run(instance: dg.DagsterInstance, run_id: str) -> Path | None:
    """The folder of the run with the folder PRINTED; None if that is not on this machine."""
    manager = instance.compute_log_manager
    if not isinstance(manager, LocalComputeLogManager):
        return None
    return Path(manager.get_captured_local_path([run_id, PRINTED, "any"], "out")).parent.parent
