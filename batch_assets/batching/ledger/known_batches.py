"""The batches that the ledger knows, and the days that wait for them."""

import duckdb

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.states import ADOPTING_MOVES, UNCOLLECTED
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.task_day import TaskDay

UNRECORDED_API = "an API that an earlier version did not record"


def is_known(connection: duckdb.DuckDBPyConnection, batch_id: str) -> bool:
    """Whether a submission has or had the batch."""
    row = connection.execute(
        "SELECT count(*) FROM openai_batch WHERE batch_id = $id OR list_contains(earlier_batch_ids, $id)",
        {"id": batch_id},
    ).fetchone()
    return row is not None and row[0] > 0


def batches_of_account(database: Database, submission: Submission) -> set[str]:
    """The ids of the other batches that the same account created at the same API; none if the account is not known.

    The key is the same, with the same settings of organization and project. The organization is the same, too, if the
    ledger knows it for both.
    """
    with database.reading() as connection:
        rows = connection.execute(
            """
            SELECT batch_id FROM openai_batch
            WHERE batch_id IS NOT NULL AND submission_id <> ? AND api = ? AND key_fingerprint = ?
                AND coalesce(organization = ?, true)
            """,
            [submission.id, submission.api, submission.key_fingerprint, submission.organization],
        ).fetchall()
    return {batch_id for (batch_id,) in rows}


def real_apis(database: Database) -> list[str]:
    """The APIs that have any batch, or were asked outside of one, except the built-in engine; an earlier version did
    not record the API.
    """
    with database.reading() as connection:
        rows = connection.execute(
            """
            SELECT coalesce(api, $unrecorded) AS name FROM openai_batch
            WHERE api IS DISTINCT FROM $built_in AND batch_id IS NOT NULL
            UNION SELECT api FROM synchronous_call WHERE api <> $built_in
            ORDER BY name
            """,
            {"unrecorded": UNRECORDED_API, "built_in": BUILT_IN_ENGINE},
        ).fetchall()
    return [api for (api,) in rows]


def why_no_stand_in(database: Database) -> str | None:
    """Why the local Batch API does not stand in for a missing key: the database has used a real API; None: it may."""
    real = real_apis(database)
    if not real:
        return None
    return (
        f"There is no OPENAI_API_KEY, and this database has batches of {', '.join(real)}. Set the key. To use the "
        "local Batch API instead, set OPENAI_BASE_URL to its address."
    )


def known_batches(database: Database) -> set[str]:
    """The ids of all batches that submissions have or had."""
    with database.reading() as connection:
        rows = connection.execute(
            """
            SELECT batch_id FROM openai_batch WHERE batch_id IS NOT NULL
            UNION
            SELECT unnest(earlier_batch_ids) FROM openai_batch
            """
        ).fetchall()
    return {batch_id for (batch_id,) in rows}


def days_with_adopted_batches(database: Database) -> list[TaskDay]:
    """The days that need a batch which no run of the day submitted: it was adopted, recovered or seen again."""
    parameters = {"states": list(UNCOLLECTED), "moves": [move.name for move in ADOPTING_MOVES]}
    with database.reading() as connection:
        rows = connection.execute(
            """
            WITH adopted AS (
                SELECT submission_id, task, partition_date
                FROM openai_batch SEMI JOIN (
                    SELECT submission_id FROM submission_event WHERE list_contains($moves, move)
                ) USING (submission_id)
                WHERE list_contains($states, state)
            )
            SELECT task, partition_date::VARCHAR AS day FROM adopted
            UNION
            SELECT task, partition_date::VARCHAR AS day
            FROM batch_request SEMI JOIN (
                SELECT custom_id FROM in_flight_request SEMI JOIN adopted USING (submission_id)
            ) USING (custom_id)
            ORDER BY day, task
            """,
            parameters,
        ).fetchall()
    return [TaskDay(*row) for row in rows]


def days_with_batches(database: Database) -> list[TaskDay]:
    """The days of submissions whose batch is known and not collected."""
    with database.reading() as connection:
        rows = connection.execute(
            """
            SELECT DISTINCT task, partition_date::VARCHAR AS day FROM openai_batch
            WHERE list_contains($states, state) ORDER BY day, task
            """,
            {"states": list(UNCOLLECTED)},
        ).fetchall()
    return [TaskDay(*row) for row in rows]
