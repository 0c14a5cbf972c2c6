"""Upgrades a database of any earlier version to this version: named migrations, each applied once."""

from collections.abc import Callable, Mapping

import duckdb

from batch_assets.batching.ledger.schema import TABLES, create_table, create_warehouse_id
from batch_assets.batching.ledger.table_comments import comment_on_table
from batch_assets.batching.provider.batches import now_utc


def bring_up_to_date(
    connection: duckdb.DuckDBPyConnection, migrations: Mapping[str, Callable[[duckdb.DuckDBPyConnection], None]]
) -> None:
    """Create the tables in an empty database; apply to an older one the migrations that it lacks, in their order."""
    if is_up_to_date(connection, migrations):
        return
    connection.execute("BEGIN")
    try:
        found = connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()")
        tables = {name for (name,) in found.fetchall()}
        if "openai_batch" not in tables and "schema_version" not in tables:
            for name in TABLES:
                if name not in tables:
                    create_table(connection, name)
            create_warehouse_id(connection)
            missing = list(migrations)
        else:
            if "schema_version" not in tables:
                create_table(connection, "schema_version")
            applied = {name for (name,) in connection.execute("SELECT name FROM schema_version").fetchall()}
            missing = [name for name in migrations if name not in applied]
            for name in missing:
                migrations[name](connection)
        for name in TABLES:
            comment_on_table(connection, name)
        for name in missing:
            connection.execute("INSERT INTO schema_version (name, applied_at) VALUES (?, ?)", [name, now_utc()])
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def is_up_to_date(connection: duckdb.DuckDBPyConnection, migrations: Mapping[str, object]) -> bool:
    """Whether the database has the tables of this version; one short query."""
    try:
        rows = connection.execute("SELECT name FROM schema_version").fetchall()
    except duckdb.CatalogException:
        return False
    return {name for (name,) in rows} >= migrations.keys()


def migrations_of(connection: duckdb.DuckDBPyConnection) -> set[str] | None:
    """The names of the migrations that were applied to the database; None: it has no tables of ours, or very old ones.

    Changes nothing.
    """
    try:
        return {name for (name,) in connection.execute("SELECT name FROM schema_version").fetchall()}
    except duckdb.CatalogException:
        return None
