"""Stops a run if event log, database and API contradict each other: else it would materialize an empty day."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from batch_assets.batching.ledger.known_batches import known_batches, real_apis
from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.day_events import DEFERRED_FILES, ERROR, Origin, location_of_run, newest_event
from batch_assets.resources import BatchApi, Warehouse
from batch_assets.runless_events import report_of_submission

PAUSE_WITHOUT_KEY = timedelta(hours=1)


def stop_if_of_another_warehouse(context: dg.AssetExecutionContext, warehouse: Warehouse, key: dg.AssetKey) -> None:
    """Raise dagster.Failure if the day's newest event of this asset, by this code location, names another database."""
    day = context.partition_key
    event = newest_event(context.instance, key, day, location_of_run(context.run))
    ours = warehouse.tables.warehouse_id()
    if event is None or not event.origin.is_of_other_warehouse(ours):
        return
    raise dg.Failure(
        f"{day} was submitted from another database (warehouse {event.origin.warehouse_id}; this one is {ours}). Only "
        "that database knows its batches. Set BATCH_ASSETS_DATA_DIR and BATCH_ASSETS_DUCKDB to that database on every "
        f"host. If it no longer exists, wipe the materializations of `{key.to_user_string()}` for {day}.",
        allow_retries=False,
    )


def unknown_batches(context: dg.AssetExecutionContext, warehouse: Warehouse, key: dg.AssetKey) -> list[str]:
    """The batches that the day's newest event of this asset names, and that the ledger does not know."""
    event = newest_event(context.instance, key, context.partition_key, location_of_run(context.run))
    if event is None or not event.batch_ids:
        return []
    return sorted(set(event.batch_ids) - known_batches(warehouse.tables))


def stop_if_batches_are_unknown(context: dg.AssetExecutionContext, warehouse: Warehouse, key: dg.AssetKey) -> None:
    """Raise dagster.Failure if the event log names batches of the day that the ledger does not know."""
    stop_if_of_another_warehouse(context, warehouse, key)
    unknown = unknown_batches(context, warehouse, key)
    if unknown:
        raise dg.Failure(
            f"{', '.join(unknown)} of {context.partition_key} are in Dagster's event log, and the ledger does not know "
            "them. Was the database restored from a backup, or is it another one? Materialize "
            f"`{key.to_user_string()}` of the day, which searches for them at the API and adopts them.",
            allow_retries=False,
        )


def stop_if_the_stand_in_was_not_chosen(warehouse: Warehouse, openai: BatchApi, api: ApiIdentity) -> None:
    """Raise dagster.Failure if the key is missing and the database has used a real API, which no stand-in replaces."""
    if not (openai.is_stand_in and api.is_built_in_engine):
        return
    real = real_apis(warehouse.tables)
    if real:
        raise dg.Failure(
            f"There is no OPENAI_API_KEY, and this database has batches of {', '.join(real)}. Set the key. To use the "
            "local Batch API instead, set OPENAI_BASE_URL to its address.",
            allow_retries=False,
        )


def stop_until_there_is_a_key(
    context: dg.AssetExecutionContext, warehouse: Warehouse, openai: BatchApi, api: ApiIdentity, key: dg.AssetKey
) -> None:
    """As `stop_if_the_stand_in_was_not_chosen`. It also reports the day to the sensor, which tries again every hour.

    key: of `openai_batch`. Without an event, the sensor would not know a day that was never submitted.
    """
    try:
        stop_if_the_stand_in_was_not_chosen(warehouse, openai, api)
    except dg.Failure as failure:
        day, location = context.partition_key, location_of_run(context.run)
        newest = newest_event(context.instance, key, day, location)
        # the API of its batches, if it has any: the sensor must not look for them at the stand-in
        api_of_batches = newest.origin.api if newest is not None and newest.batch_ids else None
        origin = Origin(location, warehouse.tables.warehouse_id(), api_of_batches)
        next_attempt_at = datetime.now(UTC) + PAUSE_WITHOUT_KEY
        waiting: dict[str, str | int] = {DEFERRED_FILES: 1, ERROR: failure.description or ""}
        context.instance.report_runless_asset_event(
            report_of_submission(key, warehouse.tables, warehouse.files, origin, day, next_attempt_at, **waiting)
        )
        raise
