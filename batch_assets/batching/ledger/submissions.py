"""Reads submissions from the ledger: each is a request file, with the batch that a run creates from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from batch_assets.batching.ledger.database import Database, parsed, transaction
from batch_assets.batching.ledger.outcomes import Scope
from batch_assets.batching.ledger.states import (
    OPEN,
    UNCOLLECTED,
    UNSENT,
    UNSUBMITTED,
    State,
)
from batch_assets.batching.provider.batches import RemoteBatch
from batch_assets.batching.task_day import TaskDay


class StaleSubmissionError(Exception):
    """The submission is not as the caller read it: another run has changed or withdrawn it."""


@dataclass(frozen=True)
class Submission:
    """A request file and its progress. While `state` is claimed, its batch may or may not exist."""

    id: str
    task: str
    day: str
    plan: int
    round: int
    shard: int
    path: Path
    sha256: str
    endpoint: str
    model: str
    requests: int
    bytes: int
    estimated_input_tokens: int
    max_output_tokens: int
    request_max_output_tokens: int | None
    is_refresh: bool  # its answers replace the present ones
    output_schema: str | None  # JSON, which its answers must fulfil; None: an answer is any text
    vector_length: int | None  # how many numbers an answer has; None: not known, or an answer is no vector
    planned_at: datetime
    state: State
    attempt: int = 1
    owner_run: str | None = None
    claim_token: str | None = None
    earlier_claim_tokens: tuple[str, ...] = ()
    api: str | None = None
    key_fingerprint: str | None = None
    organization: str | None = None
    claimed_at: datetime | None = None
    not_before: datetime | None = None
    file_id: str | None = None
    batch_id: str | None = None
    earlier_batch_ids: tuple[str, ...] = ()
    status: str | None = None  # of its batch, as the API last returned it
    requests_completed: int | None = None  # as the API counts them
    requests_failed: int | None = None
    errors: str | None = None  # of the batch as a whole, from the API: JSON, written by batch_transitions
    missing_since: datetime | None = None  # when a run first found that the API does not know the batch
    ended_at: datetime | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    output_path: str | None = None  # where its result files are stored, relative to the data folder
    error_path: str | None = None
    is_cancelled: bool = False  # no run sends it until the user plans the day again
    is_needed: bool = True  # whether a day still needs one of its requests; the prompt may have changed

    @property
    def task_day(self) -> TaskDay:
        return TaskDay(self.task, self.day)

    @property
    def file_stem(self) -> str:
        """How the names of its result files begin: with the ledger's id, never with an id that an API returned."""
        return f"{self.id}-{self.attempt}"

    @property
    def claim_tokens(self) -> tuple[str, ...]:
        """The tokens that identify its batches: of the present attempt and of the earlier ones."""
        return (*(() if self.claim_token is None else (self.claim_token,)), *self.earlier_claim_tokens)


# The submissions with requests that the day needs; equal requests can be in a file of another task or day.
AWAITED = """
    SELECT DISTINCT submission_id
    FROM in_flight_request SEMI JOIN (
        SELECT custom_id FROM batch_request WHERE task = $task AND partition_date = CAST($day AS DATE)
    ) USING (custom_id)
"""
# `OF_DAY`: also the day's submissions with only requests of a former prompt or text. They are paid for, so a run
# collects them.
IN_STATES = "list_contains($states, state)"
OF_DAY = f"{IN_STATES} AND ((task = $task AND partition_date = CAST($day AS DATE)) OR submission_id IN ({AWAITED}))"
# DuckDB needs longer to plan a statement over many columns, joins and a sort than to run it. So one statement per table
# reads the rows, after a short one has found which.
READ_BATCHES = """
    SELECT
        submission_id AS id, task, partition_date::VARCHAR AS day, plan, round, shard, state, attempt, owner_run,
        claim_token, earlier_claim_tokens, api, key_fingerprint, organization, claimed_at, not_before, file_id,
        batch_id, earlier_batch_ids, status, requests_completed, requests_failed, errors, missing_since, ended_at,
        output_file_id, error_file_id, output_path, error_path,
        cancel_requested_at IS NOT NULL AS is_cancelled
    FROM openai_batch WHERE list_contains($ids, submission_id)
"""
READ_FILES = """
    SELECT
        submission_id AS id, path, sha256, endpoint, model, requests, bytes, estimated_input_tokens, max_output_tokens,
        request_max_output_tokens, is_refresh, output_schema, vector_length, created_at AS planned_at
    FROM batch_request_file WHERE list_contains($ids, submission_id)
"""
FIND_NEEDED = """
    SELECT DISTINCT submission_id FROM in_flight_request SEMI JOIN batch_request USING (custom_id)
    WHERE list_contains($ids, submission_id)
"""


def unsubmitted(database: Database, day: TaskDay, data_folder: Path) -> list[Submission]:
    """The day's submissions without a known batch: planned, deferred or claimed; oldest first."""
    return _submissions(database, data_folder, OF_DAY, {**day._asdict(), "states": list(UNSUBMITTED)})


def uncollected(database: Database, day: TaskDay, data_folder: Path) -> list[Submission]:
    """The day's submissions whose batch is known, and whose results are not in the tables; oldest first."""
    return _submissions(database, data_folder, OF_DAY, {**day._asdict(), "states": list(UNCOLLECTED)})


def in_flight(database: Database, data_folder: Path) -> list[Submission]:
    """The submissions of all days whose batch is known, and has not ended as far as the ledger knows."""
    return _submissions(database, data_folder, IN_STATES, {"states": [State.SUBMITTED, State.MISSING]})


def lost_or_abandoned(database: Database, data_folder: Path) -> list[Submission]:
    """The lost and the abandoned submissions: the API may list their batches again."""
    return _submissions(database, data_folder, IN_STATES, {"states": [State.LOST, State.ABANDONED]})


def awaited_batch_ids(database: Database, day: TaskDay, data_folder: Path) -> list[str]:
    """The ids of the batches of `uncollected`; oldest first."""
    of_day = f"{OF_DAY} AND batch_id IS NOT NULL"
    find = f"SELECT batch_id FROM openai_batch WHERE {of_day} ORDER BY partition_date, task, plan, shard"
    with database.reading() as connection:
        rows = connection.execute(parsed(find), {**day._asdict(), "states": list(UNCOLLECTED)}).fetchall()
    return [batch_id for (batch_id,) in rows]


def by_id(database: Database, submission_id: str, data_folder: Path) -> Submission | None:
    """The submission with this id; None if the ledger does not know it."""
    return next(iter(_submissions(database, data_folder, "submission_id = $id", {"id": submission_id})), None)


def of_ids(database: Database, submission_ids: Sequence[str], data_folder: Path) -> list[Submission]:
    """The submissions with these ids; oldest first."""
    condition = "list_contains($wanted, submission_id)"
    return _submissions(database, data_folder, condition, {"wanted": list(submission_ids)})


def of_batch_id(database: Database, batch_id: str, data_folder: Path) -> list[Submission]:
    """The submissions that have this batch: several servers give one id to two of them."""
    return _submissions(database, data_folder, "batch_id = $batch_id", {"batch_id": batch_id})


def by_batch(database: Database, batch: RemoteBatch, data_folder: Path) -> Submission | None:
    """The submission of this batch, by its id or its metadata; None if the ledger knows none."""
    condition = """
        batch_id = $batch_id OR list_contains(earlier_batch_ids, $batch_id)
        OR submission_id IN ($submission_id, $submission_key)
    """
    parameters = {
        "batch_id": batch.id,
        "submission_id": batch.metadata.get("submission_id"),
        "submission_key": batch.metadata.get("submission_key"),
    }
    return next(iter(_submissions(database, data_folder, condition, parameters)), None)


def why_deferred(database: Database, day: TaskDay) -> str | None:
    """The API's message about a request file of the day that waits after an account error; None if none does."""
    with database.reading() as connection:
        row = connection.execute(
            """
            SELECT message FROM openai_batch
            WHERE state = ? AND deferred_by = ? AND task = ? AND partition_date = CAST(? AS DATE)
            ORDER BY not_before LIMIT 1
            """,
            [State.DEFERRED, Scope.ACCOUNT, *day],
        ).fetchone()
    return None if row is None else row[0]


def withdrawn_files(connection: duckdb.DuckDBPyConnection, day: TaskDay) -> list[str]:
    """The paths, relative to the data folder, of the day's withdrawn request files."""
    rows = connection.execute(
        """
        SELECT path FROM openai_batch JOIN batch_request_file USING (submission_id)
        WHERE state = ? AND openai_batch.task = ? AND openai_batch.partition_date = CAST(? AS DATE)
        """,
        [State.WITHDRAWN, *day],
    ).fetchall()
    return [path for (path,) in rows]


@dataclass(frozen=True)
class AwaitedFile:
    """A request file with requests that a day needs. `is_sent`: a run has claimed it, or has submitted it."""

    task: str
    day: str
    model: str
    requests: int
    estimated_input_tokens: int
    max_output_tokens: int
    request_max_output_tokens: int | None
    is_sent: bool


def awaited_files(connection: duckdb.DuckDBPyConnection, day: TaskDay) -> list[AwaitedFile]:
    """The request files with requests that the day needs; some may be of another task or day."""
    rows = connection.execute(
        f"""
        SELECT
            openai_batch.task, openai_batch.partition_date::VARCHAR, model, requests,
            estimated_input_tokens, max_output_tokens, request_max_output_tokens, NOT list_contains($unsent, state)
        FROM openai_batch JOIN batch_request_file USING (submission_id)
        WHERE list_contains($open, state) AND submission_id IN ({AWAITED})
        """,
        {**day._asdict(), "unsent": list(UNSENT), "open": list(OPEN)},
    ).fetchall()
    return [AwaitedFile(*row) for row in rows]


class UnsentFiles(NamedTuple):
    """The request files of a day that no run has sent: their number, the largest one, and their tokens together."""

    files: int
    most_requests: int
    most_bytes: int
    estimated_input_tokens: int


def unsent_files(connection: duckdb.DuckDBPyConnection, day: TaskDay) -> UnsentFiles:
    row = connection.execute(
        """
        SELECT
            count(*), coalesce(max(requests), 0), coalesce(max(bytes), 0),
            coalesce(sum(estimated_input_tokens), 0)::BIGINT
        FROM openai_batch JOIN batch_request_file USING (submission_id)
        WHERE openai_batch.task = $task AND openai_batch.partition_date = CAST($day AS DATE)
            AND list_contains($unsent, state)
        """,
        {**day._asdict(), "unsent": list(UNSENT)},
    ).fetchone()
    assert row is not None  # an aggregate without GROUP BY has one row
    return UnsentFiles(*row)


def _submissions(
    database: Database, data_folder: Path, condition: str, parameters: Mapping[str, object]
) -> list[Submission]:
    """The submissions whose rows in `openai_batch` fulfil the condition; oldest first."""
    with database.reading() as connection, transaction(connection):
        find = f"SELECT submission_id FROM openai_batch WHERE {condition}"
        ids = [submission_id for (submission_id,) in connection.execute(parsed(find), dict(parameters)).fetchall()]
        if not ids:
            return []
        files = {row["id"]: row for row in _rows(connection, READ_FILES, ids)}
        needed = {row["submission_id"] for row in _rows(connection, FIND_NEEDED, ids)}
        rows = [
            {**batch, **files[batch["id"]], "is_needed": batch["id"] in needed}
            for batch in _rows(connection, READ_BATCHES, ids)
            if batch["id"] in files
        ]
    rows.sort(key=lambda row: (row["day"], row["task"], row["plan"], row["shard"]))
    return [_submission(row, data_folder) for row in rows]


def _rows(connection: duckdb.DuckDBPyConnection, statement: str, ids: list[str]) -> list[dict[str, Any]]:
    found = connection.execute(parsed(statement), {"ids": ids})
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _submission(row: dict[str, Any], data_folder: Path) -> Submission:
    converted = {
        "path": data_folder / row["path"],
        "state": State(row["state"]),
        "earlier_claim_tokens": tuple(row["earlier_claim_tokens"] or ()),
        "earlier_batch_ids": tuple(row["earlier_batch_ids"] or ()),
    }
    return Submission(**{**row, **converted})
