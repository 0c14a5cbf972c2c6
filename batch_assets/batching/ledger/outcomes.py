"""What a failure means: whose failure it is, whether a run may retry it, after which pause, and how often.

`OUTCOMES` is the one table of it, with the codes of OpenAI and of servers that imitate it. Each part of the code that
decides asks it: Python by `outcome_of` and `must_requeue`, SQL by the expressions at the end of this file.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from batch_assets.batching.provider.batches import RemoteBatch, RemoteError
from batch_assets.batching.sql_text import literal
from batch_assets.batching.task_day import TaskDay

CANCELLED_BY_USER = "cancelled_by_user"  # the code of a request that waits until the user plans its day again
# A request that was cancelled before it was in a batch has this, its task and its day in place of a `batch_id`.
CANCELLED_BATCH_ID_PREFIX = "cancelled/"
NO_ANSWER = "no_answer"  # a line with status 200 whose body is no answer
INVALID_ANSWER = "invalid_answer"  # an answer that does not fit the output schema of the task
RESULTS_QUARANTINED = "results_quarantined"  # the result file contradicts its batch, also after 25 hours
RESULTS_GONE = "results_gone"  # the API has deleted the result file before a run has downloaded it
# The image of an article cannot be sent: its file is not there, too large, or none that the API takes.
IMAGE_MISSING, IMAGE_TOO_LARGE, IMAGE_UNUSABLE = "image_missing", "image_too_large", "image_unusable"
# Client errors that may not occur in another attempt: request timeout, conflict, too early, rate limit.
RETRYABLE_CLIENT_ERRORS = (408, 409, 425, 429)
MAX_BATCH_RETRIES = 10  # of a request in batches that failed as a whole: they cost nothing, and may never succeed


# Before each retry after an account error; the last one repeats.
ACCOUNT_PAUSES = tuple(timedelta(minutes=minutes) for minutes in (10, 30, 60, 120, 240))


class Scope(StrEnum):
    """Whose failure it is."""

    REQUEST = "request"  # it costs a round of the request
    BATCH = "batch"  # of the batch as a whole: it costs no round
    ACCOUNT = "account"  # of the key, the organization or the project: it costs no round, and is retried without end
    TASK = "task"  # of the task, in each of its requests: it costs no round, and no run retries it
    FILE = "file"  # of a result file: what it lacks may be billed, so the user decides whether a run buys it again


@dataclass(frozen=True)
class Outcome:
    """What failures with these codes, phrases in the message, or HTTP statuses mean.

    max_failures: of one request, after which it fails; None: BATCH_ASSETS_MAX_ROUNDS decides.
    remedy: what the user can do, in a sentence.
    """

    name: str
    scope: Scope
    is_retryable: bool
    remedy: str
    codes: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    http_statuses: tuple[int, ...] = ()
    max_failures: int | None = None

    def pause(self, earlier: int) -> timedelta:
        """The pause after a failure, if there were so many earlier ones. Only an account error has one."""
        if self.scope is not Scope.ACCOUNT:
            return timedelta(0)
        return ACCOUNT_PAUSES[min(earlier, len(ACCOUNT_PAUSES) - 1)]


INVALID_REQUEST = Outcome(
    "invalid request",
    Scope.REQUEST,
    is_retryable=False,
    remedy="Change the article or the task, and plan the day again; or `batch-assets retry DAY`.",
    http_statuses=tuple(status for status in range(400, 500) if status not in RETRYABLE_CLIENT_ERRORS),
)
# The first outcome that matches counts.
# https://developers.openai.com/api/docs/guides/error-codes and guides/batch; codes of other servers as users saw them.
OUTCOMES: tuple[Outcome, ...] = (
    # First: its message repeats names of the schema, which may have any words. A chat completion has it without a code.
    Outcome(
        "output schema",
        Scope.TASK,
        is_retryable=False,
        remedy="Change the output schema of the task to one that the API accepts, and plan the day again.",
        codes=("invalid_json_schema",),
        phrases=("invalid schema for",),
    ),
    Outcome(
        "capacity",
        Scope.BATCH,
        is_retryable=True,
        remedy="A run sends the batch again when others have ended. A higher limit: OpenAI's page Limits.",
        codes=("token_limit_exceeded", "request_limit_exceeded"),
        phrases=("enqueued token limit", "enqueued request limit", "number of enqueued tokens"),
    ),
    Outcome(
        "file not found",
        Scope.BATCH,
        is_retryable=True,
        remedy="A run sends the batch again, after two attempts with a new upload.",
        phrases=("cannot find file",),
    ),
    Outcome(
        "billing",
        Scope.ACCOUNT,
        is_retryable=True,
        remedy="Check the billing, the credit and the spending limits of the organization and the project.",
        codes=(
            "billing_hard_limit_reached", "billing_not_active", "insufficient_quota", "quota_exceeded",
            "insufficient_balance", "payment_required", "arrearage",
        ),
        phrases=("billing hard limit", "exceeded your current quota", "insufficient balance", "account is not active"),
        http_statuses=(402,),
    ),
    Outcome(
        "model",
        Scope.ACCOUNT,
        is_retryable=True,
        remedy="Give the project access to the model, or set BATCH_ASSETS_MODEL to another one and plan the day again.",
        codes=("model_not_found", "model_not_available", "model_deactivated", "model_unavailable"),
        phrases=("does not have access to model", "is not supported by the batch api"),
        http_statuses=(404,),
    ),
    Outcome(
        "key",
        Scope.ACCOUNT,
        is_retryable=True,
        remedy="Set OPENAI_API_KEY to a valid key.",
        codes=("invalid_api_key", "incorrect_api_key", "invalid_authentication", "expired_api_key"),
        phrases=("incorrect api key",),
        http_statuses=(401,),
    ),
    Outcome(
        "access",
        Scope.ACCOUNT,
        is_retryable=True,
        remedy="Check which organization and project the key belongs to, and what they may use.",
        codes=(
            "access_terminated", "account_deactivated", "organization_deactivated", "project_archived",
            "permission_denied", "insufficient_permissions", "unsupported_country_region_territory",
            "ip_not_authorized",
        ),
        http_statuses=(403,),
    ),
    Outcome(
        "image",
        Scope.REQUEST,
        is_retryable=False,
        remedy="Put an image there that can be sent, and plan the day again.",
        codes=(IMAGE_MISSING, IMAGE_TOO_LARGE, IMAGE_UNUSABLE),
    ),
    Outcome(
        "refused",
        Scope.REQUEST,
        is_retryable=False,
        remedy="Change the article or the prompt, and plan the day again.",
        codes=("content_refused", "content_policy_violation", "content_filter", "request_too_large"),
    ),
    Outcome(
        "used up",
        Scope.REQUEST,
        is_retryable=False,
        remedy="Raise max_output_tokens of the task, and plan the day again.",
        codes=("max_output_tokens",),
    ),
    Outcome(
        "no answer",
        Scope.REQUEST,
        is_retryable=False,
        remedy="The server answered with something else; `quarantined_line` has it. Fix it, then `batch-assets retry "
        "DAY`.",
        codes=(NO_ANSWER,),
    ),
    Outcome(
        "empty answer",
        Scope.REQUEST,
        is_retryable=True,
        remedy="Another round sends the request once more. After that, change the article or the prompt.",
        codes=("empty_answer",),
        max_failures=2,
    ),
    Outcome(
        "invalid answer",
        Scope.REQUEST,
        is_retryable=True,
        remedy="Another round sends the request once more. After that, simplify the output schema, explain it in the "
        "prompt, or choose another model.",
        codes=(INVALID_ANSWER,),
        max_failures=2,
    ),
    Outcome(
        "results",
        Scope.FILE,
        is_retryable=True,
        remedy="`batch-assets retry DAY` buys the requests again.",
        codes=(RESULTS_QUARANTINED, RESULTS_GONE),
    ),
    INVALID_REQUEST,
)  # fmt: skip
OTHER_FAILURE = Outcome(
    "other",
    Scope.REQUEST,
    is_retryable=True,
    remedy="Another round sends the request again.",
)


def cancelled_batch_id(day: TaskDay) -> str:
    """What a request that was cancelled before it was in a batch has in place of a `batch_id`."""
    return f"{CANCELLED_BATCH_ID_PREFIX}{day.task}/{day.day}"


def outcome_of(code: str | None, message: str | None = None, http_status: int | None = None) -> Outcome:
    """What this failure means."""
    text = (message or "").lower()
    for outcome in OUTCOMES:
        has_phrase = any(phrase in text for phrase in outcome.phrases)
        if (code or "").lower() in outcome.codes or has_phrase or http_status in outcome.http_statuses:
            return outcome
    return OTHER_FAILURE


def must_requeue(batch: RemoteBatch) -> bool:
    """Whether the API failed the batch as a whole before it ran a request, and may accept the same file later.

    A batch that has answers or usage is collected instead, whatever its status.
    """
    return batch.status == "failed" and not _has_run(batch) and requeue_outcome(batch.errors) is not None


def requeue_outcome(errors: Iterable[RemoteError]) -> Outcome | None:
    """The outcome for which a run sends the file of a failed batch again; None if its requests failed instead.

    An account error wins: its pauses are longer.
    """
    found = [outcome_of(error.code, error.message) for error in errors]
    shared = [outcome for outcome in found if outcome.scope not in (Scope.REQUEST, Scope.TASK)]
    return next((outcome for outcome in shared if outcome.scope is Scope.ACCOUNT), shared[0] if shared else None)


def has_not_found_its_file(errors: Iterable[RemoteError]) -> bool:
    """Whether OpenAI failed the batch because it did not find the uploaded file."""
    return any(outcome_of(error.code, error.message).name == "file not found" for error in errors)


def _has_run(batch: RemoteBatch) -> bool:
    return bool(batch.output_file_id or batch.completed or batch.input_tokens or batch.output_tokens)


# --- the same in SQL, by the columns `code`, `message` and `http_status` of a failed line


def _matches(outcome: Outcome) -> str:
    conditions = []
    if outcome.codes:
        codes = ", ".join(f"'{code}'" for code in outcome.codes)
        conditions.append(f"lower(code) IN ({codes})")
    conditions += [f"contains(lower(message), '{phrase}')" for phrase in outcome.phrases]
    if outcome.http_statuses:
        conditions.append(f"http_status IN ({', '.join(map(str, outcome.http_statuses))})")
    return f"coalesce({' OR '.join(conditions)}, false)"


def _case(value_of: Callable[[Outcome], str]) -> str:
    whens = "\n".join(f"WHEN {_matches(outcome)} THEN {value_of(outcome)}" for outcome in OUTCOMES)
    return f"CASE {whens} ELSE {value_of(OTHER_FAILURE)} END"


# Whether a failed request may be sent again. `requests` then applies the limit of rounds.
IS_RETRYABLE = _case(lambda outcome: str(outcome.is_retryable).lower())
# 'request', 'batch', 'account', 'task' or 'file'.
SCOPE = _case(lambda outcome: literal(outcome.scope))
# What the user can do about a failure.
REMEDY = _case(lambda outcome: literal(outcome.remedy))
# What the user can do about an error of the account or of the task; NULL for any other failure.
SHARED_REMEDY = _case(
    lambda outcome: literal(outcome.remedy) if outcome.scope in (Scope.ACCOUNT, Scope.TASK) else "NULL"
)
# An aggregate over the failures of one request: whether those of one outcome are as many as it allows.
IS_USED_UP = " OR ".join(
    f"count(*) FILTER ({_matches(outcome)}) >= {outcome.max_failures}" for outcome in OUTCOMES if outcome.max_failures
)
ACCOUNT_PAUSES_SQL = (
    "[" + ", ".join(f"INTERVAL {pause // timedelta(minutes=1)} MINUTE" for pause in ACCOUNT_PAUSES) + "]"
)
