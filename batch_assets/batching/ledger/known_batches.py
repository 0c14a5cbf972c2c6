"""The batches that the ledger knows, and the days that wait for them."""

import duckdb

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.states import ADOPT, RECOVER, SEE_AGAIN, UNCOLLECTED
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE

NOT_RECORDED = "an API that an earlier version did not record"


def is_known(connection: duckdb.DuckDBPyConnection, batch_id: str) -> bool:
    """Whether a submission has or had the batch."""
    row = connection.execute(
        "SELECT count(*) FROM openai_batch WHERE batch_id = $id OR list_contains(earlier_batch_ids, $id)",
        {"id": batch_id},
    ).fetchone()
    return row is not None and row[0] > 0


def batches_of_account(database: Database, submission: Submission) -> set[str]:
    """The ids of the other batches that the same account made at the same API; none where that is not known.

    The key is the same, with the same settings of organization and project, and so is the organization, if it is known
    of both.
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
    """The APIs, but for the built-in engine, that any batch was made at; of an earlier version's it is not known."""
    with database.reading() as connection:
        rows = connection.execute(
            """
            SELECT DISTINCT coalesce(api, ?) AS name FROM openai_batch
            WHERE api IS DISTINCT FROM ? AND batch_id IS NOT NULL ORDER BY name
            """,
            [NOT_RECORDED, BUILT_IN_ENGINE],
        ).fetchall()
    return [api for (api,) in rows]


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


def days_taken_in(database: Database) -> list[str]:
    """The days that wait for a batch that no run of theirs submitted: adopted, recovered, or seen again."""
    parameters = {"states": list(UNCOLLECTED), "moves": [ADOPT.name, RECOVER.name, SEE_AGAIN.name]}
    with database.reading() as connection:
        rows = connection.execute(
            """
            WITH taken_in AS (
                SELECT submission_id, partition_date
                FROM openai_batch SEMI JOIN (
                    SELECT submission_id FROM submission_event WHERE list_contains($moves, move)
                ) USING (submission_id)
                WHERE list_contains($states, state)
            )
            SELECT partition_date::VARCHAR FROM taken_in
            UNION
            SELECT partition_date::VARCHAR
            FROM batch_request SEMI JOIN (
                SELECT custom_id FROM in_flight_request SEMI JOIN taken_in USING (submission_id)
            ) USING (custom_id)
            ORDER BY 1
            """,
            parameters,
        ).fetchall()
    return [day for (day,) in rows]


def days_with_batches(database: Database) -> list[str]:
    """The days of submissions whose batch is known and not collected."""
    with database.reading() as connection:
        rows = connection.execute(
            "SELECT DISTINCT partition_date::VARCHAR FROM openai_batch WHERE list_contains($states, state) ORDER BY 1",
            {"states": list(UNCOLLECTED)},
        ).fetchall()
    return [day for (day,) in rows]
