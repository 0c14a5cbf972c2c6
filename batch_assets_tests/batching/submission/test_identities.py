"""Guards against a run that uses or changes a batch, a file or an account of another database.

Two databases with equal articles share one account, the user changes the key, an API moves: no run buys a request twice
or changes the files and batches of the other database, and messages name the API that a batch waits for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import pytest

from batch_assets.batching.ledger.aliases import move_api
from batch_assets.batching.ledger.known_batches import real_apis
from batch_assets.batching.operations.cancel import Cancelled, cancel_day
from batch_assets.batching.provider.identity import identify
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets_tests.batching.conftest import (
    API,
    CUT,
    DAY,
    ELSEWHERE,
    NEXT_DAY,
    Call,
    FailsFirst,
    Reply,
    Workspace,
    changed_lines,
    hiding_batches,
    open_workspace,
    proxy,
    still_running,
    with_api_name,
    with_key,
)
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of


def plan_equal_days(*workspaces: Workspace) -> None:
    """Plan the same articles in each of these databases."""
    for workspace in workspaces:
        workspace.ingest(workspaces[0].texts())
        workspace.plan()


def only_batch(workspace: Workspace) -> str:
    (batch_id,) = workspace.column("SELECT batch_id FROM openai_batch WHERE batch_id IS NOT NULL")
    return str(batch_id)


def states(workspace: Workspace) -> list[str]:
    return workspace.column("SELECT state FROM openai_batch ORDER BY partition_date, plan, shard")


# --- two databases on one account


def never_arrives(call: Call, creates: list[Call]) -> Reply | None:
    return CUT if call.creates_batch and len(creates) == 1 else call.forward()


def arrives(call: Call, creates: list[Call]) -> Reply | None:
    reply = call.forward()
    return CUT if call.creates_batch and len(creates) == 1 else reply


def arrives_without_metadata(call: Call, creates: list[Call]) -> Reply | None:
    if not call.creates_batch:
        return call.forward()
    asked = json.loads(call.body)
    asked.pop("metadata", None)
    reply = call.forward(json.dumps(asked).encode())
    return CUT if len(creates) == 1 else reply


@pytest.mark.parametrize("lose", [never_arrives, arrives, arrives_without_metadata])
@pytest.mark.parametrize("a_is_first", [True, False])
def test_a_database_that_loses_the_answer_to_its_creation_has_its_own_batch(
    workspace: Workspace,
    second: Workspace,
    api: LocalApi,
    lose: Callable[[Call, list[Call]], Reply | None],
    a_is_first: bool,
) -> None:
    plan_equal_days(workspace, second)
    creates: list[Call] = []

    def answer(call: Call) -> Reply | None:
        if call.creates_batch:
            creates.append(call)
            if not a_is_first and len(creates) == 1:  # the other batch is created while this answer is lost
                workspace.submit(api.client)
        return lose(call, creates)

    if a_is_first:
        workspace.submit(api.client)
    with proxy(api.url, answer) as client:
        second.submit(client)
    assert only_batch(second) != only_batch(workspace)
    for own in (workspace, second):
        api.wait(only_batch(own))
        assert own.collect(api.client).requests == {"answered": 2}
    assert api.stats() == {**api.stats(), "batches_created": 2, "files_created": 2, "requests_executed": 4}


def a_batch(second: Workspace, client: openai.OpenAI) -> None:
    second.submit(client)


def only_a_plan(second: Workspace, client: openai.OpenAI) -> None:
    pass


def a_lost_claim(second: Workspace, client: openai.OpenAI) -> None:
    def lose(call: Call) -> Reply | None:
        return CUT if call.creates_batch else call.forward()

    with proxy(str(client.base_url).rstrip("/"), lose) as broken, pytest.raises(SubmissionError):
        second.submit(broken)


@pytest.mark.parametrize(
    ("prepare", "cancelled"),
    [(only_a_plan, Cancelled(withdrawn=1)), (a_batch, Cancelled(stopped=1)), (a_lost_claim, Cancelled(unknown=1))],
)
def test_a_day_that_is_cancelled_in_one_database_goes_on_in_the_other(
    workspace: Workspace,
    second: Workspace,
    tmp_path: Path,
    prepare: Callable[[Workspace, openai.OpenAI], None],
    cancelled: Cancelled,
) -> None:
    plan_equal_days(workspace, second)
    with serving(tmp_path / "slow", engine="instant", batch_seconds=0.6) as slow:
        workspace.submit(slow.client)
        prepare(second, slow.client)
        assert cancel_day(second.database, slow.client, day=of(DAY), data_folder=second.folder) == cancelled
        second.submit(slow.client)  # searches for the lost batch, and creates none
        assert slow.wait(only_batch(workspace)).status == "completed"
        assert workspace.collect(slow.client).requests == {"answered": 2}
        assert slow.stats()["batches_created"] == (2 if prepare is a_batch else 1)


@pytest.mark.parametrize("arrive", [(True,), (False,), (True, True), (False, True)], ids=str)
def test_a_database_that_loses_its_uploads_neither_takes_nor_deletes_anothers_file(
    workspace: Workspace, second: Workspace, api: LocalApi, arrive: tuple[bool, ...]
) -> None:
    plan_equal_days(workspace, second)
    workspace.submit(api.client)
    (theirs,) = workspace.column("SELECT file_id FROM openai_batch")
    left = list(arrive)

    def lose(call: Call) -> Reply | None:
        if not (call.uploads and left):
            return call.forward()
        if left.pop(0):
            call.forward()
        return CUT

    with proxy(api.url, lose) as client:
        second.submit(client)
    (own,) = second.column("SELECT file_id FROM openai_batch")
    assert own != theirs
    assert api.client.files.retrieve(theirs).id == theirs
    for one in (workspace, second):
        assert api.wait(only_batch(one)).status == "completed"
        assert one.collect(api.client).requests == {"answered": 2}


@contextmanager
def copied(workspace: Workspace, *, is_renamed: bool) -> Iterator[Workspace]:
    """The data folder and the database as they are now, in another place; renamed: with an identity of its own."""
    with workspace.restore(workspace.back_up()) as copy:
        if is_renamed:
            copy.renew_warehouse_id()
        yield copy


@pytest.mark.parametrize("lose", [never_arrives, arrives, None])
def test_a_copied_database_with_its_own_identity_has_its_own_batch(
    workspace: Workspace, api: LocalApi, lose: Callable[[Call, list[Call]], Reply | None] | None
) -> None:
    plan_equal_days(workspace)
    creates: list[Call] = []

    def answer(call: Call) -> Reply | None:
        creates.extend([call] if call.creates_batch else [])
        return call.forward() if lose is None else lose(call, creates)

    with copied(workspace, is_renamed=True) as copy:
        workspace.submit(api.client)
        with proxy(api.url, answer) as client:
            copy.submit(client)
        assert only_batch(copy) != only_batch(workspace)
        for one in (workspace, copy):
            api.wait(only_batch(one))
            assert one.collect(api.client).requests == {"answered": 2}
    assert api.stats()["batches_created"] == 2


def drop_metadata_of_others(call: Call) -> Reply:
    """The account has batches with other metadata, or without metadata."""
    reply = call.forward()
    if not call.lists_batches:
        return reply
    page = reply.json
    strange = [{"id": f"batch_strange_{n}", "metadata": metadata} for n, metadata in enumerate((None, {}, {"x": "y"}))]
    return Reply.of({**page, "data": [*strange, *page["data"]]})


@pytest.mark.parametrize("answer", [Call.forward, drop_metadata_of_others], ids=["as it is", "among others"])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_copy_that_was_not_renamed_shares_the_batches_and_buys_nothing(
    workspace: Workspace, api: LocalApi, answer: Callable[[Call], Reply], shards: int
) -> None:
    """It looks like a restored backup."""
    if shards == 2:
        workspace = workspace.with_file_limits(max_requests=1)
    plan_equal_days(workspace)
    with copied(workspace, is_renamed=False) as copy:
        workspace.submit(api.client)
        with proxy(api.url, answer) as client:
            assert copy.submit(client).recovered == shards
        batches = "SELECT batch_id FROM openai_batch ORDER BY batch_id"
        assert copy.column(batches) == workspace.column(batches)
        for one in (workspace, copy):
            for batch_id in one.column(batches):
                api.wait(batch_id)
            assert one.collect(api.client).requests == {"answered": 2}
    assert api.stats() == {**api.stats(), "batches_created": shards, "requests_executed": 2}


# --- the key of another account


def made_by_the_same_key(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"x": f"x of {workspace.folder.name}"}, day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY)
    workspace.send(with_key(api.client, "ours"), api, day=NEXT_DAY)


def made_by_another_key(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"x": f"x of {workspace.folder.name}"}, day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY)
    workspace.send(with_key(api.client, "another"), api, day=NEXT_DAY)


def made_at_another_api(workspace: Workspace, api: LocalApi) -> None:
    made_by_the_same_key(workspace, api)
    workspace.execute("UPDATE openai_batch SET api = ? WHERE partition_date = ?", [ELSEWHERE, NEXT_DAY])


def not_made(workspace: Workspace, api: LocalApi) -> None:
    pass


def not_ours(workspace: Workspace, api: LocalApi) -> None:
    api.client.batches.create(input_file_id="file-x", endpoint="/v1/chat/completions", completion_window="24h")


@pytest.mark.parametrize(
    ("make_others", "is_lost"),
    [
        (made_by_the_same_key, True),
        (made_by_another_key, False),
        (made_at_another_api, False),
        (not_made, False),
        (not_ours, False),
    ],
)
def test_a_batch_that_is_not_found_is_lost_only_if_its_account_shows_others(
    workspace: Workspace, api: LocalApi, make_others: Callable[[Workspace, LocalApi], None], is_lost: bool
) -> None:
    plan_equal_days(workspace)
    make_others(workspace, api)
    (batch_id,) = workspace.submit(with_key(api.client, "ours")).batch_ids
    api.wait(batch_id)
    with proxy(api.url, hiding_batches(batch_id)) as client:
        for key in ("another", "ours"):
            collected = workspace.collect(with_key(client, key))
        assert collected.fetched.missing == ([] if is_lost else [batch_id])
        assert collected.requests == ({"pending": 2} if is_lost else {"in_flight": 2})
        plan = workspace.plan()
        assert sum(shard.requests for shard in plan.shards) == (2 if is_lost else 0)
    ((state, message),) = workspace.rows("SELECT state, message FROM openai_batch WHERE batch_id = ?", [batch_id])
    assert state == ("lost" if is_lost else "missing")
    assert batch_id in message


def another_organization(client: openai.OpenAI) -> openai.OpenAI:
    return client.with_options(organization="org-B")


def another_project(client: openai.OpenAI) -> openai.OpenAI:
    return client.with_options(project="proj_B")


def neither(client: openai.OpenAI) -> openai.OpenAI:
    return openai.OpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0)


@pytest.mark.parametrize("change", [another_organization, another_project, neither])
def test_a_batch_that_the_same_key_made_in_another_organization_or_project_is_not_lost(
    workspace: Workspace, api: LocalApi, change: Callable[[openai.OpenAI], openai.OpenAI]
) -> None:
    """OPENAI_ORG_ID or OPENAI_PROJECT_ID was changed, and the key was not."""
    plan_equal_days(workspace)
    ours = api.client.with_options(organization="org-A", project="proj_A")
    (batch_id,) = workspace.submit(ours).batch_ids
    api.wait(batch_id)
    workspace.ingest({"x": f"x of {workspace.folder.name}"}, day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY)
    workspace.send(change(ours), api, day=NEXT_DAY)
    with proxy(api.url, hiding_batches(batch_id)) as client:
        blind = with_key(client.with_options(organization="org-A", project="proj_A"), api.client.api_key)
        for _ in range(3):
            assert workspace.collect(change(blind)).fetched.missing == [batch_id]
            assert workspace.plan().shards == []
    assert workspace.collect(ours).requests == {"answered": 2}
    assert api.stats()["batches_created"] == 2


@pytest.mark.parametrize(
    ("ours", "theirs", "is_lost"),
    [("org-A", "org-B", False), ("org-A", "org-A", True), ("org-A", None, True), (None, "org-B", True)],
)
def test_the_organization_that_the_api_names_tells_accounts_apart_where_both_are_known(
    workspace: Workspace, api: LocalApi, ours: str | None, theirs: str | None, is_lost: bool
) -> None:
    """The user changed the default organization at OpenAI: the key is the same."""
    plan_equal_days(workspace)
    made_by_the_same_key(workspace, api)
    (batch_id,) = workspace.submit(with_key(api.client, "ours")).batch_ids
    for day, organization in ((DAY, ours), (NEXT_DAY, theirs)):
        workspace.execute("UPDATE openai_batch SET organization = ? WHERE partition_date = ?", [organization, day])
    with proxy(api.url, hiding_batches(batch_id)) as client:
        for _ in range(2):
            workspace.collect(with_key(client, "ours"))
    assert states(workspace)[0] == ("lost" if is_lost else "missing")


def test_a_key_alone_has_the_fingerprint_that_it_always_had(api: LocalApi) -> None:
    """A ledger identifies the accounts of its batches by it."""
    assert identify(with_key(api.client, "a key"), "a warehouse").key_fingerprint == "7b9c457a4a7f727b"


def days_ago(workspace: Workspace, column: str, days: int) -> None:
    workspace.execute(f"UPDATE openai_batch SET {column} = {column} - INTERVAL {days} DAY")


def test_a_batch_is_lost_only_after_it_was_missing_for_longer_than_a_batch_may_take(
    workspace: Workspace, api: LocalApi
) -> None:
    """A single 404 is no proof, however old the batch is."""
    workspace = workspace.with_timing(lost_after=timedelta(hours=25))
    plan_equal_days(workspace)
    made_by_the_same_key(workspace, api)
    (batch_id,) = workspace.submit(with_key(api.client, "ours")).batch_ids
    for moment in ("claimed_at", "submitted_at"):
        days_ago(workspace, moment, 20)
    with proxy(api.url, hiding_batches(batch_id)) as client:
        for days in (0, 1):
            days_ago(workspace, "missing_since", days)
            assert workspace.collect(with_key(client, "ours")).fetched.missing == [batch_id]
            assert workspace.plan().shards == []
        days_ago(workspace, "missing_since", 1)
        assert workspace.collect(with_key(client, "ours")).requests == {"pending": 2}
    assert states(workspace)[0] == "lost"


@pytest.mark.parametrize("through", ["submit", "collect"])
def test_the_time_for_which_a_batch_is_missing_restarts_after_it_was_found(
    workspace: Workspace, api: LocalApi, through: str
) -> None:
    workspace = workspace.with_timing(lost_after=timedelta(hours=25))
    plan_equal_days(workspace)
    made_by_the_same_key(workspace, api)
    client = with_key(api.client, "ours")
    (batch_id,) = workspace.submit(client).batch_ids
    with proxy(api.url, hiding_batches(batch_id)) as blind, proxy(api.url, still_running) as running:
        for _ in range(3):
            workspace.collect(with_key(blind, "ours"))
            days_ago(workspace, "missing_since", 2)
            with_sight = with_key(running, "ours")
            workspace.submit(with_sight) if through == "submit" else workspace.collect(with_sight)
            assert states(workspace)[0] == "submitted"
    assert workspace.column("SELECT missing_since FROM openai_batch WHERE batch_id = ?", [batch_id]) == [None]


def listed_all_the_same(batch_id: str) -> Callable[[Call], Reply]:
    """An API that finds the batch by no id, and lists it."""

    def answer(call: Call) -> Reply:
        return call.forward() if call.lists_batches else hiding_batches(batch_id)(call)

    return answer


def no_list(batch_id: str) -> Callable[[Call], Reply]:
    """An API that fails to list its batches, but for the first page of one, by which we know it."""

    def answer(call: Call) -> Reply:
        if call.lists_batches and "limit=100" in call.path:
            return Reply.of({"error": {"message": "overloaded"}}, 503)
        return hiding_batches(batch_id)(call)

    return answer


@pytest.mark.parametrize("make_answer", [listed_all_the_same, no_list])
def test_a_batch_is_not_lost_unless_a_whole_list_without_it_was_seen(
    workspace: Workspace, api: LocalApi, make_answer: Callable[[str], Callable[[Call], Reply]]
) -> None:
    plan_equal_days(workspace)
    workspace.ingest({"c": f"c of {workspace.folder.name}", "a": f"a of {workspace.folder.name}"})
    made_by_the_same_key(workspace, api)
    (batch_id,) = workspace.submit(with_key(api.client, "ours")).batch_ids
    api.wait(batch_id)
    with proxy(api.url, make_answer(batch_id)) as client:
        for _ in range(3):
            collected = workspace.collect(with_key(client, "ours"))
            assert (collected.fetched.missing, collected.requests) == ([batch_id], {"in_flight": 2})
    assert states(workspace)[0] == "missing"


def test_the_key_of_another_account_is_reported_at_once_and_buys_nothing(workspace: Workspace, api: LocalApi) -> None:
    """For days, whichever asset is materialized; its account shows batches of its own."""
    plan_equal_days(workspace)
    made_by_another_key(workspace, api)
    (batch_id,) = workspace.submit(with_key(api.client, "ours")).batch_ids
    api.wait(batch_id)
    with proxy(api.url, hiding_batches(batch_id)) as client:
        stranger = with_key(client, "another")
        for _ in range(3):
            assert workspace.submit(stranger).created == 0
            assert workspace.collect(stranger).fetched.missing == [batch_id]
            assert workspace.plan().shards == []
    (message,) = workspace.column("SELECT message FROM openai_batch WHERE state = 'missing'")
    assert "does not find" in message
    assert workspace.collect(with_key(api.client, "ours")).requests == {"answered": 2}
    assert api.stats() == {**api.stats(), "batches_created": 2, "requests_executed": 3}


KINDS: dict[str, tuple[Callable[[], Callable[[Call], Reply]], str, str]] = {
    "running": (lambda: still_running, "submitted", "submitted"),
    "completed": (lambda: Call.forward, "submitted", "collected"),
    "no capacity": (
        lambda: FailsFirst("token_limit_exceeded", "Enqueued token limit reached."),
        "deferred",
        "deferred",
    ),
}


@pytest.mark.parametrize("through", ["submit", "collect"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_batch_is_found_again_when_its_key_returns(
    workspace: Workspace, api: LocalApi, through: str, kind: str
) -> None:
    plan_equal_days(workspace)
    make_answer, after_submit, after_collect = KINDS[kind]
    with proxy(api.url, make_answer()) as client:
        (batch_id,) = workspace.submit(client).batch_ids
        api.wait(batch_id)
        with proxy(api.url, hiding_batches(batch_id)) as stranger:
            workspace.collect(stranger) if through == "collect" else workspace.submit(stranger)
        assert states(workspace) == ["missing"]
        if through == "collect":
            workspace.collect(client)
            assert states(workspace) == [after_collect]
        else:
            workspace.submit(client)
            assert states(workspace) == [after_submit]
    workspace.end_pauses()
    assert workspace.send(api.client, api).requests == {"answered": 2}
    assert workspace.column("SELECT missing_since FROM openai_batch") == [None]
    assert api.stats()["requests_executed"] == 2


def lose(workspace: Workspace, api: LocalApi) -> str:
    """A day whose batch the account no longer shows, although it shows others."""
    plan_equal_days(workspace)
    made_by_the_same_key(workspace, api)
    client = with_key(api.client, "ours")
    (batch_id,) = workspace.submit(client).batch_ids
    api.wait(batch_id)
    with proxy(api.url, hiding_batches(batch_id)) as blind:
        for _ in range(2):
            workspace.collect(with_key(blind, "ours"))
    assert states(workspace)[0] == "lost"
    return batch_id


def test_a_lost_batch_that_is_seen_before_it_is_bought_again_is_collected_instead(
    workspace: Workspace, api: LocalApi
) -> None:
    batch_id = lose(workspace, api)
    assert sum(shard.requests for shard in workspace.plan().shards) == 2
    submitted = workspace.submit(api.client)
    assert (submitted.created, submitted.recovered, submitted.batch_ids) == (0, 1, [batch_id])
    assert workspace.collect(api.client).requests == {"answered": 2}
    assert states(workspace) == ["collected", "withdrawn", "collected"]
    assert api.stats() == {**api.stats(), "batches_created": 2, "requests_executed": 3}


def test_a_lost_batch_that_is_seen_after_it_was_bought_again_is_counted_and_nothing_more_is_bought(
    workspace: Workspace, api: LocalApi
) -> None:
    batch_id = lose(workspace, api)
    workspace.plan()
    with proxy(api.url, hiding_batches(batch_id)) as blind:
        workspace.send(with_key(blind, "ours"), api)
    answers = workspace.rows("SELECT * FROM completion ORDER BY ALL")
    workspace.ingest({"c": f"c of {workspace.folder.name}", "a": f"a of {workspace.folder.name}"})
    workspace.plan()
    assert workspace.submit(api.client).recovered == 1
    for waited_for in workspace.column("SELECT batch_id FROM openai_batch WHERE state = 'submitted'"):
        api.wait(waited_for)
    workspace.collect(api.client)
    assert workspace.statuses() == {"answered": 2}
    assert set(answers) < set(workspace.rows("SELECT * FROM completion"))
    spent = dict(workspace.rows("SELECT batch_id, requests FROM spending WHERE partition_date = ?", [DAY]))
    assert spent[batch_id] == 2
    assert sorted(spent.values()) == [1, 2, 2]
    assert workspace.plan().shards == []
    assert api.stats()["requests_executed"] == 1 + 2 + 2 + 1


def test_a_lost_batch_that_only_shares_a_request_with_what_is_planned_is_not_asked_twice(
    workspace: Workspace, api: LocalApi
) -> None:
    lose(workspace, api)
    texts = workspace.texts("bcd")
    workspace.ingest(texts)
    workspace.plan()
    workspace.send(api.client, api)
    workspace.whole_day(api)
    assert workspace.statuses() == {"answered": 3}
    assert api.stats()["requests_executed"] == 1 + 2 + 2


# --- another API


def test_a_batch_at_another_api_waits_for_it_and_says_so(workspace: Workspace, api: LocalApi) -> None:
    plan_equal_days(workspace)
    (batch_id,) = workspace.submit(api.client).batch_ids
    api.wait(batch_id)
    with proxy(api.url, with_api_name(ELSEWHERE)) as client:
        for _ in range(2):
            collected = workspace.collect(client)
            assert collected.requests == {"in_flight": 2}
            (sentence,) = collected.fetched.elsewhere
            assert f"{batch_id} of {DAY} was made at {API}, and the API is {ELSEWHERE} now." in sentence
            assert f"batch-assets move-api {API} {ELSEWHERE}" in sentence
            assert workspace.plan(api=ELSEWHERE).shards == []
            assert workspace.submit(client).created == 0
    assert workspace.collect(api.client).requests == {"answered": 2}
    assert api.stats()["batches_created"] == 1


@pytest.mark.parametrize("is_deferred", [False, True])
def test_a_submission_without_a_batch_is_sent_to_the_new_api(
    workspace: Workspace, api: LocalApi, is_deferred: bool
) -> None:
    plan_equal_days(workspace)
    if is_deferred:
        with proxy(api.url, FailsFirst("token_limit_exceeded", "Enqueued token limit reached.")) as client:
            api.wait(workspace.submit(client).batch_ids[0])
            workspace.collect(client)
        assert states(workspace) == ["deferred"]
        workspace.end_pauses()
    with proxy(api.url, with_api_name(ELSEWHERE)) as client:
        (batch_id,) = workspace.submit(client).batch_ids
        api.wait(batch_id)
        assert workspace.collect(client).requests == {"answered": 2}
    assert workspace.column("SELECT DISTINCT api FROM completion") == [ELSEWHERE]
    assert workspace.column("SELECT DISTINCT api FROM spending") == [ELSEWHERE]
    assert api.stats()["files_created"] == (
        2 if is_deferred else 1
    )  # a file of the old API is not known at the new one


def test_a_claim_at_another_api_raises_an_error_and_is_not_repeated(workspace: Workspace, api: LocalApi) -> None:
    plan_equal_days(workspace)
    a_lost_claim(workspace, api.client)
    with proxy(api.url, with_api_name(ELSEWHERE)) as client:
        with pytest.raises(
            SubmissionError, match=rf"A run began .* at {API.replace('+', '.')}, and the API is"
        ) as said:
            workspace.submit(client, run_id="later")
        assert said.value.is_final
        assert f"batch-assets move-api {API} {ELSEWHERE}" in str(said.value)
    assert workspace.submit(api.client, run_id="later").created == 1


def test_an_api_that_has_moved_is_the_same_one(workspace: Workspace, api: LocalApi) -> None:
    plan_equal_days(workspace)
    workspace.ingest({"x": f"x of {workspace.folder.name}"}, day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY)
    workspace.send(api.client, api, day=NEXT_DAY)
    (batch_id,) = workspace.submit(api.client).batch_ids
    api.wait(batch_id)
    assert move_api(workspace.database, API, ELSEWHERE) == 2
    with proxy(api.url, with_api_name(ELSEWHERE)) as client:
        collected = workspace.collect(client)
        assert (collected.fetched.elsewhere, collected.requests) == ([], {"answered": 2})
        assert workspace.collect(client, day=NEXT_DAY).requests == {"answered": 1}
    for table in ("openai_batch", "completion", "spending", "summaries"):
        assert workspace.column(f"SELECT DISTINCT api FROM {table}") == [ELSEWHERE]
    assert workspace.collect(api.client).fetched.elsewhere == []
    assert move_api(workspace.database, "https://never.example/v1", "https://x.example/v1") == 0


def test_a_claim_is_found_after_its_api_has_moved(workspace: Workspace, api: LocalApi) -> None:
    plan_equal_days(workspace)

    def die(call: Call) -> Reply | None:
        reply = call.forward()
        died.extend([call] if call.creates_batch else [])
        return CUT if died else reply

    died: list[Call] = []
    with proxy(api.url, die) as client, pytest.raises(SubmissionError):
        workspace.submit(client)
    move_api(workspace.database, API, ELSEWHERE)
    with proxy(api.url, with_api_name(ELSEWHERE)) as client:
        assert workspace.submit(client, run_id="later").adopted == 1
    assert api.stats()["batches_created"] == 1


@pytest.mark.parametrize("name", [ELSEWHERE, None, "local+other"])
def test_answers_of_any_real_api_count_under_any_other(workspace: Workspace, api: LocalApi, name: str | None) -> None:
    plan_equal_days(workspace)
    workspace.send(api.client, api)
    assert workspace.plan(api=name or "http://127.0.0.1:1/v1").requests == {"answered": 2}
    with proxy(api.url, with_api_name(name)) as client:
        assert workspace.submit(client).created == 0
        assert workspace.collect(client).requests == {"answered": 2}


def test_the_built_in_engines_answers_do_not_count_for_a_model(workspace: Workspace, local_api: LocalApi) -> None:
    workspace.ingest({"a": f"One of {workspace.folder.name}."})
    workspace.plan(api="local")
    assert workspace.send(local_api.client, local_api).requests == {"answered": 1}
    for name in (ELSEWHERE, API):
        assert workspace.plan(api=name).requests == {"pending": 1}
    with proxy(local_api.url, with_api_name(ELSEWHERE)) as client:
        workspace.send(client, local_api)
    assert workspace.column("SELECT api FROM completion") == [ELSEWHERE]
    assert workspace.plan(api="local").requests == {"answered": 1}
    assert local_api.stats()["requests_executed"] == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [("local", []), (None, ["an API that an earlier version did not record"]), (ELSEWHERE, [ELSEWHERE])],
)
def test_an_api_that_an_earlier_version_did_not_record_may_have_been_a_real_one(
    workspace: Workspace, api: LocalApi, name: str | None, expected: list[str]
) -> None:
    plan_equal_days(workspace)
    workspace.execute("UPDATE openai_batch SET api = ?", [name])
    assert real_apis(workspace.database) == []  # nothing was made there
    workspace.execute("UPDATE openai_batch SET api = NULL")
    workspace.send(api.client, api)
    workspace.execute("UPDATE openai_batch SET api = ?", [name])
    assert real_apis(workspace.database) == expected


def refused(line: dict[str, Any]) -> None:
    line["response"]["body"]["choices"][0]["message"].update(content=None, refusal="I won't.")


def empty(line: dict[str, Any]) -> None:
    line["response"]["body"]["choices"][0]["message"]["content"] = ""


def failed(line: dict[str, Any]) -> None:
    line["response"].update(status_code=500, body={"error": {"message": "Oops"}})


@pytest.mark.parametrize("fail", [refused, empty, failed])
def test_what_the_built_in_engine_has_not_answered_is_asked_of_a_model(
    workspace: Workspace, api: LocalApi, fail: Callable[[dict[str, Any]], None]
) -> None:
    plan_equal_days(workspace)
    with proxy(api.url, with_api_name("local", changed_lines(fail))) as client:
        for _ in range(3):
            workspace.plan(api="local")
            workspace.send(client, api)
        assert workspace.plan(api="local").requests == {"failed": 2}
    plan = workspace.plan()
    assert (plan.requests, plan.round) == ({"pending": 2}, 1)
    assert workspace.send(api.client, api).requests == {"answered": 2}
    assert workspace.column("SELECT DISTINCT api FROM summaries") == [API]


def test_a_second_folder_is_opened_as_it_is(workspace: Workspace) -> None:
    """The identity of a database is its own, and stays."""
    own = workspace.database.warehouse_id()
    backup = workspace.back_up()
    with workspace.restore(backup) as copy:
        assert copy.database.warehouse_id() == own
        copy.renew_warehouse_id()
        other = copy.database.warehouse_id()
    with open_workspace(copy.folder) as again:
        assert again.database.warehouse_id() == other != own
