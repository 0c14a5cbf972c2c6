"""Which files belong to which submissions and calls, here and at the API; `operations/prune.py` asks for them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import duckdb

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.states import OPEN, State
from batch_assets.batching.ledger.synchronous_calls import CALL_PREFIX
from batch_assets.batching.provider.batches import now_utc

# Days with an open submission, and days that need a request of an open submission of another day.
DAYS_IN_FLIGHT = """
    SELECT partition_date FROM openai_batch WHERE list_contains($open_states, state)
    UNION
    SELECT partition_date FROM batch_request SEMI JOIN (
        SELECT custom_id FROM in_flight_request JOIN openai_batch USING (submission_id)
        WHERE list_contains($open_states, state)
    ) USING (custom_id)
"""
BATCHES_OF_DAYS = f"""
    SELECT batch_id FROM openai_batch WHERE partition_date IN (SELECT unnest($days)::DATE)
    UNION ALL
    SELECT '{CALL_PREFIX}' || call_id FROM synchronous_call WHERE partition_date IN (SELECT unnest($days)::DATE)
"""


def open_states() -> list[str]:
    """The value of `$open_states`."""
    return [str(state) for state in OPEN]


def result_files(connection: duckdb.DuckDBPyConnection, days: Sequence[str]) -> list[str]:
    """The paths of these days' result files, relative to the data folder."""
    rows = connection.execute(
        """
        SELECT unnest([output_path, error_path]) AS path FROM openai_batch
        WHERE partition_date IN (SELECT unnest($days)::DATE)
        UNION ALL
        -- of a call that is sent, the answer may not be loaded yet
        SELECT path FROM synchronous_call WHERE partition_date IN (SELECT unnest($days)::DATE) AND state <> 'sent'
        ORDER BY path
        """,
        {"days": list(days)},
    ).fetchall()
    return [path for (path,) in rows if path is not None]


def rename_result_file(connection: duckdb.DuckDBPyConnection, path: str, new: str | None) -> None:
    """Record the present path of a result file; None: the file was deleted."""
    connection.execute("UPDATE openai_batch SET output_path = ? WHERE output_path = ?", [new, path])
    connection.execute("UPDATE openai_batch SET error_path = ? WHERE error_path = ?", [new, path])
    connection.execute("UPDATE synchronous_call SET path = ? WHERE path = ?", [new, path])


@dataclass(frozen=True)
class RemoteFiles:
    """A submission's files at an API, and the API and the account that have them, as far as the ledger knows."""

    submission_id: str
    day: str
    api: str | None
    key_fingerprint: str | None
    organization: str | None
    file_ids: tuple[str, ...]


def remote_files(connection: duckdb.DuckDBPyConnection, days: Sequence[str]) -> list[RemoteFiles]:
    """The files that APIs still have of these days' collected submissions."""
    rows = connection.execute(
        """
        SELECT submission_id, partition_date::VARCHAR, api, key_fingerprint, organization,
            list_filter([file_id, output_file_id, error_file_id], lambda id: id IS NOT NULL)
        FROM openai_batch
        WHERE partition_date IN (SELECT unnest(?)::DATE) AND state = ? AND remote_deleted_at IS NULL
        """,
        [list(days), State.COLLECTED],
    ).fetchall()
    return [
        RemoteFiles(submission_id, day, api, key_fingerprint, organization, tuple(file_ids))
        for submission_id, day, api, key_fingerprint, organization, file_ids in rows
        if file_ids
    ]


def number_of_remote_files(remote: Iterable[RemoteFiles]) -> int:
    """How many files these submissions have at an API."""
    return sum(len(files_of.file_ids) for files_of in remote)


def record_remote_deletion(database: Database, submission_id: str) -> None:
    """Record that the API's copies of the submission's files are deleted."""
    with database.writing() as connection:
        connection.execute(
            "UPDATE openai_batch SET remote_deleted_at = ? WHERE submission_id = ?", [now_utc(), submission_id]
        )
