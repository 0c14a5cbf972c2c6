"""Downloads files of an API to this disk, byte for byte. Each file appears whole, or not at all."""

import os
import time
import uuid
from pathlib import Path

import httpx2
import openai

from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import UNREADABLE_ERRORS, RemoteBatch, now_utc
from batch_assets.batching.safety.clean_errors import logger_without_secrets
from batch_assets.batching.safety.private_folder import make_private_folder
from batch_assets.batching.timing import Timing

# In the data folder: result files as the API sent them, and request files as runs upload them.
RESULTS_FOLDER, REQUESTS_FOLDER = "results", "requests"
CHUNK_BYTES = 1 << 20

logger = logger_without_secrets(__name__)


def store_results(
    client: openai.OpenAI, submission: Submission, batch: RemoteBatch, data_folder: Path, timing: Timing
) -> dict[str, Path]:
    """Download the result files that an ended batch has; returns their paths by kind: "output", "errors".

    Raises openai.OpenAIError, also if the API does not find a file. But a file that was never stored here, of a batch
    that ended more than `timing.file_is_gone_after` ago, is left out: the API has deleted it.
    """
    files: dict[str, Path] = {}
    for kind, file_id in (("output", batch.output_file_id), ("errors", batch.error_file_id)):
        if file_id is None:
            continue
        try:
            path = data_folder / RESULTS_FOLDER / f"{submission.file_stem}_{kind}.jsonl"
            files[kind] = download(client, file_id, path, timing)
        except openai.NotFoundError:
            is_recent = batch.ended_at is None or now_utc() - batch.ended_at < timing.file_is_gone_after
            if is_recent or submission.state is State.ENDED:
                raise
            logger.warning("The API no longer has the file %s of %s: its answers are lost.", file_id, batch.id)
    return files


def download(client: openai.OpenAI, file_id: str, path: Path, timing: Timing) -> Path:
    """Stream a remote file to `path`, which appears whole or not at all. Does nothing if `path` exists.

    Retries, since the API may not find the file of a batch that has just ended, and a connection may break.
    Raises openai.OpenAIError.
    """
    for pause in (*timing.download_pauses_seconds, None):
        if path.exists():
            return path
        try:
            _download_once(client, file_id, path)
        except (openai.APIStatusError, openai.APIConnectionError, httpx2.HTTPError) as error:
            if pause is None:
                if isinstance(error, openai.OpenAIError):
                    raise
                raise openai.OpenAIError(f"the connection broke during the download of {file_id} ({error})") from error
            time.sleep(pause)
        except ValueError as error:  # of the client, which cannot put the id into a URL
            raise openai.OpenAIError(f"no URL can be made of the file id {file_id!r} ({error})") from error
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
                message=f"the API sent {counted(unfinished.stat().st_size, 'byte')} of {file_id}, which has {size:,}",
                request=response.http_request,
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _remote_size(client: openai.OpenAI, file_id: str) -> int | None:
    """The size of the file at the API; None if the API does not return it.

    A download that was cut, or that is another content, cannot be detected without it.
    """
    try:
        size = client.files.retrieve(file_id).bytes
    except (openai.OpenAIError, *UNREADABLE_ERRORS):
        return None
    return size if isinstance(size, int) and size > 0 else None
