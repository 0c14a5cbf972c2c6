"""Guards what a run does with a submission that a dead run has begun: in which account its batch may be, and whether
the request file, the user's wish and the account are still the same when the next POST is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import openai
import pytest

from batch_assets.batching.operations.cancel import cancel_day
from batch_assets.batching.provider.identity import identify
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets_tests.batching.conftest import CUT, DAY, Call, Reply, Workspace, called, proxy
from batch_assets_tests.local_api_client import LocalApi

NO_FILE = {"error": {"message": "Cannot find file, or organization org-1 does not have access to it."}}


def texts(workspace: Workspace, names: str = "ab") -> dict[str, str]:
    return {name: f"{name} of {workspace.folder.name}" for name in names}


def with_key(client: openai.OpenAI, key: str) -> openai.OpenAI:
    return client.with_options(api_key=key)


def begin(workspace: Workspace, api: LocalApi) -> str:
    """A run whose batch is made, and which does not learn of it before it dies; returns the batch's id."""
    workspace.ingest(texts(workspace))
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


def as_an_earlier_version_left_it(workspace: Workspace) -> None:
    workspace.execute("UPDATE openai_batch SET api = NULL, key_fingerprint = NULL, organization = NULL")


def as_it_is(workspace: Workspace) -> None:
    pass


@pytest.mark.parametrize("age", [as_it_is, as_an_earlier_version_left_it])
@pytest.mark.parametrize("name", [None, "local+instant"])
def test_what_was_begun_with_another_accounts_key_is_not_made_again(
    workspace: Workspace, api: LocalApi, age: Callable[[Workspace], None], name: str | None
) -> None:
    made = begin(workspace, api)
    age(workspace)
    with proxy(api.url, called(name, another_account) if age is not as_it_is else another_account) as client:
        for _ in range(2):
            with pytest.raises(SubmissionError, match="with another key, and its batch may exist") as stopped:
                workspace.submit(with_key(client, "theirs"), run_id="later")
            assert f"`batch-assets cancel {DAY}`" in str(stopped.value)
            assert stopped.value.is_final
    submitted = workspace.submit(with_key(api.client, "ours"), run_id="later")
    assert (submitted.created, submitted.batch_ids) == (0, [made])
    assert api.stats()["batches_created"] == 1


def test_a_key_that_was_rotated_within_the_account_finds_the_batch_and_is_noted(
    workspace: Workspace, api: LocalApi
) -> None:
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


def test_a_claim_without_an_upload_goes_out_in_any_account(workspace: Workspace, api: LocalApi) -> None:
    """The upload is in the ledger before a batch is made of it."""
    workspace.ingest(texts(workspace))
    workspace.plan()
    with proxy(api.url, lambda call: CUT if call.uploads else call.forward()) as client, pytest.raises(SubmissionError):
        workspace.submit(with_key(client, "ours"))
    assert workspace.submit(with_key(api.client, "theirs"), run_id="later").created == 1


def test_a_cancelled_day_gives_up_what_another_account_may_have(workspace: Workspace, api: LocalApi) -> None:
    begin(workspace, api)
    cancel_day(workspace.database, api.client, day=DAY, data_folder=workspace.folder)
    with proxy(api.url, another_account) as client:
        assert workspace.submit(with_key(client, "theirs"), run_id="later").batch_ids == []
        assert workspace.column("SELECT state FROM openai_batch") == ["withdrawn"]
        workspace.plan()
        assert workspace.submit(with_key(client, "theirs"), run_id="later").created == 1


# --- what has changed since the claim


@pytest.mark.parametrize("moment", ["upload", "lost answer"])
def test_what_the_user_cancels_between_the_claim_and_the_batch_is_not_made(
    workspace: Workspace, api: LocalApi, moment: str
) -> None:
    workspace.ingest(texts(workspace))
    workspace.plan()

    def answer(call: Call) -> Reply | None:
        reply = call.forward() if not (moment == "lost answer" and call.creates_batch) else CUT
        if call.uploads if moment == "upload" else call.creates_batch:
            cancel_day(workspace.database, api.client, day=DAY, data_folder=workspace.folder)
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
def test_a_request_file_that_was_changed_since_it_was_planned_is_not_paid_for(
    workspace: Workspace, api: LocalApi, change: Callable[[bytes], bytes]
) -> None:
    workspace.ingest(texts(workspace))
    (shard,) = workspace.plan().shards
    shard.path.write_bytes(change(shard.path.read_bytes()))
    with pytest.raises(SubmissionError, match=r"was changed after it was planned\. The run sent nothing of it"):
        workspace.submit(api.client)
    assert api.stats()["files_created"] == 0
    workspace.plan()
    workspace.send(api.client, api)
    assert workspace.statuses() == {"answered": 2}


@pytest.mark.parametrize("refusal", [(403, "You have no permission."), (400, "Billing hard limit has been reached.")])
def test_a_second_upload_that_is_refused_leaves_what_was_sent_to_be_looked_for(
    workspace: Workspace, api: LocalApi, refusal: tuple[int, str]
) -> None:
    """The answer to the creation was lost, and the list lags."""
    workspace.ingest(texts(workspace))
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
def test_a_gateway_that_answers_for_the_api_gives_it_no_other_name(
    workspace: Workspace, api: LocalApi, status: int
) -> None:
    def gateway(call: Call) -> Reply:
        return Reply(status, json.dumps({"error": {"message": "Later."}}).encode(), api=None)

    with proxy(api.url, gateway) as client, pytest.raises(openai.OpenAIError):
        identify(client, workspace.database.warehouse_id())
