"""Two runs never own one submission, and limits count the submissions of all runs and days."""

from __future__ import annotations

from datetime import timedelta

import pytest

from batch_assets.batching.ledger import batch_transitions, submissions, transitions, withdrawal
from batch_assets.batching.ledger.claims import Claim, ClaimResult, Limits, claim
from batch_assets.batching.ledger.outcomes import must_requeue
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import StaleSubmissionError, Submission
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.batches import RemoteBatch, RemoteError, now_utc
from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.batching.timing import Timing
from batch_assets_tests.batching.conftest import API, DAY, NEXT_DAY, Workspace
from batch_assets_tests.task_days import of

IDENTITY = ApiIdentity(API)
NO_CAPACITY = RemoteError("token_limit_exceeded", "Enqueued token limit reached for gpt-4.1-nano.")


@pytest.fixture
def planned(workspace: Workspace) -> Workspace:
    """A shard on each of two days."""
    for day in (DAY, NEXT_DAY):
        workspace.ingest({"a": f"text of {day}"}, day=day)
        workspace.plan(day=day)
    return workspace


def the_submission(workspace: Workspace, day: str = DAY) -> Submission:
    (found,) = submissions.unsubmitted(workspace.database, of(day), workspace.folder)
    return found


def claimed(workspace: Workspace, day: str = DAY, limits: Limits | None = None) -> Claim:
    return claim(workspace.database, the_submission(workspace, day), "run", limits or Limits(), IDENTITY)


def submit_without_api(workspace: Workspace, batch_id: str, day: str = DAY) -> Submission:
    """Record a batch that no API has created."""
    submission = claimed(workspace, day).submission
    assert submission is not None
    batch = RemoteBatch(batch_id, "validating", input_file_id="file-in")
    transitions.submit(workspace.database, submission, batch)
    (in_flight,) = submissions.uncollected(workspace.database, of(day), workspace.folder)
    return in_flight


def failed(batch_id: str, *errors: RemoteError) -> RemoteBatch:
    return RemoteBatch(batch_id, "failed", ended_at=now_utc(), errors=errors)


@pytest.mark.parametrize(
    ("code", "message", "is_requeued"),
    [
        ("token_limit_exceeded", "", True),
        ("request_limit_exceeded", "", True),
        ("unknown", "Enqueued request limit reached for gpt-4.1-nano in organization org-1.", True),
        ("x", "The number of enqueued tokens is too large.", True),
        ("invalid_request", "Cannot find file file-1, or organization org-1 does not have access to it.", True),
        ("invalid_json_line", "This line is not parseable as valid JSON.", False),
        ("unknown", "", False),
    ],
)
def test_a_batch_that_openai_had_no_capacity_for_is_requeued(code: str, message: str, is_requeued: bool) -> None:
    error = RemoteError(code, message)
    assert must_requeue(failed("b", error)) is is_requeued
    assert must_requeue(failed("b", RemoteError("other", "Bad line.", 1), error)) is is_requeued
    assert not must_requeue(RemoteBatch("b", "completed", errors=(error,)))


def test_of_two_runs_that_read_the_same_submission_one_claims_it(planned: Workspace) -> None:
    seen = the_submission(planned)
    assert claim(planned.database, seen, "one", Limits(), IDENTITY).submission is not None
    assert claim(planned.database, seen, "other", Limits(), IDENTITY) == Claim(ClaimResult.CHANGED)


def test_a_run_does_not_claim_a_submission_that_was_requeued_after_it_read_it(planned: Workspace) -> None:
    seen = the_submission(planned)
    assert batch_transitions.requeue(
        planned.database, submit_without_api(planned, "b1"), failed("b1", NO_CAPACITY), Timing()
    )
    assert claim(planned.database, seen, "run", Limits(), IDENTITY) == Claim(ClaimResult.CHANGED)


def test_a_requeued_submission_keeps_its_file_and_waits(planned: Workspace) -> None:
    assert batch_transitions.requeue(
        planned.database, submit_without_api(planned, "b1"), failed("b1", NO_CAPACITY), Timing()
    )
    waiting = the_submission(planned)
    assert (waiting.attempt, waiting.file_id, waiting.batch_id) == (2, "file-in", None)
    assert (waiting.earlier_batch_ids, waiting.owner_run, waiting.state) == (("b1",), None, State.DEFERRED)
    assert claimed(planned) == Claim(ClaimResult.NO_CAPACITY, wait_until=waiting.not_before)


def test_a_batch_is_requeued_once(planned: Workspace) -> None:
    in_flight = submit_without_api(planned, "b1")
    assert batch_transitions.requeue(planned.database, in_flight, failed("b1", NO_CAPACITY), Timing())
    assert not batch_transitions.requeue(planned.database, in_flight, failed("b1", NO_CAPACITY), Timing())
    assert the_submission(planned).attempt == 2


def test_requeue_pauses_grow_to_an_hour(planned: Workspace) -> None:
    minutes = []
    for attempt in range(1, 9):
        batch_transitions.requeue(
            planned.database, submit_without_api(planned, f"b{attempt}"), failed(f"b{attempt}", NO_CAPACITY), Timing()
        )
        not_before = the_submission(planned).not_before
        assert not_before is not None
        minutes.append(round((not_before - now_utc()) / timedelta(minutes=1)))
        planned.end_pauses()
    assert minutes == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_file_that_the_api_does_not_find_twice_is_uploaded_again(planned: Workspace) -> None:
    not_found = RemoteError("invalid_request", "Cannot find file file-in, or …")
    batch_transitions.requeue(planned.database, submit_without_api(planned, "b1"), failed("b1", not_found), Timing())
    planned.end_pauses()
    assert the_submission(planned).file_id == "file-in"
    batch_transitions.requeue(planned.database, submit_without_api(planned, "b2"), failed("b2", not_found), Timing())
    assert the_submission(planned).file_id is None


def test_a_cancelled_submission_is_not_requeued(planned: Workspace) -> None:
    in_flight = submit_without_api(planned, "b1")
    transitions.record_cancel_request(planned.database, in_flight)
    assert not batch_transitions.requeue(planned.database, in_flight, failed("b1", NO_CAPACITY), Timing())
    assert submissions.unsubmitted(planned.database, of(DAY), planned.folder) == []
    assert planned.column("SELECT code FROM failed_request") == ["cancelled_by_user"]
    assert planned.plan(resume_cancelled=False).requests == {"cancelled": 1}
    assert planned.plan().requests == {"cancelled": 1}
    assert the_submission(planned).attempt == 1


def test_a_submission_that_another_run_has_claimed_is_not_withdrawn(planned: Workspace) -> None:
    seen = the_submission(planned)
    claimed(planned)
    assert not withdrawal.withdraw(planned.database, seen)
    assert the_submission(planned).owner_run == "run"
    assert withdrawal.withdraw(planned.database, the_submission(planned, NEXT_DAY))


def test_a_submission_with_a_batch_is_not_withdrawn(planned: Workspace) -> None:
    in_flight = submit_without_api(planned, "batch_1")
    with pytest.raises(StaleSubmissionError, match="is not submitted: it cannot be withdrawn"):
        withdrawal.withdraw(planned.database, in_flight)
    assert in_flight.path.exists()
    assert submissions.awaited_batch_ids(planned.database, of(DAY), planned.folder) == ["batch_1"]


def test_the_limit_of_enqueued_tokens_counts_all_days(planned: Workspace) -> None:
    tokens = the_submission(planned).estimated_input_tokens
    submit_without_api(planned, "b1")
    waiting = claimed(planned, NEXT_DAY, Limits(max_enqueued_tokens=2 * tokens - 1))
    assert waiting.submission is None
    assert waiting.wait_until is not None
    assert claimed(planned, NEXT_DAY, Limits(max_enqueued_tokens=2 * tokens)).submission is not None


def test_the_limit_of_enqueued_tokens_is_per_model(planned: Workspace) -> None:
    tokens = the_submission(planned).estimated_input_tokens
    submit_without_api(planned, "b1")
    planned.plan(day=NEXT_DAY, task=Task("gpt-4.1-mini"))
    assert claimed(planned, NEXT_DAY, Limits(max_enqueued_tokens=tokens)).submission is not None


def test_a_file_that_is_larger_than_the_limit_of_enqueued_tokens_is_sent_alone(planned: Workspace) -> None:
    limits = Limits(max_enqueued_tokens=1)
    assert claimed(planned, limits=limits).submission is not None
    assert claimed(planned, NEXT_DAY, limits).submission is None


@pytest.mark.parametrize("status", ["completed", "cancelled"])
def test_the_tokens_of_an_ended_batch_do_not_count_as_enqueued(planned: Workspace, status: str) -> None:
    in_flight = submit_without_api(planned, "b1")
    batch_transitions.record_progress(planned.database, in_flight, RemoteBatch("b1", status))
    assert claimed(planned, NEXT_DAY, Limits(max_enqueued_tokens=1)).submission is not None


def test_the_tokens_of_a_requeued_batch_do_not_count_as_enqueued(planned: Workspace) -> None:
    batch_transitions.requeue(planned.database, submit_without_api(planned, "b1"), failed("b1", NO_CAPACITY), Timing())
    assert claimed(planned, NEXT_DAY, Limits(max_enqueued_tokens=1)).submission is not None


def test_a_batch_over_the_hourly_limit_waits_until_the_first_is_an_hour_old(planned: Workspace) -> None:
    limits = Limits(max_batches_an_hour=1)
    submit_without_api(planned, "b1")
    wait_until = claimed(planned, NEXT_DAY, limits).wait_until
    assert wait_until is not None
    assert timedelta(minutes=59) < wait_until - now_utc() <= timedelta(hours=1)
    planned.execute("UPDATE openai_batch SET claimed_at = claimed_at - INTERVAL 61 MINUTE")
    assert claimed(planned, NEXT_DAY, limits).submission is not None


def test_a_submission_that_its_run_has_claimed_again_is_not_withdrawn(planned: Workspace) -> None:
    seen = the_submission(planned)
    claimed = claim(planned.database, seen, "run", Limits(), IDENTITY).submission
    assert claimed is not None
    assert transitions.release(planned.database, claimed, "no")
    refused = the_submission(planned)
    assert claim(planned.database, refused, "run", Limits(), IDENTITY).submission is not None  # the step's retry
    assert not withdrawal.withdraw(planned.database, refused)
    assert withdrawal.withdraw(planned.database, the_submission(planned))


def test_a_claim_is_taken_over_even_if_the_limits_have_no_capacity(planned: Workspace) -> None:
    """Its batch may exist already: the limits count it, and the run must search for it."""
    assert claimed(planned).submission is not None
    again = claimed(planned, limits=Limits(max_enqueued_tokens=1, max_batches_an_hour=0)).submission
    assert again is not None
    assert again.claimed_at is not None
