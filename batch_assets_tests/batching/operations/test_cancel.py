"""Guards against a cancelled day that goes on or loses billed answers, and an adopted batch that is bought twice."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.operations.cancel import Cancelled, cancel_day, stop_submitting
from batch_assets.batching.submission.adoption import AdoptionError, adopt_batch
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets_tests.batching.conftest import (
    API,
    CUT,
    DAY,
    ELSEWHERE,
    NEXT_DAY,
    TASK,
    Call,
    FailsFirst,
    Reply,
    Workspace,
    hiding_batches,
    proxy,
    refusing_to_cancel,
    with_api_name,
)
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[LocalApi]:
    """An API that takes 30 ms for a request, one after the other."""
    with serving(tmp_path / "slow", engine="instant", latency_seconds=0.03, concurrency=1) as running:
        yield running


def cancel(workspace: Workspace, client: openai.OpenAI, day: str = DAY) -> Cancelled:
    return cancel_day(workspace.database, client, day=of(day), data_folder=workspace.folder)


def adopt(workspace: Workspace, client: openai.OpenAI, batch_id: str) -> list[str]:
    days = adopt_batch(workspace.database, client, batch_id=batch_id, data_folder=workspace.folder)
    return [day for _, day in days]


def create_as_a_user(client: openai.OpenAI, path: Path) -> str:
    """As on OpenAI's page or with curl: its metadata has nothing of ours."""
    with path.open("rb") as file:
        file_id = client.files.create(file=("renamed.jsonl", file), purpose="batch").id
    return client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h").id


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
    workspace.ingest(workspace.texts("abcdefghij"))
    for _ in range(2):
        workspace.plan(max_rounds=1)
        (batch_id,) = workspace.submit(slow.client).batch_ids
        cancel(workspace, slow.client)
        slow.wait(batch_id)
        workspace.collect(slow.client, max_rounds=1)
        assert "failed" not in workspace.statuses()


def test_deferred_files_are_withdrawn(workspace: Workspace, slow: LocalApi) -> None:
    workspace = workspace.with_file_limits(max_requests=1)
    workspace.ingest(workspace.texts("abc"))
    workspace.plan()
    submitted = workspace.submit(slow.client, limits=Limits(max_enqueued_tokens=1))
    assert (submitted.created, submitted.deferred) == (1, 2)
    done = cancel(workspace, slow.client)
    assert (done.stopped + done.had_ended, done.withdrawn) == (1, 2)
    assert str(done).endswith("after you materialize `batch_request_file` and `openai_batch` again.")
    slow.wait(submitted.batch_ids[0])
    workspace.collect(slow.client)
    assert workspace.statuses()["cancelled"] >= 2
    assert workspace.submit(slow.client).created == 0
    assert slow.stats()["batches_created"] == 1
    workspace.whole_day(slow)
    assert workspace.statuses() == {"answered": 3}
    assert slow.stats()["requests_executed"] == 3


def test_a_batch_that_had_ended_is_collected(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    api.wait(workspace.submit(api.client).batch_ids[0])
    assert cancel(workspace, api.client) == Cancelled(had_ended=1)
    workspace.collect(api.client)
    assert workspace.statuses() == {"answered": 2}
    assert cancel(workspace, api.client) == Cancelled()


def recorded(
    cancels: list[str], answer: Callable[[Call], Reply | None] = Call.forward
) -> Callable[[Call], Reply | None]:
    """The API, and which batches it was asked to cancel."""

    def note(call: Call) -> Reply | None:
        cancels.extend([call.path] if call.path.endswith("/cancel") else [])
        return answer(call)

    return note


@pytest.mark.parametrize("name", [ELSEWHERE, "local", "local+other"])
def test_a_batch_at_another_api_is_not_cancelled_and_the_user_gets_its_api(
    workspace: Workspace, slow: LocalApi, name: str
) -> None:
    """There, the id may belong to another batch; and this one goes on and costs money."""
    workspace.ingest({f"{number}": f"{number} of {workspace.folder.name}" for number in range(200)})
    workspace.plan()
    (batch_id,) = workspace.submit(slow.client).batch_ids
    cancels: list[str] = []
    with proxy(slow.url, with_api_name(name, recorded(cancels))) as client:
        done = cancel(workspace, client)
    assert cancels == []
    assert (done.stopped, done.had_ended, done.not_found) == (0, 0, [])
    (sentence,) = done.elsewhere
    assert sentence in str(done)
    assert f"{batch_id} of {DAY} was made at {API}, and the API is {name} now." in sentence
    assert "It goes on and costs" in sentence
    assert f"batch-assets move-api {API} {name}" in sentence
    assert cancel(workspace, slow.client) == Cancelled(stopped=1)


def test_a_batch_that_the_api_does_not_find_is_not_reported_as_ended(workspace: Workspace, slow: LocalApi) -> None:
    """It may belong to another account, and go on there."""
    workspace.ingest({f"{number}": f"{number} of {workspace.folder.name}" for number in range(200)})
    workspace.plan()
    (batch_id,) = workspace.submit(slow.client).batch_ids
    for _ in range(2):
        with proxy(slow.url, hiding_batches(batch_id)) as client:
            done = cancel(workspace, client)
            assert done == Cancelled(not_found=[batch_id])
            assert f"does not find {batch_id} with the present key: it may go on and cost" in str(done)
            workspace.collect(client)
    assert cancel(workspace, slow.client) == Cancelled(stopped=1)
    slow.wait(batch_id)
    workspace.collect(slow.client)
    assert workspace.statuses()["cancelled"] >= 1


HOURS_AGO, DAYS_AGO = (int(time.time()) - seconds for seconds in (2 * 3600, 4 * 86_400 + 3600))


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"status": "finalizing", "finalizing_at": DAYS_AGO}, r"finalizing since [\d-]+ [\d:]+ UTC \(4 days\)\."),
        ({"status": "finalizing", "finalizing_at": HOURS_AGO}, r"finalizing since [\d-]+ [\d:]+ UTC\."),
        ({"status": "cancelling", "cancelling_at": int(time.time())}, r"cancelling since [\d-]+ [\d:]+ UTC\."),
        ({"status": "in_progress", "in_progress_at": DAYS_AGO}, r"in_progress since [\d-]+ [\d:]+ UTC \(4 days\)\."),
        ({"status": "paused", "created_at": DAYS_AGO}, r"paused, and it was created on [\d-]+ [\d:]+ UTC \(4 days\)\."),
        ({"status": "finalizing", "finalizing_at": "soon", "created_at": None}, r"finalizing\."),
        ({"status": "\x1b[2Jodd\n", "created_at": None}, r"\[2jodd\s*\."),
        ({"status": None, "created_at": None}, r"not known\."),
    ],
)
def test_a_batch_that_the_api_refuses_to_cancel_is_reported_with_its_status(
    workspace: Workspace, api: LocalApi, fields: dict[str, Any], shown: str
) -> None:
    """Once, "1 had ended", of a batch that was `finalizing` for four days."""
    workspace.ingest(workspace.texts())
    workspace.plan()
    (batch_id,) = workspace.submit(api.client).batch_ids
    api.wait(batch_id)
    with proxy(api.url, refusing_to_cancel(**fields)) as client:
        done = cancel(workspace, client)
    assert (done.stopped, done.had_ended, done.not_found) == (0, 0, [])
    (sentence,) = done.not_stopped
    assert re.search(f"refused to cancel {batch_id} of {DAY}. It has not ended: its status is {shown}", sentence)
    assert sentence in str(done)
    assert f"`batch-assets abandon {batch_id}` gives it up." in sentence
    assert str(done).isprintable()
    workspace.collect(api.client)  # it ends after all
    assert workspace.statuses() == {"answered": 2}


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
def test_a_batch_that_the_api_refuses_to_cancel_had_ended_if_its_status_says_so(
    workspace: Workspace, api: LocalApi, status: str
) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    api.wait(workspace.submit(api.client).batch_ids[0])
    with proxy(api.url, refusing_to_cancel(status=status)) as client:
        assert cancel(workspace, client) == Cancelled(had_ended=1)


def test_a_batch_that_has_been_cancelling_for_long_had_ended(workspace: Workspace, api: LocalApi) -> None:
    """The run collects it as ended."""
    workspace.ingest(workspace.texts())
    workspace.plan()
    api.wait(workspace.submit(api.client).batch_ids[0])
    with proxy(api.url, refusing_to_cancel(status="cancelling", cancelling_at=HOURS_AGO)) as client:
        assert cancel(workspace, client) == Cancelled(had_ended=1)


@pytest.mark.parametrize("reply", [404, 503, None])
def test_a_batch_that_cannot_be_read_after_a_refusal_is_not_reported_as_ended(
    workspace: Workspace, api: LocalApi, reply: int | None
) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    (batch_id,) = workspace.submit(api.client).batch_ids

    def answer(call: Call) -> Reply | None:
        if call.method == "GET" and call.path.endswith(batch_id):
            return CUT if reply is None else Reply.of({"error": {"message": "no"}}, reply)
        return refusing_to_cancel(status="finalizing")(call)

    with proxy(api.url, answer) as client:
        if reply == 404:
            assert cancel(workspace, client) == Cancelled(not_found=[batch_id])
        else:
            with pytest.raises(openai.OpenAIError):
                cancel(workspace, client)


def test_a_batch_that_is_not_stopped_does_not_keep_the_others_running(workspace: Workspace, slow: LocalApi) -> None:
    workspace = workspace.with_file_limits(max_requests=100)
    workspace.ingest({f"{number}": f"{number} of {workspace.folder.name}" for number in range(200)})
    workspace.plan()
    first, _ = workspace.submit(slow.client).batch_ids

    def answer(call: Call) -> Reply | None:
        return refusing_to_cancel(status="finalizing")(call) if first in call.path else call.forward()

    with proxy(slow.url, answer) as client:
        done = cancel(workspace, client)
    assert (done.stopped, done.had_ended, len(done.not_stopped)) == (1, 0, 1)


def test_a_batch_with_stored_results_has_ended_without_a_call_of_the_api(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    api.wait(workspace.submit(api.client).batch_ids[0])
    workspace.execute("UPDATE openai_batch SET state = 'ended'")
    cancels: list[str] = []
    with proxy(api.url, with_api_name(ELSEWHERE, recorded(cancels))) as client:
        assert cancel(workspace, client) == Cancelled(had_ended=1)
    assert cancels == []


@pytest.mark.parametrize("status", [401, 503, None])
def test_a_day_is_held_if_the_api_does_not_answer(workspace: Workspace, slow: LocalApi, status: int | None) -> None:
    workspace.ingest({f"{number}": f"{number} of {workspace.folder.name}" for number in range(200)})
    workspace.plan()
    (batch_id,) = workspace.submit(slow.client).batch_ids

    def refuse(call: Call) -> Reply | None:
        return CUT if status is None else Reply.of({"error": {"message": "no"}}, status)

    with proxy(slow.url, refuse) as client, pytest.raises(openai.OpenAIError):
        cancel(workspace, client)
    slow.client.batches.cancel(batch_id)  # the user does it on OpenAI's page
    slow.wait(batch_id)
    workspace.collect(slow.client)
    assert workspace.statuses()["cancelled"] >= 1
    assert workspace.plan(resume_cancelled=False).shards == []


def test_a_batch_without_capacity_is_not_sent_again_after_a_cancellation(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    with proxy(api.url, FailsFirst("token_limit_exceeded", "Enqueued token limit reached.")) as client:
        api.wait(workspace.submit(client).batch_ids[0])
        assert cancel(workspace, client) == Cancelled(had_ended=1)
        assert workspace.submit(client).created == 0
        workspace.collect(client)
    assert workspace.statuses() == {"cancelled": 2}
    assert api.stats()["batches_created"] == 1


def cancelled(workspace: Workspace, api: LocalApi) -> None:
    cancel(workspace, api.client)


def terminated(workspace: Workspace, api: LocalApi) -> None:
    assert stop_submitting(workspace.database, day=of(DAY), data_folder=workspace.folder) == (1, 0)


def cancelled_after_it_had_no_capacity(workspace: Workspace, api: LocalApi) -> None:
    with proxy(api.url, FailsFirst("token_limit_exceeded", "Enqueued token limit reached.")) as client:
        api.wait(workspace.submit(client).batch_ids[0])
        workspace.collect(client)
        assert workspace.column("SELECT state FROM openai_batch") == ["deferred"]
        cancel(workspace, client)


def cancelled_before_it_had_no_capacity(workspace: Workspace, api: LocalApi) -> None:
    with proxy(api.url, FailsFirst("token_limit_exceeded", "Enqueued token limit reached.")) as client:
        api.wait(workspace.submit(client).batch_ids[0])
        cancel(workspace, client)
        workspace.collect(client)


def cancelled_before_another_day_saw_that_it_had_no_capacity(workspace: Workspace, api: LocalApi) -> None:
    with proxy(api.url, FailsFirst("token_limit_exceeded", "Enqueued token limit reached.")) as client:
        api.wait(workspace.submit(client).batch_ids[0])
        cancel(workspace, client)
        assert workspace.submit(client, day=NEXT_DAY).requeued == 0


def cancelled_while_its_batch_was_unknown(workspace: Workspace, api: LocalApi) -> None:
    lose_the_creation(workspace, api)
    cancel(workspace, api.client)
    assert workspace.submit(api.client, run_id="later").created == 0


def unknown_and_no_longer_wanted(workspace: Workspace, api: LocalApi) -> None:
    lose_the_creation(workspace, api)
    workspace.plan(task=replace(TASK, system_prompt="Be brief."))
    assert workspace.submit(api.client, run_id="later").created == 1


def planned_again_by_a_run_that_was_killed(workspace: Workspace, api: LocalApi) -> None:
    """It was killed after its commit, before it had deleted a file."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batch_assets.batching.ledger.submissions.withdrawn_files", killed)
        with pytest.raises(KeyboardInterrupt):
            workspace.plan()
    assert len(workspace.request_files()) == 2
    workspace.plan()


def created_by_the_user(workspace: Workspace, api: LocalApi) -> None:
    adopt(workspace, api.client, create_as_a_user(api.client, workspace.request_files()[0]))


def lose_the_creation(workspace: Workspace, api: LocalApi) -> None:
    """The API creates no batch, and the run does not know that."""

    def lose(call: Call) -> Reply | None:
        return CUT if call.creates_batch else call.forward()

    with proxy(api.url, lose) as client, pytest.raises(SubmissionError, match="did not create a batch"):
        workspace.submit(client)


@pytest.mark.parametrize(
    "withdraw",
    [
        cancelled,
        terminated,
        cancelled_after_it_had_no_capacity,
        cancelled_before_it_had_no_capacity,
        cancelled_before_another_day_saw_that_it_had_no_capacity,
        cancelled_while_its_batch_was_unknown,
        unknown_and_no_longer_wanted,
        planned_again_by_a_run_that_was_killed,
        created_by_the_user,
    ],
)
def test_a_request_file_that_will_not_be_sent_does_not_stay_on_disk(
    workspace: Workspace, api: LocalApi, withdraw: Callable[[Workspace, LocalApi], None]
) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    withdraw(workspace, api)
    paths = dict(
        workspace.rows(
            "SELECT path, state = 'withdrawn' FROM batch_request_file JOIN openai_batch USING (submission_id)"
        )
    )
    assert any(paths.values())
    left = [str(path.relative_to(workspace.folder)) for path in workspace.request_files()]
    assert left == sorted(path for path, is_withdrawn in paths.items() if not is_withdrawn)


def test_another_days_batch_with_an_equal_article_is_not_cancelled(workspace: Workspace, slow: LocalApi) -> None:
    workspace.ingest(workspace.texts("abc"))
    workspace.ingest(workspace.texts("a"), day=NEXT_DAY)
    workspace.plan()
    workspace.plan(day=NEXT_DAY)
    (batch_id,) = workspace.submit(slow.client).batch_ids
    assert cancel(workspace, slow.client, NEXT_DAY) == Cancelled()
    assert slow.wait(batch_id).status == "completed"
    for day in (DAY, NEXT_DAY):
        workspace.collect(slow.client, day=day)
    assert (workspace.statuses(), workspace.statuses(NEXT_DAY)) == ({"answered": 3}, {"answered": 1})


def test_the_batch_of_an_open_claim_is_searched_and_not_created(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("a"))
    workspace.plan()
    workspace.execute(
        "UPDATE openai_batch SET state = 'claimed', owner_run = 'killed', claim_token = 'theirs', claimed_at = now()"
    )
    assert cancel(workspace, api.client) == Cancelled(unknown=1)
    assert "1 submission may have a batch" in str(Cancelled(unknown=1))
    assert "The answers that exist will be in `keywords`." in str(Cancelled(stopped=1, task="keywords"))
    assert workspace.submit(api.client).created == 0
    workspace.collect(api.client)
    assert workspace.statuses() == {"cancelled": 1}


def test_a_cancelled_file_does_not_stop_another_day(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    workspace.ingest(workspace.texts("ac"), day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY)
    assert cancel(workspace, api.client) == Cancelled(withdrawn=1)
    workspace.plan(day=NEXT_DAY, resume_cancelled=False)
    for batch_id in workspace.submit(api.client, day=NEXT_DAY).batch_ids:
        api.wait(batch_id)
    workspace.collect(api.client, day=NEXT_DAY)
    assert workspace.statuses(NEXT_DAY) == {"answered": 2}
    workspace.collect(api.client)
    assert workspace.statuses() == {"answered": 1, "cancelled": 1}


def test_after_a_terminated_run_existing_batches_are_found_and_nothing_more_is_sent(
    workspace: Workspace, api: LocalApi
) -> None:
    """Of four files, one has a batch, one claim has a batch, one claim has none, and one file was never claimed."""
    workspace = workspace.with_file_limits(max_requests=1)
    workspace.ingest(workspace.texts("abcd"))
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
    assert stop_submitting(workspace.database, day=of(DAY), data_folder=workspace.folder) == (1, 2)
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
    workspace.ingest(workspace.texts("abc"))
    workspace.ingest(workspace.texts("cxy"), day=NEXT_DAY)
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
    workspace.ingest(workspace.texts("abcd"))
    workspace.plan()
    workspace.submit(slow.client)
    assert workspace.plan(refresh=True).shards == []


def test_a_batch_that_the_user_created_is_adopted_and_nothing_is_executed_twice(
    workspace: Workspace, api: LocalApi
) -> None:
    workspace.ingest(workspace.texts("abc"))
    workspace.plan()
    of_the_user = create_as_a_user(api.client, workspace.request_files()[0])
    assert adopt(workspace, api.client, of_the_user) == [DAY]
    assert workspace.submit(api.client).batch_ids == [of_the_user]
    api.wait(of_the_user)
    workspace.whole_day(api)
    assert workspace.statuses() == {"answered": 3}
    assert api.stats() == {**api.stats(), "batches_created": 1, "requests_executed": 3}


def test_an_adopted_batch_may_hold_a_part_of_a_day_and_of_another(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("abc"))
    workspace.ingest(workspace.texts("xy"), day=NEXT_DAY)
    for day in (DAY, NEXT_DAY):
        workspace.plan(day=day)
    first, second = (path.read_bytes().splitlines(keepends=True) for path in workspace.request_files())
    part = workspace.folder / "part.jsonl"
    part.write_bytes(first[0] + second[0])
    of_the_user = create_as_a_user(api.client, part)
    assert adopt(workspace, api.client, of_the_user) == [DAY, NEXT_DAY]
    api.wait(of_the_user)
    for day in (DAY, NEXT_DAY):
        workspace.whole_day(api, day=day)
    assert (workspace.statuses(), workspace.statuses(NEXT_DAY)) == ({"answered": 3}, {"answered": 2})
    assert api.stats()["requests_executed"] == 5


def test_what_an_adopted_batch_did_not_answer_is_pending(workspace: Workspace, slow: LocalApi) -> None:
    workspace.ingest(workspace.texts("abcdefghij"))
    workspace.plan()
    of_the_user = create_as_a_user(slow.client, workspace.request_files()[0])
    slow.client.batches.cancel(of_the_user)
    slow.wait(of_the_user)
    adopt(workspace, slow.client, of_the_user)
    workspace.collect(slow.client)
    assert workspace.statuses()["pending"] >= 8
    workspace.whole_day(slow)
    assert workspace.statuses() == {"answered": 10}
    assert slow.stats()["requests_executed"] == 10


def test_a_batch_is_adopted_once_and_the_batch_of_a_run_never(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    (own,) = workspace.submit(api.client).batch_ids
    of_the_user = create_as_a_user(api.client, workspace.request_files()[0])
    for _ in range(2):  # the event for the sensor may be missing the first time
        assert adopt(workspace, api.client, of_the_user) == [DAY]
    assert len(workspace.column("SELECT 1 FROM openai_batch WHERE batch_id = ?", [of_the_user])) == 1
    with pytest.raises(AdoptionError, match=f"A run created {own} for {DAY}"):
        adopt(workspace, api.client, own)
    # nor while the ledger does not know it yet, since the answer to its creation was lost
    workspace.execute("UPDATE openai_batch SET state = 'claimed', batch_id = NULL WHERE batch_id = ?", [own])
    with pytest.raises(AdoptionError, match=f"A run created {own} for {DAY}"):
        adopt(workspace, api.client, own)


FOREIGN_LINE = b'{"custom_id": "theirs", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}}\n'


@pytest.mark.parametrize("content", [FOREIGN_LINE, FOREIGN_LINE + b"not JSON\n", b'{"a": 1}\n'])
def test_a_foreign_batch_is_not_adopted(workspace: Workspace, api: LocalApi, content: bytes) -> None:
    workspace.ingest(workspace.texts("a"))
    workspace.plan()
    path = workspace.folder / "foreign.jsonl"
    path.write_bytes(content)
    foreign = create_as_a_user(api.client, path)
    with pytest.raises(AdoptionError, match=r"No request of .* unchanged file .* under the present prompt\?"):
        adopt(workspace, api.client, foreign)
    assert workspace.rows("SELECT state, batch_id FROM openai_batch") == [("planned", None)]
    assert workspace.submit(api.client).created == 1


def test_a_batch_that_openai_does_not_know_is_not_adopted(workspace: Workspace, api: LocalApi) -> None:
    with pytest.raises(AdoptionError, match="The API knows no batch batch_none"):
        adopt(workspace, api.client, "batch_none")


def test_a_cancelled_day_does_not_stop_another_day_with_an_equal_article(workspace: Workspace, tmp_path: Path) -> None:
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
