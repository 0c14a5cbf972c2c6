"""Guards against a cancelled day that goes on, or loses what was paid for, and a batch by hand that is paid twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import openai
import pytest

from batch_assets.batching.adoption import AdoptionError, adopt_batch
from batch_assets.batching.control import Cancelled, cancel_day, stop_submitting
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.shards import ShardWriter
from batch_assets_tests.batching.conftest import API, DAY, NEXT_DAY, FailsFirst, Workspace, proxy
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api_client import LocalApi


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[LocalApi]:
    """An API that takes 30 ms for a request, one after the other."""
    with serving(tmp_path / "slow", engine="instant", latency_seconds=0.03, concurrency=1) as running:
        yield running


def cancel(workspace: Workspace, client: openai.OpenAI, day: str = DAY) -> Cancelled:
    return cancel_day(workspace.database, client, day=day, data_folder=workspace.folder)


def adopt(workspace: Workspace, client: openai.OpenAI, batch_id: str) -> list[str]:
    return adopt_batch(workspace.database, client, batch_id=batch_id, data_folder=workspace.folder)


def texts(workspace: Workspace, names: str) -> dict[str, str]:
    return {name: f"{name} of {workspace.folder.name}" for name in names}


def batch_by_hand(client: openai.OpenAI, path: Path) -> str:
    """As by web page or curl: nothing says that it is ours."""
    with path.open("rb") as file:
        file_id = client.files.create(file=("renamed.jsonl", file), purpose="batch").id
    return client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h").id


def one_request_per_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_assets.batching.requests.ShardWriter", partial(ShardWriter, max_requests=1))


def test_a_cancelled_day_keeps_what_is_answered_and_sends_the_rest_only_when_asked(
    workspace: Workspace, slow: LocalApi
) -> None:
    workspace.ingest({f"{number:02d}": f"text {number}" for number in range(20)})
    workspace.plan()
    (batch_id,) = workspace.submit(slow.client).batch_ids
    while slow.stats()["requests_executed"] < 3:
        time.sleep(0.01)
    assert cancel(workspace, slow.client) == Cancelled(stopped=1)
    assert slow.wait(batch_id).status == "cancelled"
    workspace.collect(slow.client)
    paid = slow.stats()["requests_executed"]
    assert 3 <= paid < 20
    assert workspace.statuses() == {"cancelled": 20 - paid, "answered": paid}

    assert workspace.plan(resume_cancelled=False).shards == []
    assert workspace.submit(slow.client).created == 0
    assert sum(shard.requests for shard in workspace.plan().shards) == 20 - paid
    workspace.whole_day(slow)
    assert workspace.statuses() == {"answered": 20}
    assert slow.stats()["requests_executed"] == 20


def test_cancelling_costs_no_round(workspace: Workspace, slow: LocalApi) -> None:
    workspace.ingest(texts(workspace, "abcdefghij"))
    for _ in range(2):
        workspace.plan(max_rounds=1)
        (batch_id,) = workspace.submit(slow.client).batch_ids
        cancel(workspace, slow.client)
        slow.wait(batch_id)
        workspace.collect(slow.client, max_rounds=1)
        assert "failed" not in workspace.statuses()


def test_shards_that_wait_are_withdrawn(workspace: Workspace, slow: LocalApi, monkeypatch: pytest.MonkeyPatch) -> None:
    one_request_per_file(monkeypatch)
    workspace.ingest(texts(workspace, "abc"))
    workspace.plan()
    submitted = workspace.submit(slow.client, limits=Limits(max_enqueued_tokens=1))
    assert (submitted.created, submitted.deferred) == (1, 2)
    done = cancel(workspace, slow.client)
    assert (done.stopped + done.had_ended, done.withdrawn) == (1, 2)
    assert str(done).endswith("goes out when `batch_request_file` is materialized again.")
    slow.wait(submitted.batch_ids[0])
    workspace.collect(slow.client)
    assert workspace.statuses()["cancelled"] >= 2
    assert workspace.submit(slow.client).created == 0
    assert slow.stats()["batches_created"] == 1
    workspace.whole_day(slow)
    assert workspace.statuses() == {"answered": 3}
    assert slow.stats()["requests_executed"] == 3


def test_what_had_ended_is_collected_as_ever(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(texts(workspace, "ab"))
    workspace.plan()
    api.wait(workspace.submit(api.client).batch_ids[0])
    assert cancel(workspace, api.client) == Cancelled(had_ended=1)
    workspace.collect(api.client)
    assert workspace.statuses() == {"answered": 2}
    assert cancel(workspace, api.client) == Cancelled()


def test_a_batch_that_had_no_room_does_not_go_out_again_after_a_cancel(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(texts(workspace, "ab"))
    workspace.plan()
    with proxy(api.url, FailsFirst("token_limit_exceeded", "Enqueued token limit reached.")) as client:
        api.wait(workspace.submit(client).batch_ids[0])
        assert cancel(workspace, client) == Cancelled(had_ended=1)
        assert workspace.submit(client).created == 0
        workspace.collect(client)
    assert workspace.statuses() == {"cancelled": 2}
    assert api.stats()["batches_created"] == 1


def test_another_days_batch_that_holds_an_equal_article_goes_on(workspace: Workspace, slow: LocalApi) -> None:
    workspace.ingest(texts(workspace, "abc"))
    workspace.ingest(texts(workspace, "a"), day=NEXT_DAY)
    workspace.plan()
    workspace.plan(day=NEXT_DAY)
    (batch_id,) = workspace.submit(slow.client).batch_ids
    assert cancel(workspace, slow.client, NEXT_DAY) == Cancelled()
    assert slow.wait(batch_id).status == "completed"
    for day in (DAY, NEXT_DAY):
        workspace.collect(slow.client, day=day)
    assert (workspace.statuses(), workspace.statuses(NEXT_DAY)) == ({"answered": 3}, {"answered": 1})


def test_an_intent_whose_batch_is_not_known_is_looked_for_and_not_made(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(texts(workspace, "a"))
    workspace.plan()
    workspace.execute(
        "UPDATE openai_batch SET state = 'claimed', owner_run = 'dead', claim_token = 'theirs', claimed_at = now()"
    )
    assert cancel(workspace, api.client) == Cancelled(unknown=1)
    assert "1 submissions may be under way" in str(Cancelled(unknown=1))
    assert workspace.submit(api.client).created == 0
    workspace.collect(api.client)
    assert workspace.statuses() == {"cancelled": 1}


def test_a_cancelled_shard_that_waited_holds_up_no_other_day(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(texts(workspace, "ab"))
    workspace.plan()
    workspace.ingest(texts(workspace, "ac"), day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY)
    assert cancel(workspace, api.client) == Cancelled(withdrawn=1)
    workspace.plan(day=NEXT_DAY, resume_cancelled=False)
    for batch_id in workspace.submit(api.client, day=NEXT_DAY).batch_ids:
        api.wait(batch_id)
    workspace.collect(api.client, day=NEXT_DAY)
    assert workspace.statuses(NEXT_DAY) == {"answered": 2}
    workspace.collect(api.client)
    assert workspace.statuses() == {"answered": 1, "cancelled": 1}


def test_after_a_terminated_run_what_is_made_is_found_and_nothing_more_goes_out(
    workspace: Workspace, api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four files one is a batch, one may be a batch and is, one may be and isn't, and one was never begun."""
    one_request_per_file(monkeypatch)
    workspace.ingest(texts(workspace, "abcd"))
    workspace.plan()
    workspace.submit(api.client, limits=Limits(max_batches_an_hour=2))
    first, second = workspace.column("SELECT batch_id FROM openai_batch WHERE batch_id IS NOT NULL ORDER BY shard")
    workspace.execute(
        """
        UPDATE openai_batch SET state = 'claimed', owner_run = 'ended', batch_id = NULL WHERE batch_id = ?
        """,
        [second],
    )
    workspace.execute(
        """
        UPDATE openai_batch SET state = 'claimed', owner_run = 'ended', claim_token = 'of a batch that is not',
            api = ?, claimed_at = now()
        WHERE shard = (SELECT min(shard) FROM openai_batch WHERE state = 'planned')
        """,
        [API],
    )
    assert stop_submitting(workspace.database, day=DAY, data_folder=workspace.folder) == (1, 2)
    submitted = workspace.submit(api.client)
    assert (submitted.batch_ids, submitted.created, submitted.adopted) == ([first, second], 0, 1)
    for batch_id in submitted.batch_ids:
        api.wait(batch_id)
    workspace.collect(api.client)
    assert workspace.statuses() == {"answered": 2, "cancelled": 2}
    assert workspace.plan(resume_cancelled=False).shards == []
    workspace.whole_day(api)
    assert workspace.statuses() == {"answered": 4}
    assert api.stats()["requests_executed"] == 4


def test_refresh_buys_exactly_the_days_requests_again(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(texts(workspace, "abc"))
    workspace.ingest(texts(workspace, "cxy"), day=NEXT_DAY)
    for day in (DAY, NEXT_DAY):
        workspace.whole_day(api, day=day)
    assert api.stats()["requests_executed"] == 5
    assert sum(shard.requests for shard in workspace.plan(refresh=True).shards) == 3
    for batch_id in workspace.submit(api.client).batch_ids:
        api.wait(batch_id)
    workspace.collect(api.client)
    assert workspace.statuses() == {"answered": 3}
    workspace.whole_day(api, day=NEXT_DAY)
    assert workspace.statuses(NEXT_DAY) == {"answered": 3}
    assert api.stats()["requests_executed"] == 8


def test_refresh_does_not_buy_again_what_is_in_flight(workspace: Workspace, slow: LocalApi) -> None:
    workspace.ingest(texts(workspace, "abcd"))
    workspace.plan()
    workspace.submit(slow.client)
    assert workspace.plan(refresh=True).shards == []


def test_a_batch_by_hand_finds_its_articles_and_nothing_is_executed_twice(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(texts(workspace, "abc"))
    workspace.plan()
    by_hand = batch_by_hand(api.client, workspace.request_files()[0])
    assert adopt(workspace, api.client, by_hand) == [DAY]
    assert workspace.submit(api.client).batch_ids == [by_hand]
    api.wait(by_hand)
    workspace.whole_day(api)
    assert workspace.statuses() == {"answered": 3}
    assert api.stats() == {**api.stats(), "batches_created": 1, "requests_executed": 3}


def test_an_adopted_batch_may_hold_a_part_of_a_day_and_of_another(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(texts(workspace, "abc"))
    workspace.ingest(texts(workspace, "xy"), day=NEXT_DAY)
    for day in (DAY, NEXT_DAY):
        workspace.plan(day=day)
    first, second = (path.read_bytes().splitlines(keepends=True) for path in workspace.request_files())
    part = workspace.folder / "part.jsonl"
    part.write_bytes(first[0] + second[0])
    by_hand = batch_by_hand(api.client, part)
    assert adopt(workspace, api.client, by_hand) == [DAY, NEXT_DAY]
    api.wait(by_hand)
    for day in (DAY, NEXT_DAY):
        workspace.whole_day(api, day=day)
    assert (workspace.statuses(), workspace.statuses(NEXT_DAY)) == ({"answered": 3}, {"answered": 2})
    assert api.stats()["requests_executed"] == 5


def test_what_an_adopted_batch_did_not_answer_is_pending(workspace: Workspace, slow: LocalApi) -> None:
    workspace.ingest(texts(workspace, "abcdefghij"))
    workspace.plan()
    by_hand = batch_by_hand(slow.client, workspace.request_files()[0])
    slow.client.batches.cancel(by_hand)
    slow.wait(by_hand)
    adopt(workspace, slow.client, by_hand)
    workspace.collect(slow.client)
    assert workspace.statuses()["pending"] >= 8
    workspace.whole_day(slow)
    assert workspace.statuses() == {"answered": 10}
    assert slow.stats()["requests_executed"] == 10


def test_a_batch_is_adopted_once_and_our_own_never(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(texts(workspace, "ab"))
    workspace.plan()
    (own,) = workspace.submit(api.client).batch_ids
    by_hand = batch_by_hand(api.client, workspace.request_files()[0])
    for _ in range(2):  # the sensor may not have heard of it the first time
        assert adopt(workspace, api.client, by_hand) == [DAY]
    assert len(workspace.column("SELECT 1 FROM openai_batch WHERE batch_id = ?", [by_hand])) == 1
    with pytest.raises(AdoptionError, match=f"{own} was made by a run of ours, for {DAY}"):
        adopt(workspace, api.client, own)
    # nor while the ledger does not know it yet, since the answer to its creation was lost
    workspace.execute("UPDATE openai_batch SET state = 'claimed', batch_id = NULL WHERE batch_id = ?", [own])
    with pytest.raises(AdoptionError, match=f"{own} was made by a run of ours, for {DAY}"):
        adopt(workspace, api.client, own)


FOREIGN_LINE = b'{"custom_id": "theirs", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}}\n'


@pytest.mark.parametrize("content", [FOREIGN_LINE, FOREIGN_LINE + b"not JSON\n", b'{"a": 1}\n'])
def test_a_foreign_batch_is_not_adopted(workspace: Workspace, api: LocalApi, content: bytes) -> None:
    workspace.ingest(texts(workspace, "a"))
    workspace.plan()
    path = workspace.folder / "foreign.jsonl"
    path.write_bytes(content)
    foreign = batch_by_hand(api.client, path)
    with pytest.raises(AdoptionError, match=r"None of the requests of .* unchanged, and under the present prompt\?"):
        adopt(workspace, api.client, foreign)
    assert workspace.rows("SELECT state, batch_id FROM openai_batch") == [("planned", None)]
    assert workspace.submit(api.client).created == 1


def test_a_batch_that_openai_does_not_know_is_not_adopted(workspace: Workspace, api: LocalApi) -> None:
    with pytest.raises(AdoptionError, match="OpenAI knows no batch batch_none"):
        adopt(workspace, api.client, "batch_none")


def test_a_cancelled_day_does_not_hold_up_another_one_with_an_equal_article(
    workspace: Workspace, tmp_path: Path
) -> None:
    shared = f"shared by both days of {workspace.folder.name}"
    with serving(tmp_path / "slow", latency_seconds=2, concurrency=1) as slow:
        for day in (DAY, NEXT_DAY):
            others = {f"{day} {number}": f"{day} {number} {shared}" for number in range(3)}
            workspace.ingest({"a": shared} if day != DAY else {**others, "z": shared}, day=day)
            workspace.plan(day=day)
            workspace.submit(slow.client, day=day)
        cancel(workspace, slow.client)
        for (batch_id,) in workspace.rows("SELECT batch_id FROM openai_batch"):
            slow.wait(batch_id)
        for day in (DAY, NEXT_DAY):
            workspace.collect(slow.client, day=day)
    assert workspace.rows("SELECT status FROM summaries WHERE article_id = 'z'") == [("cancelled",)]
    assert workspace.statuses(NEXT_DAY) == {"pending": 1}
