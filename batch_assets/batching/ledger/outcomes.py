"""What a failure means: may it be retried, and does the request file go out again as it is."""

from collections.abc import Iterable

from batch_assets.batching.provider.batches import RemoteBatch, RemoteError

CANCELLED_BY_USER = "cancelled_by_user"  # the code of a request that waits until the user plans its day again
# Client errors that another attempt may not meet: request timeout, conflict, too early, rate limit.
RETRYABLE_CLIENT_ERRORS = (408, 409, 425, 429)
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
    has_failed = batch.status == "failed" and any(_is_passing(error) for error in batch.errors)
    return has_failed and not has_run


def has_not_found_its_file(errors: Iterable[RemoteError]) -> bool:
    """Whether OpenAI failed the batch because it did not find the uploaded file."""
    return any(_contains(error.message, FILE_NOT_FOUND_PHRASES) for error in errors)


def _is_passing(error: RemoteError) -> bool:
    return error.code in NO_CAPACITY_CODES or _contains(error.message, NO_CAPACITY_PHRASES + FILE_NOT_FOUND_PHRASES)


def _contains(message: str, phrases: Iterable[str]) -> bool:
    return any(phrase in message.lower() for phrase in phrases)
