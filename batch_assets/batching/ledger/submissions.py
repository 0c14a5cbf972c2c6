"""What the ledger knows of submissions: each is a request file on its way to OpenAI and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.states import (
    OPEN,
    UNCOLLECTED,
    UNSENT,
    UNSUBMITTED,
    State,
)
from batch_assets.batching.provider.batches import RemoteBatch


class StaleSubmissionError(Exception):
    """The submission is not as the caller saw it: another run has changed it, or it was withdrawn."""


@dataclass(frozen=True)
class Submission:
    """A request file and how far it got. While `state` is claimed, its batch may or may not exist."""

    id: str
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
    is_refresh: bool  # its answers replace those that are there
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
    status: str | None = None  # the API's word for its batch, as last seen
    errors: str | None = None  # what the API said of the batch as a whole: JSON, written by batch_transitions
    missing_since: datetime | None = None  # when a run first found that the API does not know the batch
    ended_at: datetime | None = None
    output_path: str | None = None  # where its result files are stored, relative to the data folder
    error_path: str | None = None
    is_cancelled: bool = False  # the user wants none of it to go out by itself
    is_wanted: bool = True  # whether a day still needs one of its requests: a prompt may have changed since

    @property
    def file_stem(self) -> str:
        """What the names of its result files begin with: made of our own id, never of one that an API returned."""
        return f"{self.id}-{self.attempt}"

    @property
    def claim_tokens(self) -> tuple[str, ...]:
        """By these its batches are known; the present one, and those of attempts that are over."""
        return (*(() if self.claim_token is None else (self.claim_token,)), *self.earlier_claim_tokens)


# The day's unanswered requests are in files of this day or, for equal articles, of another.
WAITED_FOR = """
    SELECT DISTINCT submission_id
    FROM in_flight_request SEMI JOIN (
        SELECT custom_id FROM batch_request WHERE partition_date = CAST($day AS DATE)
    ) USING (custom_id)
"""
# Also what only the day's former prompt or text asked for: it is paid for, so it is collected.
OF_THE_DAY = f"""
    (submission_id IN ({WAITED_FOR}) OR openai_batch.partition_date = CAST($day AS DATE))
"""
SUBMISSIONS = """
    SELECT
        submission_id AS id, openai_batch.partition_date::VARCHAR AS day, openai_batch.plan, openai_batch.round,
        openai_batch.shard, path, sha256, endpoint, model, requests, bytes, estimated_input_tokens, max_output_tokens,
        request_max_output_tokens, is_refresh, created_at AS planned_at, state, attempt, owner_run, claim_token,
        earlier_claim_tokens, api, key_fingerprint, organization, claimed_at, not_before, file_id, batch_id,
        earlier_batch_ids, status, errors, missing_since, ended_at, output_path, error_path,
        cancel_requested_at IS NOT NULL AS is_cancelled,
        submission_id IN (
            SELECT submission_id FROM in_flight_request SEMI JOIN batch_request USING (custom_id)
        ) AS is_wanted
    FROM openai_batch JOIN batch_request_file USING (submission_id)
"""
ORDER = "ORDER BY openai_batch.partition_date, openai_batch.plan, openai_batch.shard"


def unsubmitted(database: Database, day: str, data_folder: Path) -> list[Submission]:
    """What the day waits for and of which no batch is known: planned, deferred or claimed; oldest first."""
    statement = f"{SUBMISSIONS} WHERE list_contains($states, state) AND {OF_THE_DAY} {ORDER}"
    return _submissions(database, data_folder, statement, {"day": day, "states": list(UNSUBMITTED)})


def uncollected(database: Database, day: str, data_folder: Path) -> list[Submission]:
    """The batches that the day waits for, or has paid for, and whose results are not in the tables; oldest first."""
    statement = f"{SUBMISSIONS} WHERE list_contains($states, state) AND {OF_THE_DAY} {ORDER}"
    return _submissions(database, data_folder, statement, {"day": day, "states": list(UNCOLLECTED)})


def in_flight(database: Database, data_folder: Path) -> list[Submission]:
    """The batches of all days that were not seen to have ended."""
    statement = f"{SUBMISSIONS} WHERE list_contains($states, state) {ORDER}"
    return _submissions(database, data_folder, statement, {"states": [State.SUBMITTED, State.MISSING]})


def given_up(database: Database, data_folder: Path) -> list[Submission]:
    """The lost and abandoned ones: their batches may be seen again."""
    statement = f"{SUBMISSIONS} WHERE list_contains($states, state) {ORDER}"
    return _submissions(database, data_folder, statement, {"states": [State.LOST, State.ABANDONED]})


def batches_waited_for(database: Database, day: str, data_folder: Path) -> list[str]:
    """The ids of the batches that `uncollected` names; oldest first."""
    return [submission.batch_id for submission in uncollected(database, day, data_folder) if submission.batch_id]


def by_id(database: Database, submission_id: str, data_folder: Path) -> Submission | None:
    """The submission of this id; None if the ledger knows none."""
    statement = f"{SUBMISSIONS} WHERE submission_id = $id"
    return next(iter(_submissions(database, data_folder, statement, {"id": submission_id})), None)


def by_batch(database: Database, batch: RemoteBatch, data_folder: Path) -> Submission | None:
    """The submission that this batch was made for, by its id or its metadata; None if it is none of ours."""
    statement = f"""
        {SUBMISSIONS}
        WHERE batch_id = $batch_id OR list_contains(earlier_batch_ids, $batch_id)
            OR submission_id IN ($submission_id, $submission_key)
    """
    parameters = {
        "batch_id": batch.id,
        "submission_id": batch.metadata.get("submission_id"),
        "submission_key": batch.metadata.get("submission_key"),
    }
    return next(iter(_submissions(database, data_folder, statement, parameters)), None)


def withdrawn_files(connection: duckdb.DuckDBPyConnection, day: str) -> list[str]:
    """The paths, relative to the data folder, of the day's request files that will never be sent."""
    rows = connection.execute(
        """
        SELECT path FROM openai_batch JOIN batch_request_file USING (submission_id)
        WHERE state = ? AND openai_batch.partition_date = CAST(? AS DATE)
        """,
        [State.WITHDRAWN, day],
    ).fetchall()
    return [path for (path,) in rows]


@dataclass(frozen=True)
class WaitedForFile:
    """A request file that a day waits for. `is_sent`: a run has claimed it at least."""

    model: str
    requests: int
    bytes: int
    max_output_tokens: int
    is_sent: bool


def files_waited_for(connection: duckdb.DuckDBPyConnection, day: str) -> list[WaitedForFile]:
    """The files with requests that the day waits for, of another day perhaps."""
    rows = connection.execute(
        f"""
        SELECT model, requests, bytes, max_output_tokens, NOT list_contains($unsent, state)
        FROM openai_batch JOIN batch_request_file USING (submission_id)
        WHERE list_contains($open, state) AND submission_id IN ({WAITED_FOR})
        """,
        {"day": day, "unsent": list(UNSENT), "open": list(OPEN)},
    ).fetchall()
    return [WaitedForFile(*row) for row in rows]


def _submissions(
    database: Database, data_folder: Path, statement: str, parameters: Mapping[str, object]
) -> list[Submission]:
    with database.reading() as connection:
        found = connection.execute(statement, dict(parameters))
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    return [_submission(row, data_folder) for row in rows]


def _submission(row: dict[str, Any], data_folder: Path) -> Submission:
    converted = {
        "path": data_folder / row["path"],
        "state": State(row["state"]),
        "earlier_claim_tokens": tuple(row["earlier_claim_tokens"] or ()),
        "earlier_batch_ids": tuple(row["earlier_batch_ids"] or ()),
    }
    return Submission(**{**row, **converted})
