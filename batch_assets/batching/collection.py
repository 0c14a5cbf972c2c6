"""Ended batches into tables, and a day's tables into `summaries`.

Order matters: result files are stored byte for byte before anything is parsed, so what was paid for is on
our disk whatever the parser thinks of it.
"""

import json
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path

import duckdb
import httpx2
import openai

from batch_assets.batching.api_identity import ApiIdentity, identify
from batch_assets.batching.clean_errors import logger_without_secrets
from batch_assets.batching.day_summaries import write_summaries
from batch_assets.batching.ledger import batch_transitions, submissions
from batch_assets.batching.ledger.batch_transitions import is_collectable, must_go_back
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.requests import Question
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.outside_text import as_message
from batch_assets.batching.prices import ModelPrice
from batch_assets.batching.private_folder import make_private_folder
from batch_assets.batching.remote import (
    MISSING,
    UNREADABLE,
    RemoteBatch,
    list_batches,
    now_utc,
    retrieve_batch,
    words_of,
)
from batch_assets.batching.results import EndedBatch, Loaded, in_groups, load_results

RESULTS_FOLDER = "results"
CHUNK_BYTES = 1 << 20
LOST_AFTER = timedelta(hours=25)
FILE_IS_GONE_AFTER = timedelta(days=1)  # OpenAI keeps result files for 30 days; a fresh one may be late
BATCHES_AT_ONCE = 4
DOWNLOAD_PAUSES_SECONDS = (1.0, 2.0, 5.0, 10.0)


logger = logger_without_secrets(__name__)


class CollectionError(Exception):
    """Results could not be had now; the message says which and why."""


@dataclass
class Collected:
    """What `collect_day` found.

    `still_running`, `requeued` (the API had no room for it; it goes out again) and `missing` (the API does not know it
    with this key) are batch ids; `elsewhere` says of batches that another API made that they wait for it. The counts
    are of the day's distinct requests.
    """

    batches: dict[str, Loaded] = field(default_factory=dict)
    still_running: list[str] = field(default_factory=list)
    requeued: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)


def collect_day(
    database: Database,
    client: openai.OpenAI,
    *,
    day: str,
    data_folder: Path,
    max_rounds: int,
    max_output_tokens: int = 0,
    own_prices: tuple[ModelPrice, ...] = (),
) -> Collected:
    """Store and load the results of every ended batch that the day waits for, then write its `summaries`.

    May be run at any time and any number of times: a batch is loaded once. Raises CollectionError where a batch or a
    file cannot be had now; what was loaded until then stays loaded.
    """
    report = Collected()
    ended: list[EndedBatch] = []
    failures: list[CollectionError] = []
    try:
        api = identify(client, database.warehouse_id())
    except openai.OpenAIError as error:
        raise CollectionError(
            f"The API does not answer: {words_of(error)}. Nothing is lost there for 30 days; materialize `summaries` "
            "again."
        ) from error
    with ThreadPoolExecutor(BATCHES_AT_ONCE, "results") as threads:
        asked = []
        for submission in submissions.uncollected(database, day, data_folder):
            if submission.api not in (None, api.name):
                report.elsewhere.append(_elsewhere(submission, api))
            else:
                asked.append((submission, threads.submit(_fetch, client, submission, data_folder)))
        for submission, answer in asked:
            try:
                batch, files = answer.result()
            except openai.OpenAIError as error:  # one that can't be had now must not hold up the others
                failures.append(_not_had(submission, error))
                continue
            if submission.state is State.MISSING and batch.status != MISSING:
                batch_transitions.find(database, submission)
                submission = replace(submission, state=State.SUBMITTED)
            if files is not None:
                # an earlier version did not record the API: it is the one that knows the batch
                submission = replace(submission, api=submission.api or api.name)
                # relative to the data folder, which may be moved or mounted elsewhere
                stored = {kind: f"{RESULTS_FOLDER}/{path.name}" for kind, path in files.items()}
                batch_transitions.end(database, submission, batch, stored)
                ended.append(_ended(submission, batch, list(files.values())))
            elif must_go_back(batch):
                if batch_transitions.requeue(database, submission, batch):
                    report.requeued.append(batch.id)
            elif batch.status == MISSING:
                _look_for_missing(database, client, submission, report)
            else:
                batch_transitions.record_progress(database, submission, batch)
                report.still_running.append(batch.id)
    for group in in_groups(ended):
        failures += _load(database, group, report, own_prices)
    for failure in failures:
        raise failure
    report.requests = write_summaries(database, day, Question(api.name, max_output_tokens, max_rounds))
    return report


def _elsewhere(submission: Submission, api: ApiIdentity) -> str:
    return (
        f"{submission.batch_id} of {submission.day} was made at {submission.api}, and the API is {api.name} now. It is "
        "collected when OPENAI_BASE_URL and OPENAI_API_KEY lead there again. If it has another address now: "
        f"`batch-assets move-api {submission.api} {api.name}`."
    )


def _fetch(
    client: openai.OpenAI, submission: Submission, data_folder: Path
) -> tuple[RemoteBatch, dict[str, Path] | None]:
    """The batch as it is now and, if it has ended, its result files as they are stored. Raises openai.OpenAIError."""
    batch = retrieve_batch(client, submission.batch_id or "")
    if must_go_back(batch) or not batch.has_ended or batch.status == MISSING or _is_late(batch):
        return batch, None
    return batch, _store(client, submission, batch, data_folder)


def _look_for_missing(database: Database, client: openai.OpenAI, submission: Submission, report: Collected) -> None:
    """A batch that the API does not know: of another account, or lost.

    It counts as lost only if it has been missing for longer than a batch may take, and the account that made it shows
    other batches of ours. Otherwise the key is perhaps another account's, and nothing is bought again.
    """
    batch_id = submission.batch_id or ""
    message = (
        f"{batch_id} of {submission.day} is not found with the present key. Which organization and project does "
        "OPENAI_API_KEY belong to? The batch was made by another one, or the API has lost it. Nothing of it is sent "
        "again meanwhile."
    )
    if submission.state is State.SUBMITTED:
        batch_transitions.miss(database, submission, message)
        submission = replace(submission, state=State.MISSING)
    since = submission.claimed_at
    if (since is None or now_utc() - since > LOST_AFTER) and _shows_others_of_the_account(database, client, submission):
        batch_transitions.lose(database, submission, f"{batch_id} is gone: its account shows other batches, not this.")
        logger.warning(
            "%s of %s is lost: its account shows other batches. It is asked again.", batch_id, submission.day
        )
        return
    logger.warning(message)
    report.missing.append(batch_id)


def _shows_others_of_the_account(database: Database, client: openai.OpenAI, submission: Submission) -> bool:
    others = submissions.batches_of_account(database, submission)
    return bool(others) and any(batch.id in others for batch in list_batches(client, since=None))


def _not_had(submission: Submission, error: openai.OpenAIError) -> CollectionError:
    failure = CollectionError(
        f"The results of {submission.batch_id} could not be had: {words_of(error)}. What was loaded stays "
        "loaded, and nothing is lost at OpenAI for 30 days; materialize `summaries` again."
    )
    failure.__cause__ = error
    return failure


def _is_late(batch: RemoteBatch) -> bool:
    """Whether a batch with answers names no file of them yet: it is asked again until its 24 hours are over."""
    if batch.status not in ("completed", "expired", "cancelled") or not batch.completed or batch.output_file_id:
        return False
    return batch.ended_at is None or now_utc() - batch.ended_at < LOST_AFTER


def _store(client: openai.OpenAI, submission: Submission, batch: RemoteBatch, data_folder: Path) -> dict[str, Path]:
    """Download the result files of an ended batch: "output", "errors", as far as there are any."""
    files: dict[str, Path] = {}
    for kind, file_id in (("output", batch.output_file_id), ("errors", batch.error_file_id)):
        if file_id is None:
            continue
        try:
            files[kind] = download(
                client, file_id, data_folder / RESULTS_FOLDER / f"{submission.file_stem}_{kind}.jsonl"
            )
        except openai.NotFoundError:
            if batch.ended_at is None or now_utc() - batch.ended_at < FILE_IS_GONE_AFTER:
                raise
            logger.warning("%s of %s does not exist any more: what it answered is lost.", file_id, batch.id)
    return files


def _ended(submission: Submission, batch: RemoteBatch, files: list[Path]) -> EndedBatch:
    return EndedBatch(
        submission_id=submission.id,
        batch_id=batch.id,
        model=submission.model,
        status=batch.status,
        ended_at=batch.ended_at or now_utc(),
        files=files,
        api=submission.api,
        max_output_tokens=submission.request_max_output_tokens,
        is_refresh=submission.is_refresh,
        planned_at=submission.planned_at,
        reasons=_refused_requests(batch, submission.path),
        reason=_reason(batch),
    )


def _load(
    database: Database, ended: list[EndedBatch], report: Collected, own_prices: tuple[ModelPrice, ...]
) -> list[CollectionError]:
    """Enter these batches into the tables, and return what could not be entered.

    In one transaction: the database writes big ones straight to its file, and packs nothing twice. Only where that
    fails, one by one, so that the others get in.
    """
    try:
        _load_together(database, ended, report, own_prices)
    except (duckdb.Error, OSError) as error:
        if len(ended) == 1:
            return [_not_loaded(ended[0], error)]
        return [failure for batch in ended for failure in _load(database, [batch], report, own_prices)]
    return []


def _not_loaded(batch: EndedBatch, error: Exception) -> CollectionError:
    files = " and ".join(str(path) for path in batch.files) or "it has no files"
    failure = CollectionError(
        f"The results of {batch.batch_id} ({files}) could not be entered into the tables: "
        f"{as_message(str(error))}. They are stored; "
        "fix what it says and materialize `summaries` again."
    )
    failure.__cause__ = error
    return failure


def _load_together(
    database: Database, ended: list[EndedBatch], report: Collected, own_prices: tuple[ModelPrice, ...]
) -> None:
    """Enter these batches, or none of them; but for those that another run has entered meanwhile."""
    with database.writing() as connection, transaction(connection):
        due: list[EndedBatch] = []
        for batch in ended:
            is_cancelled = is_collectable(connection, batch.submission_id, batch.batch_id)
            if is_cancelled is not None:
                due.append(replace(batch, cancelled_by_user=is_cancelled))
        loaded = load_results(connection, due, own_prices) if due else {}
    report.batches |= loaded


def download(client: openai.OpenAI, file_id: str, path: Path) -> Path:
    """Stream a remote file to `path`, which appears whole or not at all; what is there is not fetched again.

    Tries several times: the file of a batch that has just ended may not be found at once, and a connection may break
    in the middle. Raises openai.OpenAIError.
    """
    for pause in (*DOWNLOAD_PAUSES_SECONDS, None):
        if path.exists():
            return path
        try:
            _download_once(client, file_id, path)
        except (openai.APIStatusError, openai.APIConnectionError, httpx2.HTTPError) as error:
            if pause is None:
                if isinstance(error, openai.OpenAIError):
                    raise
                raise openai.OpenAIError(f"the connection broke while {file_id} was read ({error})") from error
            time.sleep(pause)
        except ValueError as error:  # the client's: no URL can be made of the id
            raise openai.OpenAIError(f"no file can be asked for by the id {file_id!r} ({error})") from error
    return path


def _download_once(client: openai.OpenAI, file_id: str, path: Path) -> None:
    make_private_folder(path.parent)
    unfinished = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        with client.files.with_streaming_response.content(file_id) as response, unfinished.open("wb") as file:
            for chunk in response.iter_bytes(CHUNK_BYTES):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        size = _remote_size(client, file_id)
        if size is not None and unfinished.stat().st_size != size:
            raise openai.APIConnectionError(
                message=f"{unfinished.stat().st_size} bytes came for {file_id}, which has {size}",
                request=response.http_request,
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _remote_size(client: openai.OpenAI, file_id: str) -> int | None:
    """How large the file should be; None if nobody says.

    A download can be cut short, or be something else, without anybody noticing.
    """
    try:
        size = client.files.retrieve(file_id).bytes
    except (openai.OpenAIError, *UNREADABLE):
        return None
    return size if isinstance(size, int) and size > 0 else None


def _refused_requests(batch: RemoteBatch, request_path: Path) -> dict[str, tuple[str, str]]:
    """Which requests OpenAI's validation named by their line, and what it said of them."""
    errors = {error.line: (error.code, error.message) for error in batch.errors if error.line}
    if not errors or not request_path.exists():
        return {}
    refused: dict[str, tuple[str, str]] = {}
    with request_path.open("rb") as file:
        for number, line in enumerate(islice(file, max(errors)), start=1):
            if number in errors:
                refused[json.loads(line)["custom_id"]] = errors[number]
    return refused


def _reason(batch: RemoteBatch) -> tuple[str, str] | None:
    """What is to be said of the requests that nothing else is said of; None: their line is missing."""
    if batch.status != "failed":
        return None
    for error in batch.errors:
        if error.line is None:
            return error.code, error.message
    return "batch_failed", "Other requests of the batch failed OpenAI's validation, so it ran none of them."
