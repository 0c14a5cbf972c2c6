"""Guards against a second batch: after any lost answer, refusal, kill or second run, a request file has one batch."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from batch_assets.batching.ledger import submissions
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.retries import end_account_pauses
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import RemoteBatch, list_batches, now_utc, utc
from batch_assets.batching.provider.identity import fingerprint
from batch_assets.batching.submission import create, reconcile, submit
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets.batching.submission.find import CLAIM_TOKEN_KEY, find_batch
from batch_assets.batching.submission.upload import upload_name
from batch_assets_tests.batching.conftest import (
    API,
    CUT,
    DAY,
    NEXT_DAY,
    SHORT_TIMING,
    Call,
    FailsFirst,
    Reply,
    Workspace,
    database_in,
    proxy,
)
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api_client import ENDED, LocalApi
from batch_assets_tests.task_days import of

LONG_AGO = datetime.fromisoformat("2026-01-01")  # the tables' times are UTC without zone


@pytest.fixture(scope="module")
def planned_once(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("planned")
    workspace = Workspace(folder, database_in(folder))
    workspace.ingest({"a": "one", "b": "two"})
    workspace.plan()
    return workspace


@pytest.fixture
def planned(planned_once: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """A day with one request file."""
    with planned_once.copy(tmp_path) as workspace:
        yield workspace


def the_submission(workspace: Workspace) -> Submission:
    (found,) = submissions.unsubmitted(workspace.database, of(DAY), workspace.folder)
    return found


def claim(workspace: Workspace, run_id: str, file_id: str | None = None) -> str:
    """The claim of a run that was killed before it knew its batch; returns the claim token."""
    token = uuid.uuid4().hex
    workspace.execute(
        """
        UPDATE openai_batch SET state = 'claimed', owner_run = ?, claim_token = ?, api = ?, key_fingerprint = ?,
            file_id = ?, claimed_at = now() AT TIME ZONE 'UTC'
        """,
        [run_id, token, API, the_clients_key(workspace), file_id],
    )
    return token


def the_clients_key(workspace: Workspace) -> str:
    return fingerprint(openai.OpenAI(api_key="unused"), workspace.database.warehouse_id())


def make_batch(client: openai.OpenAI, token: str | None = None, file_id: str = "file-none") -> str:
    metadata = None if token is None else {CLAIM_TOKEN_KEY: token}
    return client.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", metadata=metadata
    ).id


def name_of_upload(workspace: Workspace) -> str:
    return upload_name(the_submission(workspace), workspace.database.warehouse_id())


def upload(workspace: Workspace, client: openai.OpenAI) -> str:
    with workspace.request_files()[0].open("rb") as file:
        return client.files.create(file=(name_of_upload(workspace), file), purpose="batch").id


def wanted(token: str, claimed_at: datetime = LONG_AGO) -> Submission:
    """A submission with this claim; its other fields are not read."""
    return Submission(
        sha256="0" * 64,
        id="none", task="summaries", day=DAY,
        plan=1, round=1, shard=0, path=Path("none.jsonl"), endpoint="/v1/chat/completions",
        model="a-model", requests=1, bytes=1, estimated_input_tokens=1, max_output_tokens=1,
        request_max_output_tokens=1, is_refresh=False, output_schema=None, vector_length=None,
        planned_at=claimed_at, state=State.CLAIMED, claim_token=token,
        claimed_at=claimed_at,
    )  # fmt: skip


def ledger(workspace: Workspace, columns: str) -> list[tuple[Any, ...]]:
    return workspace.rows(f"SELECT {columns} FROM openai_batch ORDER BY plan, shard")


def test_a_request_file_becomes_a_batch_with_its_claim_token(planned: Workspace, api: LocalApi) -> None:
    submission_id = the_submission(planned).id
    submitted = planned.submit(api.client, run_id="run 1")
    (batch_id,) = submitted.batch_ids
    assert (submitted.created, submitted.adopted, submitted.api) == (1, 0, API)
    batch = api.client.batches.retrieve(batch_id)
    ((claim_token,),) = ledger(planned, "claim_token")
    assert batch.metadata == {
        **(batch.metadata or {}),
        "warehouse_id": planned.database.warehouse_id(),
        "submission_id": submission_id,
        "claim_token": claim_token,
    }
    assert api.client.files.content(batch.input_file_id).content == planned.request_files()[0].read_bytes()
    assert ledger(planned, "submission_id, state, owner_run, api, file_id, batch_id, submitted_at, message") == [
        (submission_id, "submitted", "run 1", API, batch.input_file_id, batch_id, utc(batch.created_at), None)
    ]


def test_submitting_again_creates_nothing(planned: Workspace, api: LocalApi) -> None:
    first = planned.submit(api.client)
    second = planned.submit(api.client, run_id="another run")
    assert second.batch_ids == first.batch_ids
    assert (second.created, second.adopted) == (0, 0)
    assert api.stats()["batches_created"] == api.stats()["files_created"] == 1


def test_several_shards_become_a_batch_each(workspace: Workspace, api: LocalApi) -> None:
    workspace = workspace.with_file_limits(max_requests=1)
    workspace.ingest(workspace.texts("abc"))
    workspace.plan()
    submitted = workspace.submit(api.client)
    assert submitted.created == len(set(submitted.batch_ids)) == api.stats()["batches_created"] == 3


def test_a_day_without_requests_submits_nothing(workspace: Workspace, api: LocalApi) -> None:
    workspace.plan()
    assert workspace.submit(api.client).batch_ids == []
    assert api.stats()["files_created"] == 0


def test_a_day_submits_the_shard_of_another_that_it_needs(planned: Workspace, api: LocalApi) -> None:
    planned.ingest({"same": "one"}, day=NEXT_DAY)
    planned.plan(day=NEXT_DAY)
    submitted = planned.submit(api.client, day=NEXT_DAY)
    assert submitted.created == 1
    assert planned.submit(api.client).batch_ids == submitted.batch_ids
    assert api.stats()["batches_created"] == 1


def test_the_batch_of_a_killed_run_is_found_and_used(planned: Workspace, api: LocalApi) -> None:
    file_id = upload(planned, api.client)
    made = make_batch(api.client, claim(planned, "killed", file_id), file_id)
    make_batch(api.client)
    submitted = planned.submit(api.client, run_id="next")
    assert (submitted.batch_ids, submitted.created, submitted.adopted) == ([made], 0, 1)
    assert ledger(planned, "owner_run, file_id, batch_id") == [("next", file_id, made)]
    assert api.stats() == {**api.stats(), "batches_created": 2, "files_created": 1}


@pytest.mark.parametrize("is_uploaded", [True, False])
def test_the_claim_of_a_killed_run_without_a_batch_is_taken_over(
    planned: Workspace, api: LocalApi, is_uploaded: bool
) -> None:
    file_id = upload(planned, api.client) if is_uploaded else None
    claim(planned, "killed", file_id)
    submitted = planned.submit(api.client)
    assert (submitted.created, submitted.adopted) == (1, 0)
    assert api.stats() == {**api.stats(), "batches_created": 1, "files_created": 1}


def test_a_retry_of_the_same_run_searches_first(planned: Workspace, api: LocalApi) -> None:
    made = make_batch(api.client, claim(planned, "run"))
    assert planned.submit(api.client, run_id="run", is_run_alive=lambda run_id: True).batch_ids == [made]


def test_the_claim_of_a_live_run_is_not_taken_over(planned: Workspace, api: LocalApi) -> None:
    planned = planned.with_timing(other_run_timeout_seconds=0.0)
    claim(planned, "alive")
    with pytest.raises(SubmissionError, match=r"Another run \(alive\).*Nothing was sent twice"):
        planned.submit(api.client, is_run_alive=lambda run_id: run_id == "alive")
    assert ledger(planned, "owner_run, batch_id") == [("alive", None)]
    assert api.stats()["files_created"] == api.stats()["batches_created"] == 0


def test_a_run_waits_for_the_live_run_that_has_the_claim(planned: Workspace, api: LocalApi) -> None:
    claim(planned, "alive")
    asked: list[str] = []

    def is_run_alive(run_id: str) -> bool:
        asked.append(run_id)
        if len(asked) == 2:  # meanwhile, the other run finishes
            planned.execute("UPDATE openai_batch SET state = 'submitted', batch_id = 'batch_theirs'")
        return True

    submitted = planned.with_timing(other_run_poll_seconds=0.01).submit(api.client, is_run_alive=is_run_alive)
    assert (submitted.batch_ids, submitted.created, submitted.adopted) == (["batch_theirs"], 0, 0)
    assert api.stats()["batches_created"] == 0


def test_a_run_takes_over_when_the_run_that_it_waits_for_ends(planned: Workspace, api: LocalApi) -> None:
    made = make_batch(api.client, claim(planned, "ending"))
    alive = iter([True, True, False])
    quick = planned.with_timing(other_run_poll_seconds=0.01)
    assert quick.submit(api.client, is_run_alive=lambda run_id: next(alive)).batch_ids == [made]


def test_a_batch_that_the_other_run_enters_before_the_takeover_is_used(planned: Workspace, api: LocalApi) -> None:
    claim(planned, "ending")

    def finishes_before_it_ends(run_id: str) -> bool:
        planned.execute("UPDATE openai_batch SET state = 'submitted', batch_id = 'batch_theirs'")
        return False

    assert planned.submit(api.client, is_run_alive=finishes_before_it_ends).batch_ids == ["batch_theirs"]
    assert api.stats()["batches_created"] == 0


def test_of_two_runs_that_take_over_a_claim_only_the_first_continues(planned: Workspace, api: LocalApi) -> None:
    planned = planned.with_timing(other_run_timeout_seconds=0.0)
    claim(planned, "killed")

    def is_taken_over(run_id: str) -> bool:
        planned.execute("UPDATE openai_batch SET owner_run = 'first'")
        return run_id == "first"

    with pytest.raises(SubmissionError, match="Nothing was sent twice"):
        planned.submit(api.client, run_id="second", is_run_alive=is_taken_over)
    assert ledger(planned, "owner_run, batch_id") == [("first", None)]
    assert api.stats()["batches_created"] == 0


def test_two_runs_at_once_create_one_batch(planned: Workspace, api: LocalApi) -> None:
    found: list[submit.Submitted] = []

    def submit(run_id: str) -> None:
        found.append(planned.submit(api.client, run_id=run_id, is_run_alive=lambda run_id: True))

    threads = [threading.Thread(target=submit, args=(run_id,)) for run_id in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 2
    assert found[0].batch_ids == found[1].batch_ids
    assert api.stats() == {**api.stats(), "batches_created": 1, "files_created": 1}


OPENAI_REFUSES = {"error": {"message": "The batch is not valid.", "type": "x", "code": "y", "param": None}}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_is_raised_and_stored_with_the_message_of_openai(
    planned: Workspace, api: LocalApi, status: int
) -> None:
    def refuse(call: Call) -> Reply:
        return Reply.of(OPENAI_REFUSES, status) if call.creates_batch else call.forward()

    with (
        proxy(api.url, refuse) as client,
        pytest.raises(SubmissionError, match=r"would not create a batch .*The batch is not valid\."),
    ):
        planned.submit(client)
    assert ledger(planned, "state, batch_id, message") == [("planned", None, "The batch is not valid.")]
    assert planned.submit(api.client, run_id="later").created == 1
    assert ledger(planned, "message") == [(None,)]
    assert api.stats() == {**api.stats(), "batches_created": 1, "files_created": 1}


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 504])
def test_an_error_of_a_gateway_after_the_creation_buys_no_second_batch(
    planned: Workspace, api: LocalApi, status: int
) -> None:
    planned = planned.with_timing(rate_limit_seconds=0.0)

    def lose(call: Call) -> Reply:
        made = call.forward()
        return Reply.of({"error": {"message": "Request timed out."}}, status) if call.creates_batch else made

    with proxy(api.url, lose) as client:
        assert planned.submit(client).adopted == 1
    assert api.stats() == {**api.stats(), "batches_created": 1, "files_created": 1}


def test_an_html_page_as_the_answer_to_the_creation_buys_no_second_batch(planned: Workspace, api: LocalApi) -> None:
    def lose(call: Call) -> Reply:
        made = call.forward()
        return Reply(200, b"<html>busy</html>", "text/html") if call.creates_batch else made

    with proxy(api.url, lose) as client:
        assert planned.submit(client).adopted == 1
    assert api.stats() == {**api.stats(), "batches_created": 1, "files_created": 1}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_upload_uses_no_capacity_and_raises_an_error(planned: Workspace, api: LocalApi, status: int) -> None:
    def refuse(call: Call) -> Reply:
        return Reply.of(OPENAI_REFUSES, status) if call.uploads else call.forward()

    with proxy(api.url, refuse) as client, pytest.raises(SubmissionError, match="would not take the file"):
        planned.submit(client)
    assert ledger(planned, "state, message") == [("planned", "The batch is not valid.")]


@pytest.mark.parametrize(("status", "code"), [(401, "invalid_api_key"), (403, None), (400, "billing_not_active")])
def test_an_upload_that_is_refused_for_the_account_is_deferred(
    planned: Workspace, api: LocalApi, status: int, code: str | None
) -> None:
    def refuse(call: Call) -> Reply:
        return Reply.of({"error": {"message": "No.", "code": code}}, status) if call.uploads else call.forward()

    with proxy(api.url, refuse) as client, pytest.raises(SubmissionError, match="would not take the file"):
        planned.submit(client)
    assert ledger(planned, "state, deferred_by, refusal_code") == [("deferred", "account", code)]
    assert planned.submit(api.client, run_id="early").deferred == 1
    end_account_pauses(planned.database, [of(DAY)])
    assert planned.submit(api.client, run_id="later").created == 1


def test_after_a_takeover_a_refusal_keeps_the_claim(planned: Workspace, api: LocalApi) -> None:
    """The list may show the batch of the killed run later."""
    claim(planned, "killed")

    def refuse(call: Call) -> Reply:
        return Reply.of(OPENAI_REFUSES, 403) if call.creates_batch else call.forward()

    with proxy(api.url, refuse) as client, pytest.raises(SubmissionError, match="would not create"):
        planned.submit(client)
    assert ledger(planned, "state") == [("claimed",)]


@contextmanager
def slow_api_where(planned: Workspace, change: str) -> Iterator[tuple[LocalApi, openai.OpenAI]]:
    """An API whose batches run for long, and a client. The ledger changes during its POST of a batch."""

    def change_the_ledger_during_the_post(call: Call) -> Reply:
        if call.creates_batch:
            planned.execute(change)
        return call.forward()

    with (
        serving(planned.folder / "slow", batch_seconds=30) as slow,
        proxy(slow.url, change_the_ledger_during_the_post) as client,
    ):
        yield slow, client


def test_a_batch_whose_submission_was_withdrawn_during_the_post_is_cancelled(planned: Workspace) -> None:
    with slow_api_where(planned, "UPDATE openai_batch SET state = 'withdrawn'") as (slow, client):
        with pytest.raises(SubmissionError, match="was withdrawn"):
            planned.submit(client)
        (batch,) = slow.client.batches.list().data
        assert slow.wait(batch.id).status == "cancelled"


def test_files_are_uploaded_in_parallel_and_a_refused_one_does_not_stop_the_others(
    workspace: Workspace, api: LocalApi
) -> None:
    workspace = workspace.with_file_limits(max_requests=1)
    workspace.ingest(workspace.texts("abcd"))
    workspace.plan()
    together = threading.Barrier(4)

    def refuse_one(call: Call) -> Reply:
        if not call.uploads:
            return call.forward()
        is_refused = together.wait(20) == 0
        return Reply.of({"error": {"message": "No."}}, 400) if is_refused else call.forward()

    with proxy(api.url, refuse_one) as client, pytest.raises(SubmissionError, match="would not take the file"):
        workspace.submit(client)
    assert api.stats()["batches_created"] == 3
    assert workspace.submit(api.client, run_id="later").created == 1
    assert api.stats()["files_created"] == 4


def test_what_was_submitted_before_a_refusal_stays_submitted(workspace: Workspace, api: LocalApi) -> None:
    workspace = workspace.with_file_limits(max_requests=1)
    workspace.ingest(workspace.texts())
    workspace.plan()
    answers: list[Callable[[Call], Reply]] = [lambda call: call.forward(), lambda call: Reply.of(OPENAI_REFUSES, 400)]

    def refuse_second(call: Call) -> Reply:
        return answers.pop(0)(call) if call.creates_batch else call.forward()

    with proxy(api.url, refuse_second) as client, pytest.raises(SubmissionError):
        workspace.submit(client)
    submitted = workspace.submit(api.client, run_id="later")
    assert (submitted.created, len(submitted.batch_ids)) == (1, 2)
    assert api.stats()["batches_created"] == 2


def forward_and_lose(reply: Reply | None) -> Callable[[Call], Reply | None]:
    """The API creates the batch; the client gets another answer."""

    def answer(call: Call) -> Reply | None:
        forwarded = call.forward()
        return reply if call.creates_batch else forwarded

    return answer


LOST = [
    pytest.param(CUT, id="connection cut"),
    pytest.param(Reply.of({"error": {"message": "Oops"}}, 500), id="500"),
    pytest.param(Reply(502, b"<html>Bad gateway", "text/html"), id="502 in HTML"),
]


@pytest.mark.parametrize("reply", LOST)
def test_a_batch_whose_answer_was_lost_is_found_and_not_created_again(
    planned: Workspace, api: LocalApi, reply: Reply | None
) -> None:
    with proxy(api.url, forward_and_lose(reply)) as client:
        submitted = planned.submit(client)
    assert (submitted.created, submitted.adopted) == (0, 1)
    assert submitted.batch_ids == [api.client.batches.list(limit=1).data[0].id]
    assert api.stats()["batches_created"] == 1


@pytest.mark.parametrize(
    ("moment", "posts"),
    [
        pytest.param(lambda call: call.uploads, 0, id="during the upload, before the first POST"),
        pytest.param(lambda call: call.creates_batch, 1, id="when the answer to the first POST is lost"),
        pytest.param(lambda call: call.lists_batches, 1, id="while it searches for the batch of a lost answer"),
    ],
)
def test_a_run_that_has_lost_its_claim_posts_no_more(
    planned: Workspace, api: LocalApi, moment: Callable[[Call], bool], posts: int
) -> None:
    """Dagster reported it as ended and began another run, which has not created its batch yet."""
    creates: list[Call] = []

    def lose(call: Call) -> Reply | None:
        if call.creates_batch:
            creates.append(call)
        if moment(call) and (creates or not posts):  # the list is read before, too
            planned.execute("UPDATE openai_batch SET owner_run = 'second'")
        if call.creates_batch:
            return CUT
        return call.forward()

    with proxy(api.url, lose) as client, pytest.raises(SubmissionError, match="another run has taken it over"):
        planned.submit(client, run_id="first")
    assert len(creates) == posts
    assert api.stats()["batches_created"] == 0
    assert planned.submit(api.client, run_id="second").created == 1
    assert api.stats() == {**api.stats(), "batches_created": 1, "files_created": 1}


@pytest.mark.parametrize("message", ["Cannot find file file-x.", "Unknown parameter: 'metadata'."])
def test_a_run_that_has_lost_its_claim_posts_no_more_after_a_refusal_either(
    planned: Workspace, api: LocalApi, message: str
) -> None:
    creates: list[Call] = []

    def refuse(call: Call) -> Reply:
        if not call.creates_batch:
            return call.forward()
        creates.append(call)
        planned.execute("UPDATE openai_batch SET owner_run = 'second'")
        return Reply.of({"error": {"message": message}}, 400)

    with proxy(api.url, refuse) as client, pytest.raises(SubmissionError, match="another run has taken it over"):
        planned.submit(client, run_id="first")
    assert len(creates) == 1
    assert api.stats() == {**api.stats(), "batches_created": 0, "files_created": 1}


def test_a_list_that_lags_is_read_again(planned: Workspace, api: LocalApi) -> None:
    lists: list[Reply] = []

    def answer(call: Call) -> Reply | None:
        forwarded = call.forward()
        if call.creates_batch:
            lists.clear()
        if call.lists_batches:
            lists.append(forwarded)
            return forwarded if len(lists) > 2 else Reply.of({"object": "list", "data": [], "has_more": False})
        return CUT if call.creates_batch else forwarded

    with proxy(api.url, answer) as client:
        assert planned.submit(client).adopted == 1
    assert api.stats()["batches_created"] == 1


def test_a_creation_that_never_arrived_is_repeated(planned: Workspace, api: LocalApi) -> None:
    creates: list[Call] = []

    def cut_first(call: Call) -> Reply | None:
        if call.creates_batch:
            creates.append(call)
        return CUT if call.creates_batch and len(creates) == 1 else call.forward()

    with proxy(api.url, cut_first) as client:
        assert planned.submit(client).created == 1
    assert len(creates) == 2
    assert api.stats()["batches_created"] == 1


def test_an_api_that_is_down_gets_three_posts_whatever_the_retries_of_the_client(
    planned: Workspace, api: LocalApi
) -> None:
    creates: list[Call] = []

    def fail(call: Call) -> Reply:
        if not call.creates_batch:
            return call.forward()
        creates.append(call)
        return Reply.of({"error": {"message": "Overloaded"}}, 503)

    with (
        proxy(api.url, fail) as client,
        pytest.raises(SubmissionError, match="Overloaded"),
    ):
        planned.submit(client.with_options(max_retries=9))
    assert len(creates) == 3
    assert planned.submit(api.client, run_id="later").created == 1
    assert api.stats() == {**api.stats(), "batches_created": 1, "files_created": 1}


def test_a_rate_limit_is_waited_out(planned: Workspace, api: LocalApi, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = planned.with_timing(find_batch_pauses_seconds=())
    pauses: list[float] = []
    monkeypatch.setattr(create, "time", SimpleNamespace(sleep=pauses.append, monotonic=lambda: 0.0))
    replies = [Reply.of({"error": {"message": "Slow down"}}, 429)] * 2

    def limit(call: Call) -> Reply:
        return replies.pop() if call.creates_batch and replies else call.forward()

    with proxy(api.url, limit) as client:
        assert planned.submit(client).created == 1
    assert pauses == [5.0, 10.0]


def test_without_the_list_no_second_batch_is_created(planned: Workspace, api: LocalApi) -> None:
    creates: list[Call] = []

    def answer(call: Call) -> Reply | None:
        if call.creates_batch:
            creates.append(call)
        if call.lists_batches and creates:
            return Reply.of({"error": {"message": "Down"}}, 500)
        return forward_and_lose(CUT)(call)

    with proxy(api.url, answer) as client:
        with pytest.raises(SubmissionError, match=r"not known whether the batch .* The run created no other one"):
            planned.submit(client, run_id="one")
        with pytest.raises(SubmissionError, match="OpenAI did not answer: Down"):
            planned.submit(client, run_id="two")
    assert api.stats()["batches_created"] == 1
    assert planned.submit(api.client, run_id="three").adopted == 1


def test_a_lost_upload_is_repeated(planned: Workspace, api: LocalApi) -> None:
    def lose_uploads(call: Call) -> Reply | None:
        forwarded = call.forward()
        return CUT if "/files" in call.path else forwarded

    with proxy(api.url, lose_uploads) as client, pytest.raises(SubmissionError, match="did not take the file"):
        planned.submit(client)
    assert ledger(planned, "file_id, batch_id") == [(None, None)]
    assert planned.submit(api.client, run_id="later").created == 1
    assert api.stats()["batches_created"] == 1


def test_a_wrong_key_raises_the_message_of_the_api(planned: Workspace, api: LocalApi) -> None:
    def deny(call: Call) -> Reply:
        return Reply.of({"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}, 401)

    with proxy(api.url, deny) as client, pytest.raises(SubmissionError, match=r"Incorrect API key provided\."):
        planned.submit(client)


def test_a_missing_request_file_is_named(planned: Workspace, api: LocalApi) -> None:
    (path,) = planned.request_files()
    path.unlink()
    with pytest.raises(SubmissionError, match=f"{path} does not exist"):
        planned.submit(api.client)
    assert api.stats()["batches_created"] == 0


def test_each_plan_and_each_claim_has_an_id_that_no_other_has(planned: Workspace, api: LocalApi) -> None:
    ids, tokens = [the_submission(planned).id], []
    planned.plan()
    ids.append(the_submission(planned).id)
    for _ in range(3):
        with proxy(api.url, FailsFirst("token_limit_exceeded", "Enqueued token limit reached.")) as client:
            api.wait(planned.submit(client).batch_ids[0])
            tokens += planned.column("SELECT claim_token FROM openai_batch WHERE state = 'submitted'")
            planned.collect(client)
        planned.end_pauses()
    assert len(set(ids)) == 2
    assert len(set(tokens)) == 3
    assert the_submission(planned).claim_tokens == tuple(reversed(tokens))


def reshaped(change: Callable[[dict[str, Any]], object], *, ignores_after: bool = False) -> Callable[[Call], Reply]:
    """A server whose lists of batches look otherwise; fails after 50 calls."""
    first: list[Reply] = []
    calls: list[Call] = []

    def answer(call: Call) -> Reply:
        calls.append(call)
        if len(calls) > 50:
            return Reply.of({"error": {"message": "endless"}}, 400)
        reply = call.forward()
        first.append(reply)
        page = (first[0] if ignores_after else reply).json
        change(page)
        return Reply.of(page, reply.status)

    return answer


def nothing(page: dict[str, Any]) -> None:
    pass


def without_has_more(page: dict[str, Any]) -> None:
    page.pop("has_more", None)


def null_data_at_the_end(page: dict[str, Any]) -> None:
    page.pop("has_more", None)
    page["data"] = page["data"] or None


LISTS = {
    "as OpenAI's": reshaped(nothing),
    "without has_more": reshaped(without_has_more),
    "null after the last page": reshaped(null_data_at_the_end),
    "has_more always true": reshaped(lambda page: page.update(has_more=True)),
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_batch_is_found_on_any_page(local_api: LocalApi, kind: str) -> None:
    made = [make_batch(local_api.client, None if number == 3 else f"key {number}") for number in range(6)]
    with proxy(local_api.url, LISTS[kind], page_size=2) as client:
        found = [find_batch(client, wanted(f"key {number}"), "a warehouse", SHORT_TIMING) for number in (0, 1, 5)]
        assert [batch and batch.id for batch in found] == [made[0], made[1], made[5]]
        assert find_batch(client, wanted("key 3"), "a warehouse", SHORT_TIMING) is None
        assert find_batch(client, wanted("key 9"), "a warehouse", SHORT_TIMING) is None


@pytest.mark.parametrize("change", [nothing, without_has_more])
def test_a_list_that_ignores_the_cursor_ends(local_api: LocalApi, change: Callable[[dict[str, Any]], object]) -> None:
    made = [make_batch(local_api.client, f"key {number}") for number in range(3)]
    with proxy(local_api.url, reshaped(change, ignores_after=True), page_size=2) as client:
        assert find_batch(client, wanted("key 0"), "a warehouse", SHORT_TIMING) is None
        assert [batch.id for batch in list_batches(client, since=LONG_AGO)] == [made[2], made[1]]


def test_the_search_ends_at_the_time_of_the_claim(local_api: LocalApi) -> None:
    for number in range(3):
        make_batch(local_api.client, f"key {number}")
    calls: list[Call] = []

    def age_all_but_the_newest(call: Call) -> Reply:
        calls.append(call)
        page = call.forward().json
        if len(calls) > 1:
            page["data"][0]["created_at"] -= 3600
        return Reply.of(page)

    now = datetime.now(UTC).replace(tzinfo=None)
    with proxy(local_api.url, age_all_but_the_newest, page_size=1) as client:
        assert [batch.metadata for batch in list_batches(client, since=now - timedelta(minutes=1))] == [
            {CLAIM_TOKEN_KEY: "key 2"}
        ]
    assert len(calls) == 2


def test_the_first_batches_of_the_list_are_read_whatever_their_time(local_api: LocalApi) -> None:
    made = make_batch(local_api.client, "key")
    make_batch(local_api.client, "another")
    now = datetime.now(UTC).replace(tzinfo=None)
    for hours in (1, 4, 1000):
        found = find_batch(local_api.client, wanted("key", now + timedelta(hours=hours)), "a warehouse", SHORT_TIMING)
        assert found is not None
        assert found.id == made

    def find_newer(hours: int) -> RemoteBatch | None:
        submission = wanted("key", now + timedelta(hours=hours))
        return find_batch(local_api.client, submission, "a warehouse", SHORT_TIMING, always_read=0)

    assert find_newer(2) is not None
    assert find_newer(4) is None


def test_the_submitted_lines_are_answered(planned: Workspace, api: LocalApi) -> None:
    batch = api.wait(planned.submit(api.client).batch_ids[0])
    assert batch.status == "completed"
    assert batch.output_file_id is not None
    lines = api.client.files.content(batch.output_file_id).content.splitlines()
    assert {json.loads(line)["custom_id"] for line in lines} == set(
        planned.column("SELECT custom_id FROM batch_request")
    )


def without_metadata(call: Call) -> bytes:
    body = json.loads(call.body)
    body.pop("metadata", None)
    return json.dumps(body).encode()


def refuse_metadata(call: Call) -> Reply:
    if call.creates_batch and b"metadata" in call.body:
        error = {"message": "Unknown parameter: 'metadata'.", "param": "metadata", "code": "unknown_parameter"}
        return Reply.of({"error": error}, 400)
    return call.forward()


def drop_metadata(call: Call) -> Reply:
    return call.forward(without_metadata(call)) if call.creates_batch else call.forward()


METADATA = pytest.mark.parametrize(
    "answer", [Call.forward, refuse_metadata, drop_metadata], ids=["takes metadata", "refuses it", "drops it"]
)


@METADATA
def test_after_a_lost_answer_there_is_one_batch_with_or_without_metadata(
    planned: Workspace, api: LocalApi, answer: Callable[[Call], Reply]
) -> None:
    make_batch(api.client)  # of another project

    def lose_success(call: Call) -> Reply | None:
        reply = answer(call)
        return CUT if call.creates_batch and reply.status == 200 else reply

    with proxy(api.url, lose_success) as client:
        submitted = planned.submit(client)
    assert (submitted.created, submitted.adopted) == (0, 1)
    make_batch(api.client)
    assert api.stats() == {**api.stats(), "batches_created": 3, "files_created": 1}


@METADATA
def test_the_batch_of_a_killed_run_is_found_with_or_without_metadata(
    planned: Workspace, api: LocalApi, answer: Callable[[Call], Reply]
) -> None:
    def cut_after_creation(call: Call) -> Reply | None:
        reply = answer(call)
        if call.creates_batch and reply.status == 200:
            created.append(reply)
        return CUT if created else reply

    created: list[Reply] = []
    with proxy(api.url, cut_after_creation) as client, pytest.raises(SubmissionError, match="not known whether"):
        planned.submit(client, run_id="killed")
    submitted = planned.submit(api.client, run_id="next")
    assert (submitted.batch_ids, submitted.adopted) == ([created[0].json["id"]], 1)
    assert api.stats()["batches_created"] == 1


@METADATA
def test_a_second_attempt_never_uses_the_batch_of_the_first(
    planned: Workspace, api: LocalApi, answer: Callable[[Call], Reply]
) -> None:
    fails = FailsFirst("token_limit_exceeded", "Enqueued token limit reached.")
    creates: list[str] = []

    def cut_the_first_of_the_second(call: Call) -> Reply | None:
        if call.creates_batch and answer is refuse_metadata and b"metadata" in call.body:
            return answer(call)
        if call.creates_batch:
            creates.append(call.path)
            if len(creates) == 2:
                return CUT
        changed = replace(call, body=without_metadata(call)) if call.creates_batch and answer is drop_metadata else call
        return fails(changed)

    with proxy(api.url, cut_the_first_of_the_second) as client:
        (first,) = planned.submit(client).batch_ids
        api.wait(first)
        assert planned.submit(client).requeued == 1
        planned.end_pauses()
        again = planned.submit(client)
    assert (again.created, again.adopted) == (1, 0)
    assert again.batch_ids != [first]
    assert ledger(planned, "attempt, earlier_batch_ids, batch_id") == [(2, [first], *again.batch_ids)]
    assert api.stats() == {**api.stats(), "batches_created": 2, "files_created": 1}
    api.wait(again.batch_ids[0])
    assert planned.collect(api.client).requests == {"answered": 2}


@METADATA
@pytest.mark.parametrize("is_made", [True, False], ids=["its answer is lost", "it never arrives"])
@pytest.mark.parametrize("message", ["Enqueued token limit reached.", "Cannot find file file-x."])
def test_after_a_requeue_and_a_new_plan_the_failed_batch_in_a_list_that_lags_is_not_used(
    planned: Workspace, api: LocalApi, answer: Callable[[Call], Reply], is_made: bool, message: str
) -> None:
    """In the first version the same requests had the same key, and each plan began with attempt 1."""
    fails = FailsFirst("unknown", message)
    creates: list[Call] = []
    looks: list[Call] = []

    def lag(call: Call) -> Reply | None:
        if call.creates_batch and answer is refuse_metadata and b"metadata" in call.body:
            return answer(call)
        if call.creates_batch:
            creates.append(call)
            if len(creates) == 2 and not is_made:
                return CUT
        changed = replace(call, body=without_metadata(call)) if call.creates_batch and answer is drop_metadata else call
        reply = fails(changed)
        if call.creates_batch and len(creates) == 2:
            return CUT
        if call.lists_batches and len(creates) == 2 and len(looks) < 2:
            looks.append(call)
            page = reply.json
            return Reply.of({**page, "data": [batch for batch in page["data"] if batch["id"] == failed]})
        return reply

    with proxy(api.url, lag) as client:
        (failed,) = planned.submit(client).batch_ids
        api.wait(failed)
        assert planned.collect(client).fetched.requeued == [failed]
        assert planned.plan().requests == {"pending": 2}
        again = planned.submit(client, run_id="later")
    assert len(looks) == 2
    assert (again.created, again.adopted) == ((0, 1) if is_made else (1, 0))
    (batch_id,) = again.batch_ids
    assert batch_id != failed
    api.wait(batch_id)
    assert planned.collect(api.client).requests == {"answered": 2}
    assert planned.column("SELECT batch_id FROM spending") == [batch_id]
    assert ledger(planned, "state, attempt, batch_id") == [("withdrawn", 2, None), ("collected", 1, batch_id)]
    assert api.stats() == {**api.stats(), "batches_created": 2, "files_created": 2, "requests_executed": 2}


def test_an_upload_whose_answer_is_lost_is_used(planned: Workspace, api: LocalApi) -> None:
    uploads: list[Reply] = []

    def lose_first(call: Call) -> Reply | None:
        reply = call.forward()
        if call.uploads:
            uploads.append(reply)
        return CUT if call.uploads and len(uploads) == 1 else reply

    with proxy(api.url, lose_first) as client:
        assert planned.submit(client).created == 1
    assert ledger(planned, "file_id") == [(uploads[0].json["id"],)]
    assert api.stats() == {**api.stats(), "batches_created": 1, "files_created": 1}


@pytest.mark.parametrize("ignores_after", [False, True])
def test_unused_uploads_are_deleted(planned: Workspace, api: LocalApi, ignores_after: bool) -> None:
    """The list of files lags, so the run uploads a second time. This answer is lost, too."""
    uploads: list[Reply] = []
    lists: list[Reply] = []

    def answer(call: Call) -> Reply | None:
        if call.path.startswith("/v1/files?") and call.method == "GET":
            if len(uploads) < 2:
                return Reply.of({"object": "list", "data": [], "has_more": False})
            lists.append(call.forward())
            page = lists[0 if ignores_after else -1].json
            page.pop("has_more")
            return Reply.of(page)
        reply = call.forward()
        if call.uploads:
            uploads.append(reply)
            return CUT
        return reply

    with proxy(api.url, answer) as client:
        submitted = planned.submit(client)
    orphan, used = (upload.json["id"] for upload in uploads)
    assert ledger(planned, "file_id, batch_id") == [(used, *submitted.batch_ids)]
    with pytest.raises(openai.NotFoundError):
        api.client.files.retrieve(orphan)
    assert api.wait(submitted.batch_ids[0]).status == "completed"
    assert api.stats() == {**api.stats(), "batches_created": 1, "files_created": 2}


def test_a_part_of_an_upload_is_not_used(planned: Workspace, api: LocalApi) -> None:
    name = name_of_upload(planned)
    half = planned.request_files()[0].read_bytes().splitlines(keepends=True)[0]
    api.client.files.create(file=(name, half), purpose="batch")
    claim(planned, "killed")
    (batch_id,) = planned.submit(api.client).batch_ids
    counts = api.wait(batch_id).request_counts
    assert counts is not None
    assert counts.total == 2
    assert planned.collect(api.client).requests == {"answered": 2}


@pytest.mark.parametrize(
    ("refusals", "files", "status", "is_takeover"),
    [(1, 1, 404, False), (3, 1, 400, False), (4, 2, 400, False), (4, 2, 404, True)],
)
def test_a_file_that_is_not_found_is_tried_again_then_uploaded_again(
    planned: Workspace, api: LocalApi, refusals: int, files: int, status: int, is_takeover: bool
) -> None:
    if is_takeover:
        claim(planned, "killed", upload(planned, api.client))
    used: list[str] = []

    def not_found(call: Call) -> Reply:
        if call.creates_batch:
            used.append(json.loads(call.body)["input_file_id"])
            if len(used) <= refusals:
                return Reply.of({"error": {"message": f"Cannot find file {used[-1]}, or …"}}, status)
        return call.forward()

    with proxy(api.url, not_found) as client:
        assert planned.submit(client).created == 1
    assert (len(used), len(set(used))) == (refusals + 1, files)
    assert ledger(planned, "file_id, message") == [(used[-1], None)]
    assert api.stats() == {**api.stats(), "batches_created": 1, "files_created": files}


def test_a_file_that_is_never_found_ends_in_a_refusal(planned: Workspace, api: LocalApi) -> None:
    def never_found(call: Call) -> Reply:
        if call.creates_batch:
            return Reply.of({"error": {"message": "Cannot find file file-x, or …"}}, 400)
        return call.forward()

    with proxy(api.url, never_found) as client, pytest.raises(SubmissionError, match="Cannot find file") as refused:
        planned.submit(client)
    assert refused.value.is_final
    assert api.stats() == {**api.stats(), "batches_created": 0, "files_created": 2}


def test_after_a_batch_failed_since_openai_deleted_its_file_the_file_is_uploaded_again(
    planned: Workspace, api: LocalApi
) -> None:
    """As OpenAI does: it creates the batch, and fails it a moment later."""
    claim(planned, "killed", "file-gone")
    for attempt in (1, 2):
        (batch_id,) = planned.submit(api.client).batch_ids
        assert api.wait(batch_id).status == "failed"
        assert planned.collect(api.client).fetched.requeued == [batch_id]
        assert ledger(planned, "attempt") == [(attempt + 1,)]
        planned.end_pauses()
    api.wait(planned.submit(api.client).batch_ids[0])
    assert planned.collect(api.client).requests == {"answered": 2}
    assert api.stats() == {**api.stats(), "batches_created": 3, "files_created": 1, "requests_executed": 2}


def test_the_requests_of_a_missing_file_are_pending_and_written_again(planned: Workspace, api: LocalApi) -> None:
    planned.request_files()[0].unlink()
    with pytest.raises(
        SubmissionError, match=r"does not exist. The run sent nothing of it, and its requests are pending again"
    ) as e:
        planned.submit(api.client)
    assert e.value.is_final
    assert ledger(planned, "state") == [("withdrawn",)]
    assert planned.rows("SELECT * FROM in_flight_request") == []
    assert planned.plan().requests == {"pending": 2}
    assert planned.submit(api.client).created == 1


SHARDS_A_DAY = 3


@pytest.fixture
def two_days(workspace: Workspace) -> Workspace:
    """Two days of three shards, all of the same size."""
    workspace = workspace.with_file_limits(max_requests=1)
    for day in (DAY, NEXT_DAY):
        workspace.ingest({str(n): f"text {n} of {day}" for n in range(SHARDS_A_DAY)}, day=day)
        workspace.plan(day=day)
    return workspace


def running(api: LocalApi) -> int:
    return sum(batch.status not in ENDED for batch in api.client.batches.list(limit=100).data)


def test_no_more_is_in_flight_than_the_budget_allows(two_days: Workspace, tmp_path: Path) -> None:
    (tokens,) = two_days.column("SELECT DISTINCT estimated_input_tokens FROM batch_request_file")
    limits = Limits(max_enqueued_tokens=2 * tokens)
    most = 0
    with serving(tmp_path / "slow", engine="instant", batch_seconds=0.2) as slow:
        unfinished = [DAY, NEXT_DAY]
        deadline = time.monotonic() + 20
        while unfinished:
            assert time.monotonic() < deadline
            for day in list(unfinished):
                submitted = two_days.submit(slow.client, day=day, limits=limits)
                most = max(most, running(slow))
                if two_days.collect(slow.client, day=day).requests == {"answered": SHARDS_A_DAY}:
                    assert submitted.deferred == 0
                    unfinished.remove(day)
        assert slow.stats() == {**slow.stats(), "batches_created": 6, "files_created": 6, "requests_executed": 6}
    assert most <= 2


def test_two_runs_at_once_keep_to_one_budget(two_days: Workspace, tmp_path: Path) -> None:
    (tokens,) = two_days.column("SELECT DISTINCT estimated_input_tokens FROM batch_request_file")
    with serving(tmp_path / "slow", engine="instant", batch_seconds=60) as slow:
        found: list[submit.Submitted] = []

        def submit(day: str) -> None:
            limits = Limits(max_enqueued_tokens=2 * tokens)
            found.append(two_days.submit(slow.client, day=day, run_id=day, limits=limits))

        threads = [threading.Thread(target=submit, args=(day,)) for day in (DAY, NEXT_DAY)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert running(slow) == slow.stats()["batches_created"] == 2
    assert sorted(report.created + report.deferred for report in found) == [SHARDS_A_DAY] * 2


def test_the_list_is_read_only_until_all_that_is_in_flight_was_seen(planned: Workspace, api: LocalApi) -> None:
    planned.submit(api.client)
    pages: list[str] = []

    def endless(call: Call) -> Reply:
        reply = call.forward()
        if not call.lists_batches:
            return reply
        pages.append(call.path)
        return Reply.of({**reply.json, "has_more": True})

    with proxy(api.url, endless) as client:
        submitter = planned.submitter(client)
        pages.clear()
        reconcile.update_in_flight(submitter)
    assert len(pages) == 1


def test_files_above_the_hourly_limit_are_deferred_until_a_known_time(two_days: Workspace, api: LocalApi) -> None:
    limits = Limits(max_batches_an_hour=2)
    submitted = two_days.submit(api.client, limits=limits)
    assert (submitted.created, submitted.deferred, len(submitted.batch_ids)) == (2, 1, 2)
    assert submitted.next_attempt_at is not None
    assert timedelta(minutes=59) < submitted.next_attempt_at - now_utc() <= timedelta(hours=1)
    assert two_days.submit(api.client, limits=limits).created == 0
    two_days.execute("UPDATE openai_batch SET claimed_at = claimed_at - INTERVAL 61 MINUTE")
    assert two_days.submit(api.client, limits=limits).created == 1
    assert api.stats()["batches_created"] == 3


def test_a_missing_batch_frees_its_enqueued_tokens(two_days: Workspace, api: LocalApi) -> None:
    limits = Limits(max_enqueued_tokens=1)
    (lost,) = two_days.submit(api.client, limits=limits).batch_ids

    def forget(call: Call) -> Reply:
        if call.lists_batches:
            page = call.forward().json
            return Reply.of({**page, "data": [batch for batch in page["data"] if batch["id"] != lost]})
        return Reply.of({"error": {"message": "No batch"}}, 404) if lost in call.path else call.forward()

    with proxy(api.url, forget) as client:
        submitted = two_days.submit(client, limits=limits)
    assert (submitted.created, submitted.deferred) == (1, 1)


def test_a_run_that_was_overtaken_during_its_post_cancels_its_batch(planned: Workspace) -> None:
    """The slower of two runs cancels its batch when it reads the ledger."""

    overtaken = "UPDATE openai_batch SET state = 'submitted', owner_run = 'second', batch_id = 'batch_of_second'"
    with slow_api_where(planned, overtaken) as (slow, client):
        with pytest.raises(SubmissionError, match="another run has taken it over"):
            planned.submit(client, run_id="first")
        assert [batch.status for batch in slow.client.batches.list()] in (["cancelling"], ["cancelled"])
    assert ("second", "batch_of_second") in ledger(planned, "owner_run, batch_id")
    assert planned.column("SELECT count(*) FROM submission_event WHERE move = 'adopt'") == [1]  # OpenAI may bill it
