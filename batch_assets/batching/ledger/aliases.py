"""Names of requests that stay in use after an upgrade, and options that an API refuses for a model."""

from collections.abc import Mapping
from datetime import datetime

import duckdb

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.result_tables import tasks_with_results
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.task_day import TaskDay

# A request may have had several names, by several limits: the name that has an answer stays.
RECORD_ALIASES = """
    INSERT INTO request_alias (old, new)
    SELECT arg_max(old, (old IN (SELECT custom_id FROM completion))::INTEGER), new
    FROM found_alias WHERE new NOT IN (SELECT new FROM request_alias) AND old <> new
    GROUP BY new
"""


def days_of_old_names(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """The days that an earlier version planned, and this version has not planned yet."""
    rows = connection.execute("SELECT partition_date::VARCHAR FROM day_of_old_names").fetchall()
    return {day for (day,) in rows}


def limits_of_old_plans(connection: duckdb.DuckDBPyConnection) -> set[int]:
    """The limits on an answer of all request files."""
    rows = connection.execute(
        "SELECT DISTINCT request_max_output_tokens FROM batch_request_file WHERE request_max_output_tokens IS NOT NULL"
    ).fetchall()
    return {limit for (limit,) in rows}


def record_aliases(connection: duckdb.DuckDBPyConnection, day: TaskDay) -> None:
    """Record the names of the day in the temp table `found_alias` (old, new)."""
    connection.execute(RECORD_ALIASES)
    connection.execute("DELETE FROM day_of_old_names WHERE partition_date = CAST(? AS DATE)", [day.day])


def has_aliases(connection: duckdb.DuckDBPyConnection) -> bool:
    return connection.execute("SELECT 1 FROM request_alias LIMIT 1").fetchone() is not None


def use_old_names(connection: duckdb.DuckDBPyConnection, day: TaskDay) -> None:
    """Give the day's requests in `batch_request` their old names."""
    connection.execute(
        """
        UPDATE batch_request SET custom_id = old FROM request_alias
        WHERE task = ? AND partition_date = CAST(? AS DATE) AND custom_id = new
        """,
        day,
    )


def old_names_of_pending(connection: duckdb.DuckDBPyConnection) -> Mapping[str, str]:
    """new → old name of the requests in `request_to_send`."""
    rows = connection.execute(
        "SELECT new, old FROM request_alias SEMI JOIN request_to_send ON old = request_to_send.custom_id"
    ).fetchall()
    return dict(rows)


def refused_options(connection: duckdb.DuckDBPyConnection, api: str, model: str) -> set[str]:
    """The parameters that the API has refused for the model."""
    rows = connection.execute("SELECT option FROM refused_option WHERE api = ? AND model = ?", [api, model]).fetchall()
    return {option for (option,) in rows}


def record_refused_option(
    connection: duckdb.DuckDBPyConnection, api: str, model: str, option: str, message: str, planned_at: datetime | None
) -> bool:
    """Record that the API refuses the parameter for the model; later request files do not have it.

    False if the ledger knew this before the request file was planned: then its requests do not have the parameter.
    """
    row = connection.execute(
        "SELECT refused_at FROM refused_option WHERE api = ? AND model = ? AND option = ?", [api, model, option]
    ).fetchone()
    if row is None:
        connection.execute(
            "INSERT INTO refused_option (api, model, option, message, refused_at) VALUES (?, ?, ?, ?, ?)",
            [api, model, option, message, now_utc()],
        )
    if row is None:
        return True
    (refused_at,) = row
    return planned_at is not None and planned_at <= refused_at


def move_api(database: Database, old: str, new: str) -> int:
    """Record that the API has another address now; returns how many submissions were sent to the old address."""
    with database.writing() as connection:
        counted = connection.execute("SELECT count(*) FROM openai_batch WHERE api = ?", [old]).fetchone()
        ours = ("openai_batch", "synchronous_call", "completion", "failed_request", "spending", "refused_option")
        for table in (*ours, *tasks_with_results(connection)):
            connection.execute(f"UPDATE {table} SET api = ? WHERE api = ?", [new, old])
    return 0 if counted is None else int(counted[0])


def create_view_of_names(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the temp view `name_of_request` (new, old): requests that keep the custom_id of an earlier version."""
    connection.execute("CREATE OR REPLACE TEMP VIEW name_of_request AS SELECT new, old FROM request_alias")
