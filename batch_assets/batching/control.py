"""What people do by hand: cancel a day, or take in a batch that somebody made outside of Dagster."""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import openai

from batch_assets.batching import ledger
from batch_assets.batching.collection import download
from batch_assets.batching.creation import KEY
from batch_assets.batching.database import Database, transaction
from batch_assets.batching.private_folder import make_private_folder
from batch_assets.batching.remote import VANISHED, RemoteBatch, now_utc, retrieve_batch
from batch_assets.batching.request_state import hold_owed
from batch_assets.batching.requests import REQUESTS_FOLDER, estimated_input_tokens
from batch_assets.batching.results import CANCELLED_BY_USER
from batch_assets.batching.task import ENDPOINT

ADOPTED_ROUND = 0  # a file that is none of ours has no place among a day's rounds


class AdoptionError(Exception):
    """The batch can't be taken in; the message says why."""


@dataclass
class Cancelled:
    """What `cancel_day` did: batches asked to stop, batches that had ended already, shards that never go out."""

    stopped: int = 0
    had_ended: int = 0
    withdrawn: int = 0
    unknown: int = 0  # being submitted just now, or by a run that died: their batch may or may not exist

    def __str__(self) -> str:
        if self.unknown:
            return (
                f"{self.unknown} submissions may be under way: materialise `openai_batch`, which looks for their "
                "batches and makes none, and cancel again. " + self._rest
            )
        return self._rest if self.stopped or self.had_ended or self.withdrawn else "There was nothing to cancel."

    @property
    def _rest(self) -> str:
        return (
            f"{self.stopped} batches were asked to stop, {self.had_ended} had ended, {self.withdrawn} files won't be "
            "sent. What is answered will be in `summaries`; the rest goes out when `batch_request_file` is "
            "materialised again."
        )


def cancel_day(database: Database, client: openai.OpenAI, *, day: str, data_folder: Path) -> Cancelled:
    """Stop what the day has in flight, withdraw what waits, and hold what is owed. What is answered stays.

    Another day's batch that holds an equal article of this one goes on.

    The requests that end without an answer aren't sent again by the sensor, but only when somebody materialises
    `batch_request_file` of the day. A batch that may exist, since its creation was begun, has to be found first. Raises
    openai.OpenAIError; what was cancelled until then is.
    """
    withdrawn, unknown = stop_submitting(database, day=day, data_folder=data_folder)
    report = Cancelled(withdrawn=withdrawn, unknown=unknown)
    refusals: list[openai.OpenAIError] = []
    for submission in ledger.uncollected(database, day, data_folder):
        if submission.day != day:
            continue
        # first: a batch that ends as cancelled must be known for one that nobody wants to go out again
        ledger.record_cancel_request(database, submission)
        try:
            client.with_options(max_retries=0).batches.cancel(submission.batch_id or "")
            report.stopped += 1
        except (openai.ConflictError, openai.NotFoundError):  # it has ended, or isn't there any more
            report.had_ended += 1
        except openai.OpenAIError as error:  # one that can't be stopped now must not save the others
            refusals.append(error)
    hold_owed(database, day)
    if refusals:
        raise refusals[0]
    return report


def stop_submitting(database: Database, *, day: str, data_folder: Path) -> tuple[int, int]:
    """Let nothing more of the day go out by itself: for somebody who has terminated the run that submits it.

    What has no batch yet is withdrawn; it goes out when `batch_request_file` is materialised by hand. Batches that
    exist go on. Returns how many submissions were withdrawn, and how many are of unknown fate: `submit_day` looks for
    their batches, and makes none.
    """
    withdrawn = unknown = 0
    for submission in ledger.unsubmitted(database, day, data_folder):
        if submission.day != day:
            continue
        if submission.intended_at is None:
            withdrawn += ledger.withdraw(database, submission, because=CANCELLED_BY_USER)
        else:
            ledger.record_cancel_request(database, submission)
            unknown += 1
    return withdrawn, unknown


def adopt_batch(database: Database, client: openai.OpenAI, *, batch_id: str, data_folder: Path) -> list[str]:
    """Enter a batch into the ledger that somebody made from a request file of ours, by web page or curl.

    Requests are known by what they ask, so its answers find their articles, and are not bought again. Returns the days
    that it has requests of. Raises AdoptionError, or openai.OpenAIError.
    """
    batch = retrieve_batch(client, batch_id)
    if batch.status == VANISHED or batch.input_file_id is None:
        raise AdoptionError(f"OpenAI knows no batch {batch_id} with a request file.")
    with tempfile.TemporaryDirectory() as folder:
        path = download(client, batch.input_file_id, Path(folder) / "requests.jsonl")
        return _enter(database, batch, path, data_folder)


def _enter(database: Database, batch: RemoteBatch, downloaded: Path, data_folder: Path) -> list[str]:
    key = hashlib.sha256(f"adopted/{batch.id}".encode()).hexdigest()
    with database.writing() as connection, transaction(connection):
        made_by_us = connection.execute(
            "SELECT partition_date::VARCHAR, round FROM openai_batch WHERE batch_id = $id OR submission_key = $key",
            {"id": batch.id, "key": batch.metadata.get(KEY)},
        ).fetchone()
        if made_by_us is not None and made_by_us[1] != ADOPTED_ROUND:
            raise AdoptionError(
                f"{batch.id} was made by a run of ours, for {made_by_us[0]}. Materialise `openai_batch` of that day: "
                "it finds what isn't in the ledger yet."
            )
        connection.execute(
            """
            CREATE OR REPLACE TEMP TABLE asked AS
            SELECT DISTINCT custom_id, body ->> 'model' AS model
            FROM read_json(?, format = 'newline_delimited', records = true, ignore_errors = true,
                columns = {custom_id: 'VARCHAR', body: 'JSON'})
            """,
            [str(downloaded)],
        )
        days = [
            day
            for (day,) in connection.execute(
                """
                SELECT DISTINCT partition_date::VARCHAR FROM batch_request SEMI JOIN asked USING (custom_id) ORDER BY 1
                """
            ).fetchall()
        ]
        if not days:
            raise AdoptionError(
                f"None of the requests of {batch.id} belongs to an article of ours: their custom_ids are not those of "
                "`batch_request`. Was it made from a file in `requests/`, unchanged, and under the present prompt?"
            )
        if made_by_us is not None:
            return days  # adopted before: only the word to the sensor may be missing
        # What was planned with these requests, and never begun, is planned anew without them.
        connection.execute(
            """
            CREATE OR REPLACE TEMP TABLE overtaken AS
            SELECT DISTINCT submission_key FROM pending_request SEMI JOIN asked USING (custom_id)
            WHERE submission_key NOT IN (SELECT submission_key FROM openai_batch WHERE intended_at IS NOT NULL)
            """
        )
        for table in ("pending_request", "batch_request_file", "openai_batch"):
            connection.execute(f"DELETE FROM {table} WHERE submission_key IN (SELECT submission_key FROM overtaken)")
        stored = data_folder / REQUESTS_FOLDER / days[0] / f"adopted-{key[:16]}.jsonl"
        make_private_folder(stored.parent)
        shutil.copyfile(downloaded, stored)
        with stored.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        connection.execute(
            """
            INSERT INTO batch_request_file
            SELECT CAST($day AS DATE), $round, count(*) FILTER (round = $round), $key, $path, $sha256,
                $endpoint, (SELECT coalesce(min(model), 'unknown') FROM asked),
                (SELECT count(*) FROM asked), $bytes, $tokens, 0, NULL, $now
            FROM batch_request_file WHERE partition_date = CAST($day AS DATE)
            """,
            {
                "day": days[0],
                "round": ADOPTED_ROUND,
                "key": key,
                "path": str(stored.relative_to(data_folder)),
                "sha256": digest,
                "endpoint": ENDPOINT,
                "bytes": stored.stat().st_size,
                "tokens": estimated_input_tokens(stored.stat().st_size),
                "now": now_utc(),
            },
        )
        connection.execute(
            """
            INSERT INTO openai_batch
                (submission_key, partition_date, round, shard, intended_at, file_id, batch_id, submitted_at, status)
            SELECT submission_key, partition_date, round, shard, $now, $file_id, $batch_id, $created_at, $status
            FROM batch_request_file WHERE submission_key = $key
            """,
            {
                "key": key,
                "now": now_utc(),
                "file_id": batch.input_file_id,
                "batch_id": batch.id,
                "created_at": batch.created_at or now_utc(),
                "status": batch.status,
            },
        )
        connection.execute(
            """
            INSERT INTO pending_request
            SELECT custom_id, ?
            FROM asked SEMI JOIN batch_request USING (custom_id) ANTI JOIN completion USING (custom_id)
            """,
            [key],
        )
    return days
