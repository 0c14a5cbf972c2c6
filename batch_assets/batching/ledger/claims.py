"""The claim: a run records that it will submit, in the transaction that checks the limits and the budget.

So two live runs never submit the same request file, and together they never exceed a limit or a budget. If Dagster
reports a run as ended that still creates a batch, `_record_batch` in `submission/submit.py` cancels the second batch.
Times of a claim are the API's, where the API tells the time; `wait_until` is by our clock.
"""

import uuid
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import NamedTuple

import duckdb

from batch_assets.batching.ledger import states
from batch_assets.batching.ledger.change_state import change_state, is_unchanged
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.expected_cost import expected_cost
from batch_assets.batching.ledger.in_flight import has_requests_in_another_batch
from batch_assets.batching.ledger.outcomes import CANCELLED_BY_USER
from batch_assets.batching.ledger.spending import Budget, why_over_budget
from batch_assets.batching.ledger.states import ENQUEUED, State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission
from batch_assets.batching.ledger.withdrawal import withdraw_in_transaction
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.elsewhere import is_at_other_api, other_api_message
from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.timing import Timing

# https://developers.openai.com/api/docs/guides/batch: up to 2,000 batches an hour
MAX_BATCHES_AN_HOUR = 2_000


@dataclass(frozen=True)
class Limits:
    """How much may be in flight, and what it may cost.

    `max_enqueued_tokens` is per model, for all days together; None: no limit. `own_prices` are the user's own prices.
    """

    max_enqueued_tokens: int | None = None
    max_batches_an_hour: int = MAX_BATCHES_AN_HOUR
    budget: Budget = field(default_factory=Budget)
    own_prices: tuple[ModelPrice, ...] = ()


class ClaimResult(Enum):
    """How a claim ended."""

    CLAIMED = auto()  # this run owns the submission; no batch of it exists
    TAKEN_OVER = auto()  # this run owns it; an earlier run had claimed it, so its batch may exist
    CHANGED = auto()  # another run has changed it since this run read it
    WITHDRAWN = auto()  # the user has cancelled it, or another batch has one of its requests
    NO_CAPACITY = auto()  # in a limit, until `wait_until`; the state does not change
    OVER_BUDGET = auto()  # `message` says which budget


@dataclass(frozen=True)
class Claim:
    """The result of a claim, with its details. `wait_until` is UTC, without zone."""

    result: ClaimResult
    submission: Submission | None = None
    wait_until: datetime | None = None
    message: str = ""


def claim(
    database: Database,
    submission: Submission,
    run_id: str,
    limits: Limits,
    api: ApiIdentity,
    capacity_retry: timedelta = Timing.capacity_retry,
) -> Claim:
    """Claim a planned or deferred submission, or take over one that an earlier run claimed and did not submit.

    `submission` is as the caller read it. A submission that is taken over keeps its claim token, which identifies its
    batch. Raises StaleSubmissionError if it was claimed for another API: only that API knows whether its batch exists.
    A submission with a request that is in another batch is withdrawn; a restored backup can have one.
    """
    with database.writing() as connection, transaction(connection):
        if not is_unchanged(connection, submission):
            return Claim(ClaimResult.CHANGED)
        if submission.state is State.CLAIMED:
            return Claim(ClaimResult.TAKEN_OVER, _take_over(connection, submission, run_id, api))
        if submission.is_cancelled:
            withdraw_in_transaction(connection, submission, because=CANCELLED_BY_USER)
            return Claim(ClaimResult.WITHDRAWN)
        if has_requests_in_another_batch(connection, submission):
            withdraw_in_transaction(connection, submission, because=None)
            return Claim(ClaimResult.WITHDRAWN)
        wait_until = _wait_until(connection, submission, limits, api, capacity_retry)
        if wait_until is not None:
            return Claim(ClaimResult.NO_CAPACITY, wait_until=wait_until)
        expected_usd = expected_cost(connection, submission, api.name, limits.own_prices)
        over_budget = why_over_budget(
            connection,
            limits.budget,
            day=submission.task_day,
            api=api.name,
            moment=api.now(),
            expected_usd=expected_usd,
            model=submission.model,
            own_prices=limits.own_prices,
        )
        if over_budget is not None:
            return Claim(ClaimResult.OVER_BUDGET, message=over_budget)
        return Claim(ClaimResult.CLAIMED, _record_claim(connection, submission, run_id, api, expected_usd))


def _take_over(
    connection: duckdb.DuckDBPyConnection, submission: Submission, run_id: str, api: ApiIdentity
) -> Submission:
    if is_at_other_api(submission.api, api):
        raise StaleSubmissionError(
            other_api_message(
                f"A run began to submit {submission.path.name} of {submission.day}",
                submission.api,
                api,
                what_then=f"Only {submission.api} knows whether its batch exists. Set OPENAI_BASE_URL and "
                "OPENAI_API_KEY to it again.",
            )
        )
    owner = {
        "owner_run": run_id,
        "api": api.name,
        "organization": api.organization,
        "key_fingerprint": api.key_fingerprint,
    }
    change_state(connection, states.TAKE_OVER, submission, run_id, owner)
    return replace(
        submission,
        owner_run=run_id,
        api=api.name,
        organization=api.organization,
        key_fingerprint=api.key_fingerprint,
    )


class _CapacityUse(NamedTuple):
    """What the submissions of all days use of an API's limits."""

    enqueued_tokens: int  # of one model
    batches_in_an_hour: int
    first_claimed_at: datetime | None  # of these batches


def _wait_until(
    connection: duckdb.DuckDBPyConnection,
    submission: Submission,
    limits: Limits,
    api: ApiIdentity,
    capacity_retry: timedelta,
) -> datetime | None:
    """None if the limits have capacity now; otherwise when to try again at the latest (UTC, without zone)."""
    now = now_utc()
    if submission.not_before is not None and submission.not_before > now:
        return submission.not_before
    used = _capacity_use(connection, submission.model, api)
    if used.batches_in_an_hour >= limits.max_batches_an_hour:
        return (used.first_claimed_at or now) + timedelta(hours=1)
    limit = limits.max_enqueued_tokens
    # A file that is larger than the whole limit is sent when no other is enqueued. Otherwise it would wait without end.
    if limit is not None and used.enqueued_tokens and used.enqueued_tokens + submission.estimated_input_tokens > limit:
        return now + capacity_retry
    return None


def _capacity_use(connection: duckdb.DuckDBPyConnection, model: str, api: ApiIdentity) -> _CapacityUse:
    row = connection.execute(
        """
        SELECT
            coalesce(sum(estimated_input_tokens) FILTER (
                list_contains($enqueued, state) AND ended_at IS NULL AND model = $model
            ), 0),
            count(*) FILTER (claimed_at > $an_hour_ago),
            min(claimed_at) FILTER (claimed_at > $an_hour_ago)
        FROM openai_batch JOIN batch_request_file USING (submission_id)
        WHERE api IS NULL OR api = $api
        """,
        {
            "model": model,
            "an_hour_ago": api.now() - timedelta(hours=1),
            "api": api.name,
            "enqueued": list(ENQUEUED),
        },
    ).fetchone()
    assert row is not None  # an aggregate without GROUP BY has one row
    return _CapacityUse(*row)


def _record_claim(
    connection: duckdb.DuckDBPyConnection,
    submission: Submission,
    run_id: str,
    api: ApiIdentity,
    expected_usd: float | None,
) -> Submission:
    """The submission with a new claim token. Searches still find the batches of its earlier tokens."""
    claimed = replace(
        submission,
        state=State.CLAIMED,
        owner_run=run_id,
        claim_token=uuid.uuid4().hex,
        earlier_claim_tokens=submission.claim_tokens,
        api=api.name,
        key_fingerprint=api.key_fingerprint,
        claimed_at=api.now(),
        not_before=None,
        file_id=None if is_at_other_api(submission.api, api) else submission.file_id,  # one API knows an upload
    )
    columns = {
        "owner_run": run_id,
        "claim_token": claimed.claim_token,
        "earlier_claim_tokens": list(claimed.earlier_claim_tokens),
        "api": api.name,
        "organization": api.organization,
        "key_fingerprint": api.key_fingerprint,
        "claimed_at": claimed.claimed_at,
        "not_before": None,
        "expected_cost_usd": expected_usd,
        "file_id": claimed.file_id,
    }
    change_state(connection, states.CLAIM, submission, run_id, columns)
    return claimed
