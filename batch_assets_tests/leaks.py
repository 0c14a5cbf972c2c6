"""All places that could store a secret: the events and runs of a Dagster instance, and the tables of a database."""

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg

from batch_assets.batching.ledger.database import Database

EVERY_EVENT = 10_000  # the most that Dagster returns at once


def kept_by_dagster(instance: dg.DagsterInstance) -> str:
    """The stored events of all runs, the stored events of assets outside of runs, and the runs."""
    kept: list[Any] = []
    for record in instance.get_run_records():
        kept += [record.dagster_run, *instance.all_logs(record.dagster_run.run_id)]
    for key in instance.all_asset_keys():
        for fetch in (instance.fetch_materializations, instance.fetch_observations):
            kept += [record.event_log_entry for record in fetch(key, limit=EVERY_EVENT).records]
    return "\n".join(json.dumps(json.loads(dg.serialize_value(event)), ensure_ascii=False) for event in kept)


def tables_of(database: Database) -> Iterator[tuple[str, str]]:
    """(table, all of its rows as text)."""
    with database.reading() as connection:
        for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
            yield table, repr(connection.execute(f'SELECT * FROM "{table}"').fetchall())
