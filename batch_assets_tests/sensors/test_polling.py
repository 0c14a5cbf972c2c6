"""An API that is down, busy, without a list or without progress delays a day, and never loses it."""

import dagster as dg
import pytest

from batch_assets_tests.batching.conftest import Call, Reply, proxy, still_running
from batch_assets_tests.first_task import summaries
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY
from batch_assets_tests.sensors.support import NEXT_DAY, a_batch, later, requested, submitted, tick


def test_progress_is_shown_on_change_and_again_after_a_lost_cursor(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)
    first = tick(instance, local_api.url)
    [observation] = first.asset_events
    assert isinstance(observation, dg.AssetObservation)
    assert observation.partition == DAY
    assert observation.metadata["status"].value == "completed"
    assert observation.metadata["requests_done"].value == 1
    assert not tick(instance, local_api.url, first.cursor).asset_events
    assert len(tick(instance, local_api.url, "not JSON").asset_events) == 1
    assert len(tick(instance, local_api.url, None).asset_events) == 1


def test_a_batch_that_the_api_does_not_know_does_not_stop_the_others(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    submitted(instance, "batch_" + "0" * 32)
    submitted(instance, batch := a_batch(local_api), day=NEXT_DAY)
    local_api.wait(batch)
    assert [day for day, _ in requested(tick(instance, local_api.url))] == [NEXT_DAY]


def test_an_api_that_is_down_skips_a_tick_without_an_error(instance: dg.DagsterInstance) -> None:
    submitted(instance, "batch_" + "0" * 32)
    result = tick(instance, "http://127.0.0.1:9/v1")
    assert not result.run_requests
    assert "could not read the batches" in str(result.skip_reason)


def test_a_busy_api_is_asked_once_a_tick(instance: dg.DagsterInstance) -> None:
    """A retry would sleep for as long as the server asks for, which may be longer than a tick."""
    calls: list[Call] = []

    def refuse(call: Call) -> Reply:
        calls.append(call)
        return Reply.of({"error": {"message": "Slow down."}}, 429)

    submitted(instance, "batch_" + "0" * 32)
    with proxy("", refuse) as client:
        assert "Slow down" in str(tick(instance, str(client.base_url)).skip_reason)
    assert len(calls) == 1


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_day_at_an_api_without_a_list_is_collected(
    instance: dg.DagsterInstance, local_api: LocalApi, status: int
) -> None:
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)

    def answer(call: Call) -> Reply:
        return Reply.of({"error": {"message": "No."}}, status) if call.lists_batches else call.forward()

    with proxy(local_api.url, answer) as client:
        assert requested(tick(instance, str(client.base_url))) == [(DAY, [summaries.key])]


class MovesWhenRetrieved:
    """A server that advances a batch only when a client retrieves it; counts the retrievals."""

    def __init__(self) -> None:
        self.retrieved: list[str] = []

    def __call__(self, call: Call) -> Reply:
        if not call.lists_batches:
            self.retrieved.append(call.path.rsplit("/", 1)[1])
            return call.forward()
        page = call.forward().json
        for batch in page["data"]:
            if batch["id"] not in self.retrieved:
                batch.update(status="in_progress", completed_at=None, output_file_id=None)
                batch["request_counts"]["completed"] = 0
        return Reply.of(page)


def test_a_batch_that_moves_only_when_it_is_retrieved_is_collected(
    instance: dg.DagsterInstance, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)
    server = MovesWhenRetrieved()
    with proxy(local_api.url, server) as client:
        first = tick(instance, str(client.base_url))
        second = tick(instance, str(client.base_url), first.cursor)
        assert not requested(first)
        assert not requested(second)
        assert not server.retrieved  # a batch of which the list shows progress needs no call of its own
        later(monkeypatch, minutes=20)
        assert requested(tick(instance, str(client.base_url), second.cursor)) == [(DAY, [summaries.key])]
    assert server.retrieved == [batch]


def test_batches_that_do_not_move_are_retrieved_a_few_in_each_tick_and_all_in_turn(
    instance: dg.DagsterInstance, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [a_batch(local_api) for _ in range(5)]
    for number, batch in enumerate(batches):
        submitted(instance, batch, day=f"2026-01-{number + 10}")
        local_api.wait(batch)
    monkeypatch.setattr("batch_assets.day_progress.CHECKS_PER_TICK", 2)
    retrieved: list[str] = []

    def never_moves(call: Call) -> Reply:
        if not call.lists_batches:
            retrieved.append(call.path.rsplit("/", 1)[1])
        return still_running(call)

    with proxy(local_api.url, never_moves) as client:
        cursor: str | None = None
        for minute in (0, 20, 21, 22, 23):
            later(monkeypatch, minutes=minute)
            cursor = tick(instance, str(client.base_url), cursor).cursor
    assert sorted(retrieved) == sorted(batches)  # each once: the fifth tick had none left


def test_a_lost_cursor_delays_the_retrieval_of_a_batch_that_does_not_move(
    instance: dg.DagsterInstance, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)
    server = MovesWhenRetrieved()
    with proxy(local_api.url, server) as client:
        tick(instance, str(client.base_url))
        later(monkeypatch, minutes=20)
        lost = tick(instance, str(client.base_url))
        assert not requested(lost)
        later(monkeypatch, minutes=40)
        assert requested(tick(instance, str(client.base_url), lost.cursor)) == [(DAY, [summaries.key])]
