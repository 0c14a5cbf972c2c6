"""What a failure means: whether a run may retry a request, and whether it must requeue a batch as a whole."""

from collections.abc import Iterable

from batch_assets.batching.provider.batches import RemoteBatch, RemoteError

CANCELLED_BY_USER = "cancelled_by_user"  # the code of a request that waits until the user plans its day again
# A request that was cancelled before it was in a batch has this and its day in place of a `batch_id`.
CANCELLED_BATCH_ID_PREFIX = "cancelled/"
# Client errors that may not occur in another attempt: request timeout, conflict, too early, rate limit.
RETRYABLE_CLIENT_ERRORS = (408, 409, 425, 429)
# With these codes the answer is final: another attempt would get the same one.
FINAL_CODES = ("content_refused", "max_output_tokens")
# SQL: whether a failed request may be sent again, by the columns `code` and `http_status` of its line. `requests` then
# applies the limit of rounds.
IS_RETRYABLE = f"""
    code NOT IN {FINAL_CODES}
    AND NOT coalesce(http_status BETWEEN 400 AND 499 AND http_status NOT IN {RETRYABLE_CLIENT_ERRORS}, false)
"""
# With these codes OpenAI fails a batch that its limits have no capacity for. It does not queue the batch.
# https://developers.openai.com/api/docs/guides/batch
NO_CAPACITY_CODES = ("token_limit_exceeded", "request_limit_exceeded")
NO_CAPACITY_PHRASES = ("enqueued token limit", "enqueued request limit", "number of enqueued tokens")
FILE_NOT_FOUND_PHRASES = ("cannot find file",)


def must_requeue(batch: RemoteBatch) -> bool:
    """Whether OpenAI failed the batch as a whole before it ran a request, and may accept the same file later.

    A batch that has answers or usage is collected instead, whatever its status.
    """
    has_run = batch.output_file_id or batch.completed or batch.input_tokens or batch.output_tokens
    has_failed = batch.status == "failed" and any(_is_temporary(error) for error in batch.errors)
    return has_failed and not has_run


def has_not_found_its_file(errors: Iterable[RemoteError]) -> bool:
    """Whether OpenAI failed the batch because it did not find the uploaded file."""
    return any(_contains(error.message, FILE_NOT_FOUND_PHRASES) for error in errors)


def _is_temporary(error: RemoteError) -> bool:
    return error.code in NO_CAPACITY_CODES or _contains(error.message, NO_CAPACITY_PHRASES + FILE_NOT_FOUND_PHRASES)


def _contains(message: str, phrases: Iterable[str]) -> bool:
    return any(phrase in message.lower() for phrase in phrases)
