"""Answers of a day whose other batches still run: OpenAI deletes them after 30 days."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from batch_assets.batching.next_step import Step
from batch_assets.batching.provider.batches import RemoteBatch
from batch_assets.day_events import DEDUP_TAG
from batch_assets.days import read_days
from batch_assets.run_keys import NextRun
from batch_assets_tests.batching.conftest import Call, Reply, proxy
from batch_assets_tests.first_task import openai_batch, summaries
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY
from batch_assets_tests.sensors.support import (
    MAX_ATTEMPTS,
    a_batch,
    a_run,
    has_overdue_answers,
    request_runs,
    requested,
    submitted,
    tick,
)

OVERDUE = (datetime.now(UTC) - timedelta(days=2)).replace(tzinfo=None)
RECENT = (datetime.now(UTC) - timedelta(hours=2)).replace(tzinfo=None)


@pytest.mark.parametrize(
    ("batch", "is_overdue"),
    [
        (RemoteBatch("a", "completed", ended_at=OVERDUE, output_file_id="f"), True),
        (RemoteBatch("a", "expired", ended_at=OVERDUE, output_file_id="f"), True),
        (RemoteBatch("a", "completed", created_at=OVERDUE, output_file_id="f"), True),
        (RemoteBatch("a", "completed", ended_at=RECENT, output_file_id="f"), False),
        (RemoteBatch("a", "failed", ended_at=OVERDUE), False),
        (RemoteBatch("a", "finalizing", created_at=OVERDUE), False),
        (RemoteBatch("a", "missing"), False),
    ],
    ids=["completed", "expired", "no end", "recent", "failed", "finalizing", "missing"],
)
@pytest.mark.parametrize("waiting", [0, 1])
def test_answers_are_overdue_a_day_after_their_batch_ended(
    instance: dg.DagsterInstance, batch: RemoteBatch, is_overdue: bool, waiting: int
) -> None:
    submitted(instance, "a", "b", waiting=waiting, next_attempt_at=datetime.now(UTC) + timedelta(hours=1))
    seen = {"a": batch, "b": RemoteBatch("b", "finalizing")}
    assert has_overdue_answers(read_days(instance)[0], seen, datetime.now(UTC)) is is_overdue


def test_answers_that_ended_long_ago_are_collected_once_a_day_while_a_file_is_deferred(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    """A new submission every hour, without success, neither stops nor repeats the collection."""
    local_api.wait(ended := a_batch(local_api))

    def long_ago(call: Call) -> Reply:
        page = call.forward().json
        for batch in page["data"]:
            batch["completed_at"] -= 2 * 86_400
        return Reply.of(page)

    submit, collect = (DAY, [openai_batch.key]), (DAY, [summaries.key])
    with proxy(local_api.url, long_ago) as client:
        submitted(instance, ended, waiting=1, next_attempt_at=datetime.now(UTC))
        first = tick(instance, str(client.base_url))
        assert requested(first) == [submit, collect]
        a_run(instance, (first.run_requests or [])[1].tags[DEDUP_TAG], dg.DagsterRunStatus.SUCCESS)
        submitted(instance, ended, waiting=1, next_attempt_at=datetime.now(UTC))
        assert requested(tick(instance, str(client.base_url))) == [submit]


def test_the_collection_of_overdue_answers_is_repeated_after_a_failure_and_the_next_day(
    instance: dg.DagsterInstance,
) -> None:
    submitted(instance, "a", "b")
    now = datetime.now(UTC)
    today, tomorrow = (
        NextRun((read_days(instance)[0],), Step.COLLECT_PART, once_on=(now + timedelta(days=days)).date())
        for days in (0, 1)
    )
    a_run(instance, today.dedup_key, dg.DagsterRunStatus.FAILURE)
    later = now + timedelta(hours=1)
    assert len(request_runs(instance, [today], later)[0]) == 1
    a_run(instance, today.dedup_key, dg.DagsterRunStatus.SUCCESS)
    assert request_runs(instance, [today], later) == ([], [])
    assert len(request_runs(instance, [tomorrow], later)[0]) == 1


def test_a_success_ends_the_failures_of_the_collection_of_overdue_answers(instance: dg.DagsterInstance) -> None:
    submitted(instance, "a", "b")
    [day] = read_days(instance)
    now = datetime.now(UTC)
    tomorrow = NextRun((day,), Step.COLLECT_PART, once_on=(now + timedelta(days=1)).date())
    for _ in range(MAX_ATTEMPTS):
        a_run(instance, tomorrow.dedup_key, dg.DagsterRunStatus.FAILURE)
    assert request_runs(instance, [tomorrow], now)[1]
    a_run(instance, tomorrow.dedup_key, dg.DagsterRunStatus.SUCCESS)
    requests, failing = request_runs(instance, [tomorrow], now)
    assert len(requests) == 1
    assert not failing


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED])
def test_a_run_of_another_code_location_does_not_stop_the_collection_of_overdue_answers(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    submitted(instance, "a", "b")
    want = NextRun(tuple(read_days(instance)), Step.COLLECT_PART, once_on=datetime.now(UTC).date())
    a_run(instance, want.dedup_key, status, location="theirs")
    assert len(request_runs(instance, [want], datetime.now(UTC))[0]) == 1
    a_run(instance, want.dedup_key, status)
    assert not request_runs(instance, [want], datetime.now(UTC))[0]
