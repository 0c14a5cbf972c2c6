"""Guards the takeover of a submission that a killed run has begun: the run checks the account that may have its batch,
and before each POST whether the request file, the account and the cancellation have changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import openai
import pytest

from batch_assets.batching.operations.cancel import cancel_day
from batch_assets.batching.provider.identity import identify
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets_tests.batching.conftest import CUT, DAY, Call, Reply, Workspace, proxy, with_api_name, with_key
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of

NO_FILE = {"error": {"message": "Cannot find file, or organization org-1 does not have access to it."}}


def begin(workspace: Workspace, api: LocalApi) -> str:
    """A run that was killed after the API had created its batch, before it knew the batch; returns the batch's id."""
    workspace.ingest(workspace.texts())
    workspace.plan()
    made: list[str] = []

    def answer(call: Call) -> Reply | None:
        if made:
            return CUT
        reply = call.forward()
        if call.creates_batch:
            made.append(reply.json["id"])
            return CUT
        return reply

    with proxy(api.url, answer) as client, pytest.raises(SubmissionError):
        workspace.submit(with_key(client, "ours"))
    assert workspace.column("SELECT state FROM openai_batch") == ["claimed"]
    return made[0]


def another_account(call: Call) -> Reply:
    """An account that has neither files nor batches of ours."""
    if call.lists_batches or call.path.startswith("/v1/files?"):
        return Reply.of({"object": "list", "data": [], "has_more": False})
    if call.method == "GET":
        return Reply.of(NO_FILE, 404)
    return call.forward()


def as_an_earlier_version_recorded_it(workspace: Workspace) -> None:
    workspace.execute("UPDATE openai_batch SET api = NULL, key_fingerprint = NULL, organization = NULL")


def as_it_is(workspace: Workspace) -> None:
    pass


@pytest.mark.parametrize("age", [as_it_is, as_an_earlier_version_recorded_it])
@pytest.mark.parametrize("name", [None, "local+instant"])
def test_a_submission_begun_with_the_key_of_another_account_is_not_repeated(
    workspace: Workspace, api: LocalApi, age: Callable[[Workspace], None], name: str | None
) -> None:
    made = begin(workspace, api)
    age(workspace)
    with proxy(api.url, with_api_name(name, another_account) if age is not as_it_is else another_account) as client:
        for _ in range(2):
            with pytest.raises(SubmissionError, match="with another key, and its batch may exist") as stopped:
                workspace.submit(with_key(client, "theirs"), run_id="later")
            assert f"`batch-assets cancel {DAY}`" in str(stopped.value)
            assert stopped.value.is_final
    submitted = workspace.submit(with_key(api.client, "ours"), run_id="later")
    assert (submitted.created, submitted.batch_ids) == (0, [made])
    assert api.stats()["batches_created"] == 1


def test_a_new_key_of_the_same_account_finds_the_batch_and_is_recorded(workspace: Workspace, api: LocalApi) -> None:
    made = begin(workspace, api)
    client = with_key(api.client, "rotated")
    submitted = workspace.submit(client, run_id="later")
    assert (submitted.created, submitted.batch_ids) == (0, [made])
    rotated = identify(client, workspace.database.warehouse_id())
    assert workspace.column("SELECT key_fingerprint FROM openai_batch") == [rotated.key_fingerprint]


def test_an_api_that_cannot_tell_whether_it_has_the_file_is_asked_again(workspace: Workspace, api: LocalApi) -> None:
    begin(workspace, api)

    def overloaded(call: Call) -> Reply:
        is_file = call.method == "GET" and call.path.startswith("/v1/files/")
        return Reply.of({"error": {"message": "Overloaded."}}, 503) if is_file else call.forward()

    with proxy(api.url, overloaded) as client, pytest.raises(SubmissionError) as stopped:
        workspace.submit(with_key(client, "theirs"), run_id="later")
    assert not stopped.value.is_final
    assert api.stats()["batches_created"] == 1


def test_a_claim_without_an_upload_is_submitted_from_any_account(workspace: Workspace, api: LocalApi) -> None:
    """The ledger has the upload before a run creates a batch of it."""
    workspace.ingest(workspace.texts())
    workspace.plan()
    with proxy(api.url, lambda call: CUT if call.uploads else call.forward()) as client, pytest.raises(SubmissionError):
        workspace.submit(with_key(client, "ours"))
    assert workspace.submit(with_key(api.client, "theirs"), run_id="later").created == 1


def test_a_cancelled_day_does_not_wait_for_a_batch_that_another_account_may_have(
    workspace: Workspace, api: LocalApi
) -> None:
    begin(workspace, api)
    cancel_day(workspace.database, api.client, day=of(DAY), data_folder=workspace.folder)
    with proxy(api.url, another_account) as client:
        assert workspace.submit(with_key(client, "theirs"), run_id="later").batch_ids == []
        assert workspace.column("SELECT state FROM openai_batch") == ["withdrawn"]
        workspace.plan()
        assert workspace.submit(with_key(client, "theirs"), run_id="later").created == 1


# --- what has changed since the claim


@pytest.mark.parametrize("moment", ["upload", "lost answer"])
def test_no_batch_is_created_of_a_day_that_the_user_cancels_after_the_claim(
    workspace: Workspace, api: LocalApi, moment: str
) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()

    def answer(call: Call) -> Reply | None:
        reply = call.forward() if not (moment == "lost answer" and call.creates_batch) else CUT
        if call.uploads if moment == "upload" else call.creates_batch:
            cancel_day(workspace.database, api.client, day=of(DAY), data_folder=workspace.folder)
        return reply

    with proxy(api.url, answer) as client, pytest.raises(SubmissionError, match="cancelled"):
        workspace.submit(client)
    assert api.stats()["batches_created"] == 0
    assert workspace.column("SELECT state FROM openai_batch") == ["withdrawn"]
    assert workspace.plan(resume_cancelled=False).requests == {"cancelled": 2}
    workspace.plan()
    workspace.send(api.client, api)
    assert workspace.statuses() == {"answered": 2}


def cut_short(content: bytes) -> bytes:
    return content[:-20]


def with_another_model(content: bytes) -> bytes:
    return content.replace(b"gpt", b"gpu")


def with_a_line_twice(content: bytes) -> bytes:
    return content + content.splitlines(keepends=True)[0]


@pytest.mark.parametrize("change", [cut_short, with_another_model, with_a_line_twice])
def test_a_request_file_that_was_changed_after_the_plan_is_not_sent(
    workspace: Workspace, api: LocalApi, change: Callable[[bytes], bytes]
) -> None:
    workspace.ingest(workspace.texts())
    (shard,) = workspace.plan().shards
    shard.path.write_bytes(change(shard.path.read_bytes()))
    with pytest.raises(SubmissionError, match=r"was changed after it was planned\. The run sent nothing of it"):
        workspace.submit(api.client)
    assert api.stats()["files_created"] == 0
    workspace.plan()
    workspace.send(api.client, api)
    assert workspace.statuses() == {"answered": 2}


@pytest.mark.parametrize("refusal", [(403, "You have no permission."), (400, "Billing hard limit has been reached.")])
def test_after_a_refused_second_upload_the_claim_stays(
    workspace: Workspace, api: LocalApi, refusal: tuple[int, str]
) -> None:
    """The answer to the creation was lost, and the list lags."""
    workspace.ingest(workspace.texts())
    workspace.plan()
    status, message = refusal
    creations: list[str] = []
    uploads: list[str] = []

    def answer(call: Call) -> Reply | None:
        if call.lists_batches:
            return Reply.of({"object": "list", "data": [], "has_more": False})
        if call.creates_batch:
            creations.append(call.path)
            if len(creations) > 1:
                return Reply.of(NO_FILE, 404)
            call.forward()
            return CUT
        if call.uploads:
            uploads.append(call.path)
            if len(uploads) > 1:
                return Reply.of({"error": {"message": message}}, status)
        return call.forward()

    with proxy(api.url, answer) as client, pytest.raises(SubmissionError):
        workspace.submit(client)
    assert workspace.column("SELECT state FROM openai_batch") == ["claimed"]
    assert workspace.submit(api.client, run_id="later").created == 0
    assert api.stats()["batches_created"] == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_an_error_of_a_gateway_does_not_change_the_name_of_the_api(
    workspace: Workspace, api: LocalApi, status: int
) -> None:
    def gateway(call: Call) -> Reply:
        return Reply(status, json.dumps({"error": {"message": "Later."}}).encode(), api=None)

    with proxy(api.url, gateway) as client, pytest.raises(openai.OpenAIError):
        identify(client, workspace.database.warehouse_id())
