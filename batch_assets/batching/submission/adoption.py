"""Adopts a batch: enters one that the ledger does not know.

The user created it with curl, or a run did before the database was restored from a backup. The custom_id of a request
identifies its content. So the answers of the batch belong to the right articles, and no run buys them again.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import duckdb
import openai

from batch_assets.batching.ledger import known_batches, submissions, transitions, withdrawal
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.provider.batches import MISSING, RemoteBatch, now_utc, retrieve_batch
from batch_assets.batching.provider.download import REQUESTS_FOLDER, download
from batch_assets.batching.provider.endpoint import CHAT_COMPLETIONS, EMBEDDINGS
from batch_assets.batching.provider.identity import ApiIdentity, identify
from batch_assets.batching.provider.prices import estimated_input_tokens
from batch_assets.batching.safety.private_folder import make_private_folder
from batch_assets.batching.submission.upload import sha256_of
from batch_assets.batching.task_day import TaskDay
from batch_assets.batching.timing import Timing

ADOPTED_PLAN = 0  # the file belongs to no plan of a day
IN_ADOPTED_BATCH = "Its requests are in a batch that was adopted."

READ_REQUESTS = """
    CREATE OR REPLACE TEMP TABLE adopted_request AS
    SELECT DISTINCT
        custom_id, url, body ->> 'model' AS model,
        CASE WHEN url = $embeddings THEN 0
            ELSE try_cast(coalesce(body ->> 'max_completion_tokens', body ->> 'max_output_tokens') AS BIGINT)
        END AS max_output_tokens,
        try_cast(body ->> 'dimensions' AS BIGINT) AS dimensions
    FROM read_json($path, format = 'newline_delimited', records = true, ignore_errors = true,
        columns = {custom_id: 'VARCHAR', url: 'VARCHAR', body: 'JSON'})
"""
DAYS = """
    SELECT DISTINCT task, partition_date::VARCHAR AS day FROM batch_request SEMI JOIN adopted_request USING (custom_id)
    ORDER BY day, task
"""
ENTER_FILE = """
    INSERT INTO batch_request_file (
        submission_id, task, partition_date, plan, round, shard, path, sha256, endpoint, model, requests, bytes,
        estimated_input_tokens, request_max_output_tokens, max_output_tokens, is_refresh, output_schema, vector_length,
        created_at
    )
    SELECT
        $submission_id, $task, CAST($day AS DATE), $plan, 1,
        (
            SELECT count(*) FROM batch_request_file
            WHERE task = $task AND partition_date = CAST($day AS DATE) AND plan = $plan
        ),
        $path, $sha256, coalesce(min(url), $endpoint), coalesce(min(model), 'unknown'), count(*), $bytes, $tokens,
        min(max_output_tokens), coalesce(sum(max_output_tokens), 0), false,
        -- its requests are those of the present plan
        (
            SELECT nullif(definition -> 'output_schema', 'null'::JSON) FROM day_plan
            WHERE task = $task AND partition_date = CAST($day AS DATE)
        ),
        min(dimensions), $now
    FROM adopted_request
"""


class AdoptionError(Exception):
    """The batch cannot be adopted; the message says why."""


@dataclass(frozen=True)
class RequestFile:
    """A downloaded request file at its final path."""

    path: Path
    relative_path: str
    submission_id: str


def adopt_batch(database: Database, client: openai.OpenAI, *, batch_id: str, data_folder: Path) -> list[TaskDay]:
    """Adopt a batch that the user created from a request file of this project, on OpenAI's page or with curl.

    Returns the days that it has requests of. Raises AdoptionError, or openai.OpenAIError.
    """
    api = identify(client, database.warehouse_id())
    batch = retrieve_batch(client, batch_id)
    if batch.status == MISSING or batch.input_file_id is None:
        raise AdoptionError(
            f"The API knows no batch {batch_id} with a request file. Check the id, and the key that created it."
        )
    of_a_run = submissions.by_batch(database, batch, data_folder)
    if of_a_run is not None and of_a_run.plan != ADOPTED_PLAN:
        raise AdoptionError(
            f"A run created {batch.id} for {of_a_run.day}. Materialize `openai_batch` of that day: the run enters it "
            "if the ledger does not know it yet."
        )
    return enter_batch(database, client, api, batch, data_folder)


def enter_batch(
    database: Database,
    client: openai.OpenAI,
    api: ApiIdentity,
    batch: RemoteBatch,
    data_folder: Path,
    timing: Timing | None = None,
) -> list[TaskDay]:
    """Enter the batch into the ledger, unless it is there; returns the days that it has requests of.

    Withdraws the files that were planned with these requests and not sent. Raises AdoptionError, or openai.OpenAIError.
    """
    with tempfile.TemporaryDirectory() as folder:
        downloaded = _download_requests(client, batch, Path(folder), timing or Timing())
        with database.writing() as connection, transaction(connection):
            connection.execute(READ_REQUESTS, {"path": str(downloaded), "embeddings": EMBEDDINGS.path})
            days = [TaskDay(*row) for row in connection.execute(DAYS).fetchall()]
            if not days:
                raise AdoptionError(
                    f"No request of {batch.id} belongs to an article of this database: `batch_request` has none of its "
                    "custom_ids. Was the batch created from an unchanged file of `requests/`, under the present prompt?"
                )
            if known_batches.is_known(connection, batch.id):
                return days  # another run, or the user, has entered it; only the event for the sensor may be missing
            withdrawn = withdrawal.withdraw_unsent_with_requests(
                connection, "adopted_request", message=IN_ADOPTED_BATCH
            )
            file = _store_request_file(downloaded, days[0], data_folder)
            _enter_file(connection, file, days[0])
            transitions.adopt(connection, file.submission_id, batch, api)
        for path in withdrawn:
            (data_folder / path).unlink(missing_ok=True)
    return days


def _download_requests(client: openai.OpenAI, batch: RemoteBatch, folder: Path, timing: Timing) -> Path:
    """The request file; if OpenAI has deleted it, the results instead, whose lines have the custom_ids, too."""
    try:
        return download(client, batch.input_file_id or "", folder / "requests.jsonl", timing)
    except openai.NotFoundError:
        results = [file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id]
        if not results:
            raise AdoptionError(f"The request file of {batch.id} was deleted, and it has no results.") from None
    whole = folder / "results.jsonl"
    with whole.open("wb") as lines:
        for number, file_id in enumerate(results):
            try:
                path = download(client, file_id, folder / f"{number}.jsonl", timing)
            except openai.NotFoundError:
                continue
            with path.open("rb") as part:
                shutil.copyfileobj(part, lines)
    return whole


def _store_request_file(downloaded: Path, day: TaskDay, data_folder: Path) -> RequestFile:
    submission_id = transitions.new_submission_id()
    relative_path = f"{REQUESTS_FOLDER}/{day.day}/adopted-{submission_id}.jsonl"
    path = data_folder / relative_path
    make_private_folder(path.parent)
    shutil.copyfile(downloaded, path)
    return RequestFile(path, relative_path, submission_id)


def _enter_file(connection: duckdb.DuckDBPyConnection, file: RequestFile, day: TaskDay) -> None:
    size = file.path.stat().st_size
    connection.execute(
        ENTER_FILE,
        {
            "submission_id": file.submission_id,
            **day._asdict(),
            "plan": ADOPTED_PLAN,
            "path": file.relative_path,
            "sha256": sha256_of(file.path),
            "endpoint": CHAT_COMPLETIONS.path,
            "bytes": size,
            "tokens": estimated_input_tokens(size),
            "now": now_utc(),
        },
    )
