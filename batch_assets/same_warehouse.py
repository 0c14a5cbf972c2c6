"""Stops a day if event log, database and API contradict each other: else a run would materialize an empty day."""

from collections.abc import Collection

import dagster as dg

from batch_assets.batching.ledger.known_batches import why_no_stand_in
from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.day_events import DayEvent
from batch_assets.resources import BatchApi, Warehouse


def stop_if_of_another_warehouse(key: dg.AssetKey, day: str, event: DayEvent | None, ours: str) -> None:
    """Raise dagster.Failure if the day's newest event, by this code location, names another database.

    key: of `openai_batch` of the task. ours: the id of this one.
    """
    if event is None or not event.origin.is_of_other_warehouse(ours):
        return
    raise dg.Failure(
        f"{day} was submitted from another database (warehouse {event.origin.warehouse_id}; this one is {ours}). Only "
        "that database knows its batches. Set BATCH_ASSETS_DATA_DIR and BATCH_ASSETS_DUCKDB to that database on every "
        f"host. If it no longer exists, wipe the materializations of `{key.to_user_string()}` for {day}.",
        allow_retries=False,
    )


def unknown_batches(event: DayEvent | None, known: Collection[str]) -> list[str]:
    """The batches that the day's newest event names, and that are not among the known ones of the ledger."""
    return [] if event is None else sorted(set(event.batch_ids).difference(known))


def stop_if_batches_are_unknown(key: dg.AssetKey, day: str, event: DayEvent | None, known: Collection[str]) -> None:
    """Raise dagster.Failure if the event log names batches of the day that the ledger does not know."""
    unknown = unknown_batches(event, known)
    if unknown:
        raise dg.Failure(
            f"{', '.join(unknown)} of {day} are in Dagster's event log, and the ledger does not know "
            "them. Was the database restored from a backup, or is it another one? Materialize "
            f"`{key.to_user_string()}` of the day, which searches for them at the API and adopts them.",
            allow_retries=False,
        )


def stop_if_the_stand_in_was_not_chosen(warehouse: Warehouse, openai: BatchApi, api: ApiIdentity) -> None:
    """Raise dagster.Failure if the key is missing and the database has used a real API, which no stand-in replaces."""
    if not (openai.is_stand_in and api.is_built_in_engine):
        return
    if why := why_no_stand_in(warehouse.tables):
        raise dg.Failure(why, allow_retries=False)
