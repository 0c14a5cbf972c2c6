"""The table `openai_batch`: what was begun, what is known to exist, and what may still go out.

Each function is one short transaction. A submission is *waiting* (planned, or put back), *intended* (its batch may
or may not exist), *in flight* (it has a batch id), *ended*, and at last *collected*.
"""

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb

from batch_assets.batching.database import Database, transaction
from batch_assets.batching.remote import RemoteBatch, now_utc
from batch_assets.batching.results import CANCELLED_BY_USER

# https://developers.openai.com/api/docs/guides/batch: up to 2,000 batches an hour
MAX_BATCHES_AN_HOUR = 2_000
FIRST_PAUSE = timedelta(minutes=1)  # of a submission that OpenAI had no room for; doubles with each attempt
LONGEST_PAUSE = timedelta(hours=1)
LOOK_AGAIN = timedelta(minutes=5)  # at the latest, for room in the budget; the sensor sees sooner that a batch ended
ATTEMPTS_WITH_ONE_FILE = 2  # after these, a file that OpenAI doesn't find is uploaded anew
# What a batch fails with that will go through later, as it is: OpenAI does not queue it for us.
NO_ROOM = ("token_limit_exceeded", "request_limit_exceeded")
NO_ROOM_WORDS = ("enqueued token limit", "enqueued request limit", "number of enqueued tokens")
NO_FILE_WORDS = ("cannot find file",)

# The day's unanswered requests sit in files of this day or, for equal articles, of another.
WAITED_FOR = """
    SELECT DISTINCT pending_request.submission_key
    FROM pending_request SEMI JOIN (
        SELECT custom_id FROM batch_request WHERE partition_date = CAST($day AS DATE)
    ) USING (custom_id)
"""


@dataclass(frozen=True)
class Limits:
    """How much may be in flight. `max_enqueued_tokens` is per model, for all days together; None: no limit."""

    max_enqueued_tokens: int | None = None
    max_batches_an_hour: int = MAX_BATCHES_AN_HOUR


@dataclass(frozen=True)
class Submission:
    """A request file and how far it got. With `intended_at` and no `batch_id`, its batch may or may not exist."""

    key: str
    day: str
    round: int
    shard: int
    path: Path
    endpoint: str
    model: str
    estimated_input_tokens: int
    attempt: int = 1
    file_id: str | None = None
    batch_id: str | None = None
    intended_at: datetime | None = None
    not_before: datetime | None = None
    run_id: str | None = None
    earlier_batch_ids: tuple[str, ...] = ()
    is_wanted: bool = True  # whether anything still waits for its requests: a prompt may have changed since
    is_cancelled: bool = False  # somebody wants none of it to go out by itself

    @property
    def file_stem(self) -> str:
        """What the names of its files on disk begin with: made of our own key, never of an id that an API returned."""
        return f"{self.key[:16]}-{self.attempt}"


# Also what only the day's former prompt or text asked for: it is paid for, so it is seen to.
OF_THE_DAY = """
    (submission_key IN (SELECT submission_key FROM waited_for) OR file.partition_date = CAST($day AS DATE))
"""
SUBMISSIONS = f"""
    WITH waited_for AS ({WAITED_FOR})
    SELECT submission_key, file.partition_date::VARCHAR, file.round, file.shard, path, endpoint, model,
        estimated_input_tokens, coalesce(attempt, 1), file_id, batch_id, intended_at, not_before, run_id,
        coalesce(earlier_batch_ids, []),
        submission_key IN (SELECT submission_key FROM pending_request SEMI JOIN batch_request USING (custom_id)),
        cancel_requested_at IS NOT NULL
    FROM batch_request_file AS file LEFT JOIN openai_batch USING (submission_key)
"""


def unsubmitted(database: Database, day: str, data_folder: Path) -> list[Submission]:
    """What the day waits for, or has begun, and has no batch yet: planned, waiting or intended; oldest first."""
    return _submissions(
        database,
        data_folder,
        f"{SUBMISSIONS} WHERE batch_id IS NULL AND {OF_THE_DAY} ORDER BY 2, 3, 4",
        {"day": day},
    )


def uncollected(database: Database, day: str, data_folder: Path) -> list[Submission]:
    """The batches that the day waits for, or has paid for, and whose results are not in the tables; oldest first."""
    return _submissions(
        database,
        data_folder,
        f"{SUBMISSIONS} WHERE batch_id IS NOT NULL AND collected_at IS NULL AND {OF_THE_DAY} ORDER BY 2, 3, 4",
        {"day": day},
    )


def in_flight(database: Database, data_folder: Path) -> list[Submission]:
    """The batches of all days that were not seen to have ended."""
    statement = f"{SUBMISSIONS} WHERE batch_id IS NOT NULL AND ended_at IS NULL AND collected_at IS NULL"
    return _submissions(database, data_folder, statement, {"day": None})


def batches_waited_for(database: Database, day: str, data_folder: Path) -> list[str]:
    """The ids of the batches that `uncollected` names; oldest first."""
    return [submission.batch_id for submission in uncollected(database, day, data_folder) if submission.batch_id]


def _submissions(
    database: Database, data_folder: Path, statement: str, parameters: dict[str, str | None]
) -> list[Submission]:
    with database.reading() as connection:
        rows = connection.execute(statement, parameters).fetchall()
    fields = ([*row[:4], data_folder / row[4], *row[5:14], tuple(row[14]), *row[15:]] for row in rows)
    return [Submission(*values) for values in fields]


@dataclass(frozen=True)
class Claim:
    """What came of the wish to submit.

    `submission` is set if it's ours now: as it was before, so its `intended_at` tells whether somebody has been at
    it. Otherwise either another run has it, or it has to wait until `wait_until`.
    """

    submission: Submission | None = None
    wait_until: datetime | None = None


def claim(database: Database, seen: Submission, run_id: str, limits: Limits) -> Claim:
    """Commit the intent to submit, or take it over from the run that died with it."""
    with database.writing() as connection, transaction(connection):
        row = connection.execute(
            "SELECT run_id, file_id, batch_id, intended_at, attempt FROM openai_batch WHERE submission_key = ?",
            [seen.key],
        ).fetchone()
        planned = connection.execute("SELECT 1 FROM batch_request_file WHERE submission_key = ?", [seen.key]).fetchone()
        if planned is None or (row is not None and (row[0], row[2], row[4]) != (seen.run_id, None, seen.attempt)):
            return Claim()  # withdrawn, or another run was faster
        if row is not None and row[3] is None and _is_cancelled(connection, seen):
            _forget(connection, seen, because=CANCELLED_BY_USER)
            return Claim()
        if row is not None and row[3] is not None:
            connection.execute("UPDATE openai_batch SET run_id = ? WHERE submission_key = ?", [run_id, seen.key])
            return Claim(replace(seen, run_id=run_id, file_id=row[1], intended_at=row[3]))
        wait_until = _room_at(connection, seen, limits)
        if wait_until is not None:
            return Claim(wait_until=wait_until)
        connection.execute(
            """
            INSERT INTO openai_batch (submission_key, partition_date, round, shard, run_id, intended_at)
            VALUES ($key, CAST($day AS DATE), $round, $shard, $run_id, $now)
            ON CONFLICT DO UPDATE SET run_id = $run_id, intended_at = $now, not_before = NULL
            """,
            {
                "key": seen.key,
                "day": seen.day,
                "round": seen.round,
                "shard": seen.shard,
                "run_id": run_id,
                "now": now_utc(),
            },
        )
        return Claim(replace(seen, run_id=run_id, intended_at=None))


def _is_cancelled(connection: duckdb.DuckDBPyConnection, submission: Submission) -> bool:
    statement = "SELECT 1 FROM openai_batch WHERE submission_key = ? AND cancel_requested_at IS NOT NULL"
    return connection.execute(statement, [submission.key]).fetchone() is not None


def _room_at(connection: duckdb.DuckDBPyConnection, wanted: Submission, limits: Limits) -> datetime | None:
    """None if it may go out now; otherwise when to look again at the latest."""
    now = now_utc()
    if wanted.not_before is not None and wanted.not_before > now:
        return wanted.not_before
    row = connection.execute(
        """
        SELECT
            coalesce(sum(estimated_input_tokens) FILTER (
                ended_at IS NULL AND collected_at IS NULL AND model = $model
            ), 0),
            count(*) FILTER (intended_at > $an_hour_ago),
            min(intended_at) FILTER (intended_at > $an_hour_ago)
        FROM openai_batch JOIN batch_request_file USING (submission_key)
        WHERE intended_at IS NOT NULL
        """,
        {"model": wanted.model, "an_hour_ago": now - timedelta(hours=1)},
    ).fetchone()
    enqueued, lately, first = row or (0, 0, None)
    if lately >= limits.max_batches_an_hour:
        return (first or now) + timedelta(hours=1)
    budget = limits.max_enqueued_tokens
    # One that is larger than the budget by itself goes out when nothing else is there: waiting won't shrink it.
    if budget is not None and enqueued and enqueued + wanted.estimated_input_tokens > budget:
        return now + LOOK_AGAIN
    return None


class Owner(NamedTuple):
    """Which run has a submission, and the batch that it made of it, if any."""

    run_id: str | None
    batch_id: str | None


def owner_of(database: Database, submission_key: str) -> Owner | None:
    """Who has the submission now; None if it was withdrawn."""
    statement = "SELECT run_id, batch_id FROM openai_batch WHERE submission_key = ?"
    with database.reading() as connection:
        row = connection.execute(statement, [submission_key]).fetchone()
    return Owner(*row) if row else None


def record_upload(database: Database, submission: Submission, file_id: str | None) -> Submission:
    with database.writing() as connection:
        connection.execute(
            "UPDATE openai_batch SET file_id = ? WHERE submission_key = ? AND run_id = ?",
            [file_id, submission.key, submission.run_id],
        )
    return replace(submission, file_id=file_id)


def record_batch(database: Database, submission: Submission, batch: RemoteBatch) -> bool:
    """Note that the batch exists. False, and nothing is changed, if another run has taken over meanwhile."""
    with database.writing() as connection:
        changed = connection.execute(
            """
            UPDATE openai_batch
            SET batch_id = ?, file_id = coalesce(?, file_id), status = ?, submitted_at = ?, refusal = NULL
            WHERE submission_key = ? AND run_id = ? AND batch_id IS NULL
            """,
            [
                batch.id, batch.input_file_id, batch.status, batch.created_at or now_utc(),
                submission.key, submission.run_id,
            ],
        ).fetchone()  # fmt: skip
    return changed is not None and changed[0] == 1


def record_refusal(database: Database, submission: Submission, words: str, *, nothing_sent: bool) -> None:
    """Note what OpenAI said. With `nothing_sent`, no batch can exist, and the submission takes up no room."""
    with database.writing() as connection:
        connection.execute(
            """
            UPDATE openai_batch SET refusal = ?, intended_at = CASE WHEN ? THEN NULL ELSE intended_at END
            WHERE submission_key = ? AND run_id = ?
            """,
            [words, nothing_sent, submission.key, submission.run_id],
        )


def record_state(
    database: Database, submission: Submission, batch: RemoteBatch, stored: dict[str, str] | None = None
) -> None:
    """Note what the API says of the batch, and where its result files were stored ("output", "errors")."""
    stored = stored or {}
    errors = [error.__dict__ for error in batch.errors]
    with database.writing() as connection:
        connection.execute(
            """
            UPDATE openai_batch SET
                status = ?, requests_total = ?, requests_completed = ?, requests_failed = ?,
                input_tokens = ?, output_tokens = ?, errors = ?, output_file_id = ?, error_file_id = ?,
                output_path = coalesce(?, output_path), error_path = coalesce(?, error_path),
                ended_at = ?, seen_at = ?
            WHERE submission_key = ? AND batch_id = ?
            """,
            [
                batch.status, batch.total, batch.completed, batch.failed,
                batch.input_tokens, batch.output_tokens, json.dumps(errors) if errors else None,
                batch.output_file_id, batch.error_file_id, stored.get("output"), stored.get("errors"),
                (batch.ended_at or now_utc()) if batch.has_ended else None, now_utc(),
                submission.key, batch.id,
            ],
        )  # fmt: skip


def must_go_back(batch: RemoteBatch) -> bool:
    """Whether OpenAI failed the batch as a whole for a reason that passes, before it ran anything."""
    return batch.status == "failed" and any(_passes(error.code, error.message) for error in batch.errors)


def _passes(code: str, message: str) -> bool:
    words = message.lower()
    return code in NO_ROOM or any(sign in words for sign in (*NO_ROOM_WORDS, *NO_FILE_WORDS))


def put_back(database: Database, submission: Submission, batch: RemoteBatch) -> bool:
    """Let the submission wait, and go out again as another attempt, with the same file.

    False if it won't: another run has put it back already, or somebody has cancelled it, so that it is withdrawn.
    """
    not_found = any(sign in error.message.lower() for error in batch.errors for sign in NO_FILE_WORDS)
    new_file = not_found and submission.attempt >= ATTEMPTS_WITH_ONE_FILE
    pause = min(FIRST_PAUSE * (1 << min(submission.attempt - 1, 10)), LONGEST_PAUSE)
    with database.writing() as connection, transaction(connection):
        row = connection.execute(
            "SELECT cancel_requested_at IS NOT NULL FROM openai_batch WHERE submission_key = ? AND batch_id = ?",
            [submission.key, batch.id],
        ).fetchone()
        if row is None:
            return False
        if row[0]:
            _forget(connection, submission, because=CANCELLED_BY_USER)
            return False
        connection.execute(
            """
            UPDATE openai_batch SET
                attempt = attempt + 1, earlier_batch_ids = list_append(earlier_batch_ids, batch_id), batch_id = NULL,
                intended_at = NULL, run_id = NULL, submitted_at = NULL, status = NULL, ended_at = NULL,
                not_before = ?, errors = ?, file_id = CASE WHEN ? THEN NULL ELSE file_id END
            WHERE submission_key = ? AND batch_id = ?
            """,
            [
                now_utc() + pause, json.dumps([error.__dict__ for error in batch.errors]), new_file,
                submission.key, batch.id,
            ],
        )  # fmt: skip
    return True


def record_cancel_request(database: Database, submission: Submission) -> None:
    """Note that somebody wants the batch to stop, and none of it to go out again by itself."""
    with database.writing() as connection:
        connection.execute(
            "UPDATE openai_batch SET cancel_requested_at = ? WHERE submission_key = ?", [now_utc(), submission.key]
        )


def withdraw(
    database: Database, submission: Submission, *, because: str | None = None, is_claimed: bool = False
) -> bool:
    """Forget a submission of which nothing exists at OpenAI. Its requests are owed again, or failed `because`.

    False, and nothing is changed, if a run has taken it up since it was read, be it the same run again. With
    `is_claimed`, it is the run that has it who says so.
    """
    with database.writing() as connection, transaction(connection):
        row = connection.execute(
            "SELECT run_id, batch_id, intended_at, attempt FROM openai_batch WHERE submission_key = ?", [submission.key]
        ).fetchone()
        run_id, batch_id, intended_at, attempt = row or (None, None, None, submission.attempt)
        if (run_id, batch_id) != (submission.run_id, None):
            return False
        if not is_claimed and (intended_at, attempt) != (submission.intended_at, submission.attempt):
            return False
        _forget(connection, submission, because=because)
        return True


def _forget(connection: duckdb.DuckDBPyConnection, submission: Submission, *, because: str | None) -> None:
    if because is not None:
        connection.execute(
            """
            INSERT INTO failed_request
            SELECT custom_id, 'cancelled/' || ?, ?, 'Withdrawn before it was sent.', NULL, true, ?
            FROM pending_request WHERE submission_key = ?
            """,
            [submission.day, because, now_utc(), submission.key],
        )
    for table in ("openai_batch", "batch_request_file", "pending_request"):
        connection.execute(f"DELETE FROM {table} WHERE submission_key = ?", [submission.key])
