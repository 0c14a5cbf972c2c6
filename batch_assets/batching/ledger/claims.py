"""The claim: a run commits its intent to submit, in the transaction that checks the limits and the budget."""

import uuid
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum, auto

import duckdb

from batch_assets.batching.ledger import states
from batch_assets.batching.ledger.change_state import change_state, is_as_seen
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.expected_cost import expected_cost
from batch_assets.batching.ledger.outcomes import CANCELLED_BY_USER
from batch_assets.batching.ledger.spending import Budget, why_over_budget
from batch_assets.batching.ledger.states import AT_THE_API, State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission
from batch_assets.batching.ledger.transitions import holds_requests_that_another_sends
from batch_assets.batching.ledger.withdrawal import withdraw_in
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.elsewhere import elsewhere_message, is_elsewhere
from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.timing import Timing

# https://developers.openai.com/api/docs/guides/batch: up to 2,000 batches an hour
MAX_BATCHES_AN_HOUR = 2_000


@dataclass(frozen=True)
class Limits:
    """How much may be in flight, and what it may cost.

    `max_enqueued_tokens` is per model, for all days together; None: no limit. `own_prices` are the user's.
    """

    max_enqueued_tokens: int | None = None
    max_batches_an_hour: int = MAX_BATCHES_AN_HOUR
    budget: Budget = field(default_factory=Budget)
    own_prices: tuple[ModelPrice, ...] = ()


class ClaimResult(Enum):
    """What a claim ended with."""

    CLAIMED = auto()  # the submission belongs to this run; no batch of it exists
    TAKEN_OVER = auto()  # it belongs to this run; an earlier run had claimed it, so its batch may exist
    CHANGED = auto()  # another run has changed it since it was read
    WITHDRAWN = auto()  # the user has cancelled it, or another submission holds its requests
    DEFERRED = auto()  # no capacity in a limit until `wait_until`
    OVER_BUDGET = auto()  # `message` says which budget


@dataclass(frozen=True)
class Claim:
    """The result, and what belongs to it. `wait_until` is UTC, without zone."""

    result: ClaimResult
    submission: Submission | None = None
    wait_until: datetime | None = None
    message: str = ""


def claim(
    database: Database,
    seen: Submission,
    run_id: str,
    limits: Limits,
    api: ApiIdentity,
    budget_retry: timedelta = Timing.budget_retry,
) -> Claim:
    """Commit the intent to submit, or take it over from an earlier run that ended before it submitted.

    A submission that was begun keeps its claim token, which identifies its batch. Raises StaleSubmissionError if it was
    begun at another API: only that one can tell whether its batch exists. A submission whose requests are in another
    batch, after a backup was restored perhaps, is withdrawn.
    """
    with database.writing() as connection, transaction(connection):
        if not is_as_seen(connection, seen):
            return Claim(ClaimResult.CHANGED)
        if seen.state is State.CLAIMED:
            return Claim(ClaimResult.TAKEN_OVER, _take_over(connection, seen, run_id, api))
        if seen.is_cancelled:
            withdraw_in(connection, seen, because=CANCELLED_BY_USER)
            return Claim(ClaimResult.WITHDRAWN)
        if holds_requests_that_another_sends(connection, seen):
            withdraw_in(connection, seen, because=None)
            return Claim(ClaimResult.WITHDRAWN)
        wait_until = _wait_until(connection, seen, limits, api, budget_retry)
        if wait_until is not None:
            return Claim(ClaimResult.DEFERRED, wait_until=wait_until)
        expected_usd = expected_cost(connection, seen, api.name, limits.own_prices)
        over_budget = why_over_budget(
            connection,
            limits.budget,
            day=seen.day,
            api=api.name,
            moment=api.now(),
            expected_usd=expected_usd,
            model=seen.model,
            own_prices=limits.own_prices,
        )
        if over_budget is not None:
            return Claim(ClaimResult.OVER_BUDGET, message=over_budget)
        return Claim(ClaimResult.CLAIMED, _enter_claim(connection, seen, run_id, api, expected_usd))


def _enter_claim(
    connection: duckdb.DuckDBPyConnection, seen: Submission, run_id: str, api: ApiIdentity, expected_usd: float | None
) -> Submission:
    """The submission with a new claim token. All earlier tokens stay searchable."""
    claimed = replace(
        seen,
        state=State.CLAIMED,
        owner_run=run_id,
        claim_token=uuid.uuid4().hex,
        earlier_claim_tokens=seen.claim_tokens,
        api=api.name,
        key_fingerprint=api.key_fingerprint,
        claimed_at=api.now(),
        not_before=None,
        file_id=None if is_elsewhere(seen.api, api) else seen.file_id,  # no other API knows the upload
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
    change_state(connection, states.CLAIM, seen, run_id, columns)
    return claimed


def _take_over(connection: duckdb.DuckDBPyConnection, seen: Submission, run_id: str, api: ApiIdentity) -> Submission:
    if is_elsewhere(seen.api, api):
        raise StaleSubmissionError(
            elsewhere_message(
                f"A run began {seen.path.name} of {seen.day}",
                seen.api,
                api,
                what_then=f"Only {seen.api} can tell whether its batch exists. Set OPENAI_BASE_URL and OPENAI_API_KEY "
                "to it again.",
            )
        )
    account = {"api": api.name, "organization": api.organization, "key_fingerprint": api.key_fingerprint}
    change_state(connection, states.TAKE_OVER, seen, run_id, {"owner_run": run_id, **account})
    return replace(
        seen,
        owner_run=run_id,
        api=api.name,
        organization=api.organization,
        key_fingerprint=api.key_fingerprint,
    )


def _wait_until(
    connection: duckdb.DuckDBPyConnection,
    wanted: Submission,
    limits: Limits,
    api: ApiIdentity,
    budget_retry: timedelta,
) -> datetime | None:
    """None if the limits have capacity now; otherwise when to try again at the latest (UTC, without zone)."""
    now = now_utc()
    if wanted.not_before is not None and wanted.not_before > now:
        return wanted.not_before
    row = connection.execute(
        """
        SELECT
            coalesce(sum(estimated_input_tokens) FILTER (
                list_contains($at_the_api, state) AND ended_at IS NULL AND model = $model
            ), 0),
            count(*) FILTER (claimed_at > $an_hour_ago),
            min(claimed_at) FILTER (claimed_at > $an_hour_ago)
        FROM openai_batch JOIN batch_request_file USING (submission_id)
        WHERE api IS NULL OR api = $api
        """,
        {
            "model": wanted.model,
            "an_hour_ago": api.now() - timedelta(hours=1),
            "api": api.name,
            "at_the_api": list(AT_THE_API),
        },
    ).fetchone()
    enqueued_tokens, batches_in_an_hour, first = row or (0, 0, None)
    if batches_in_an_hour >= limits.max_batches_an_hour:
        return (first or now) + timedelta(hours=1)
    budget = limits.max_enqueued_tokens
    # A file that is larger than the whole budget is sent when no other is enqueued: it would wait without end.
    if budget is not None and enqueued_tokens and enqueued_tokens + wanted.estimated_input_tokens > budget:
        return now + budget_retry
    return None
