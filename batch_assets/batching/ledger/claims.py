"""The claim: a run commits its intent to submit, in the transaction that checks the limits and the budget."""

import uuid
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import duckdb

from batch_assets.batching.ledger import states
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.expected_cost import expected_cost
from batch_assets.batching.ledger.spending import Budget, why_over_budget
from batch_assets.batching.ledger.states import AT_THE_API, State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission
from batch_assets.batching.ledger.transitions import (
    CANCELLED_BY_USER,
    change_state,
    holds_requests_that_another_sends,
    is_as_seen,
    withdraw_in,
)
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.elsewhere import is_elsewhere
from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.batching.provider.prices import ModelPrice

# https://developers.openai.com/api/docs/guides/batch: up to 2,000 batches an hour
MAX_BATCHES_AN_HOUR = 2_000
LOOK_AGAIN = timedelta(minutes=5)  # at the latest, for room in the budget; the sensor sees sooner that a batch ended


@dataclass(frozen=True)
class Limits:
    """How much may be in flight, and what it may cost.

    `max_enqueued_tokens` is per model, for all days together; None: no limit. `own_prices` are the user's.
    """

    max_enqueued_tokens: int | None = None
    max_batches_an_hour: int = MAX_BATCHES_AN_HOUR
    budget: Budget = field(default_factory=Budget)
    own_prices: tuple[ModelPrice, ...] = ()


@dataclass(frozen=True)
class Claim:
    """What came of the wish to submit.

    `submission` is set if it is ours now. `was_begun`: an earlier run had claimed it, so its batch may exist.
    Otherwise another run has it, or it has to wait until `wait_until`, or a budget forbids it: `over_budget` says so.
    """

    submission: Submission | None = None
    was_begun: bool = False
    wait_until: datetime | None = None
    over_budget: str | None = None
    is_withdrawn: bool = False


def claim(database: Database, seen: Submission, run_id: str, limits: Limits, api: ApiIdentity) -> Claim:
    """Commit the intent to submit, or take it over from the run that died with it.

    A submission that was begun keeps its claim token, by which its batch can be found. Raises StaleSubmissionError if
    it was begun at another API: only that one can tell whether its batch exists. One whose requests another submission
    has sent, after a backup was put back perhaps, is withdrawn.
    """
    with database.writing() as connection, transaction(connection):
        if not is_as_seen(connection, seen):
            return Claim()
        if seen.state is State.CLAIMED:
            return Claim(_take_over(connection, seen, run_id, api), was_begun=True)
        if seen.is_cancelled:
            withdraw_in(connection, seen, because=CANCELLED_BY_USER)
            return Claim(is_withdrawn=True)
        if holds_requests_that_another_sends(connection, seen):
            withdraw_in(connection, seen, because=None)
            return Claim(is_withdrawn=True)
        wait_until = _room_at(connection, seen, limits, api)
        if wait_until is not None:
            return Claim(wait_until=wait_until)
        expected = expected_cost(connection, seen, api.name, limits.own_prices)
        over_budget = why_over_budget(
            connection,
            limits.budget,
            day=seen.day,
            api=api.name,
            moment=api.now(),
            expected_usd=expected,
            model=seen.model,
            own_prices=limits.own_prices,
        )
        if over_budget is not None:
            return Claim(over_budget=over_budget)
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
            file_id=None if is_elsewhere(seen.api, api) else seen.file_id,  # an upload is known where it was made only
        )
        change_state(
            connection,
            states.CLAIM,
            seen,
            run_id,
            {
                "owner_run": run_id,
                "claim_token": claimed.claim_token,
                "earlier_claim_tokens": list(claimed.earlier_claim_tokens),
                "api": api.name,
                "organization": api.organization,
                "key_fingerprint": api.key_fingerprint,
                "claimed_at": claimed.claimed_at,
                "not_before": None,
                "expected_cost_usd": expected,
                "file_id": claimed.file_id,
            },
        )
        return Claim(claimed)


def _at_another_api(submission: Submission, api: str) -> str:
    return (
        f"{submission.path.name} of {submission.day} was begun at {submission.api}, and the API is {api} now. Only "
        f"{submission.api} can tell whether its batch exists. Set OPENAI_BASE_URL and OPENAI_API_KEY to it again "
        f"or, if it has another address now, run `batch-assets move-api {submission.api} {api}`."
    )


def _take_over(connection: duckdb.DuckDBPyConnection, seen: Submission, run_id: str, api: ApiIdentity) -> Submission:
    if is_elsewhere(seen.api, api):
        raise StaleSubmissionError(_at_another_api(seen, api.name))
    account = {"api": api.name, "organization": api.organization, "key_fingerprint": api.key_fingerprint}
    change_state(connection, states.TAKE_OVER, seen, run_id, {"owner_run": run_id, **account})
    return replace(
        seen,
        owner_run=run_id,
        api=api.name,
        organization=api.organization,
        key_fingerprint=api.key_fingerprint,
    )


def _room_at(
    connection: duckdb.DuckDBPyConnection, wanted: Submission, limits: Limits, api: ApiIdentity
) -> datetime | None:
    """None if it may go out now; otherwise when to look again at the latest."""
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
    enqueued, lately, first = row or (0, 0, None)
    if lately >= limits.max_batches_an_hour:
        return (first or now) + timedelta(hours=1)
    budget = limits.max_enqueued_tokens
    # One that is larger than the budget by itself goes out when nothing else is there: waiting won't shrink it.
    if budget is not None and enqueued and enqueued + wanted.estimated_input_tokens > budget:
        return now + LOOK_AGAIN
    return None
