"""Guards against a file at an API that counts as deleted although it is still there, or that belongs to others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta

import openai
import pytest
from click.testing import CliRunner, Result

from batch_assets.batching.operations.prune import PrunePlan, RetentionPolicy, plan_pruning, prune
from batch_assets.batching.operations.remote_deletion import delete_remote_files
from batch_assets.batching.provider.identity import identify
from batch_assets.cli.main import main
from batch_assets_tests.batching.conftest import (
    API,
    CUT,
    DAY,
    ELSEWHERE,
    NEXT_DAY,
    Call,
    Reply,
    Workspace,
    proxy,
    with_api_name,
)
from batch_assets_tests.local_api_client import LocalApi

LATER = date.fromisoformat(DAY) + timedelta(days=100)


@pytest.fixture
def done(workspace: Workspace, api: LocalApi) -> Workspace:
    """A day that is done. No other test has its texts."""
    workspace.ingest({"a": f"one of {workspace.folder}", "b": f"two of {workspace.folder}"})
    workspace.whole_day(api)
    return workspace


@pytest.fixture
def two_days(done: Workspace, api: LocalApi) -> Workspace:
    """Two days that are done, with two files each at the API."""
    done.ingest({"c": f"three of {done.folder}"}, day=NEXT_DAY)
    done.whole_day(api, day=NEXT_DAY)
    return done


def find(workspace: Workspace, policy: RetentionPolicy) -> PrunePlan:
    return plan_pruning(workspace.database, data_folder=workspace.folder, policy=policy, today=LATER)


def run_prune(workspace: Workspace, policy: RetentionPolicy) -> PrunePlan:
    return prune(workspace.database, data_folder=workspace.folder, policy=policy, today=LATER)


def test_files_at_openai_are_deleted_on_request_and_once(done: Workspace, api: LocalApi) -> None:
    file_ids = [name for [names] in done.rows("SELECT [file_id, output_file_id] FROM openai_batch") for name in names]
    assert find(done, RetentionPolicy()).remote_files == []
    found = run_prune(done, RetentionPolicy(remote=True))
    assert delete_remote_files(done.database, api.client, found) == []
    assert "2 files at OpenAI" in found.lines
    for file_id in file_ids:
        with pytest.raises(openai.NotFoundError):
            api.client.files.retrieve(file_id)
    assert find(done, RetentionPolicy(remote=True)).remote_files == []


def deletions(deleted: list[str], reply: Reply | None = None, *, of: str = "") -> Callable[[Call], Reply]:
    """The API, and which files it was asked to delete. It sends this reply for files whose id contains `of`."""

    def answer(call: Call) -> Reply:
        if call.method != "DELETE":
            return call.forward()
        deleted.append(call.path)
        return call.forward() if reply is None or of not in call.path else reply

    return answer


NO_SUCH_FILE = Reply.of({"error": {"message": "No such File object"}}, 404)


@pytest.mark.parametrize("name", [ELSEWHERE, "local", "local+other"])
def test_files_at_another_api_are_not_deleted_here_and_stay_to_be_deleted(
    done: Workspace, api: LocalApi, name: str
) -> None:
    found = run_prune(done, RetentionPolicy(remote=True))
    deleted: list[str] = []
    with proxy(api.url, with_api_name(name, deletions(deleted))) as client:
        (sentence,) = delete_remote_files(done.database, client.with_options(api_key=api.client.api_key), found)
    assert deleted == []
    assert f"2 files of {DAY} are at {API}, and the API is {name} now" in sentence
    assert "files at OpenAI" not in " ".join(found.lines)
    again = find(done, RetentionPolicy(remote=True))
    assert delete_remote_files(done.database, api.client, again) == []
    assert again.lines == ["2 files at OpenAI"]


@pytest.mark.parametrize(
    ("key", "organizations", "is_deleted"),
    [
        ("another", (None, None), False),
        ("another", ("org-A", None), False),
        ("another", ("org-A", "org-B"), False),
        ("another", ("org-A", "org-A"), True),
        (None, ("org-A", "org-B"), False),
    ],
)
def test_files_of_another_account_are_not_deleted(
    done: Workspace,
    api: LocalApi,
    key: str | None,
    organizations: tuple[str | None, str | None],
    is_deleted: bool,
) -> None:
    """There, the ids may belong to other files. A new key of the same organization belongs to the same account."""
    theirs, present = organizations
    done.execute("UPDATE openai_batch SET organization = ?", [theirs])
    found = run_prune(done, RetentionPolicy(remote=True))
    deleted: list[str] = []
    with proxy(api.url, deletions(deleted)) as client:
        client = client.with_options(api_key=key or api.client.api_key)
        identity = replace(identify(client, done.database.warehouse_id()), organization=present)
        kept = delete_remote_files(done.database, client, found, identity)
    assert len(deleted) == (2 if is_deleted else 0)
    assert [f"2 files of {DAY} are of another account than that of the present key" in text for text in kept] == (
        [] if is_deleted else [True]
    )
    assert (find(done, RetentionPolicy(remote=True)).remote_files == []) is is_deleted


@pytest.mark.parametrize(
    ("forget", "is_settled"),
    [
        ("UPDATE openai_batch SET file_id = file_id", True),
        ("UPDATE openai_batch SET key_fingerprint = NULL", False),
        ("UPDATE openai_batch SET key_fingerprint = NULL, api = NULL", False),
    ],
    ids=["the same key", "an unknown key", "an unknown API"],
)
def test_a_file_that_is_not_found_counts_as_deleted_only_for_the_key_that_made_it(
    done: Workspace, api: LocalApi, forget: str, is_settled: bool
) -> None:
    done.execute(forget)
    found = run_prune(done, RetentionPolicy(remote=True))
    with proxy(api.url, deletions([], NO_SUCH_FILE)) as client:
        kept = delete_remote_files(done.database, client.with_options(api_key=api.client.api_key), found)
    assert [f"2 files of {DAY} are not found with the present key" in text for text in kept] == (
        [] if is_settled else [True]
    )
    assert "files at OpenAI" not in " ".join(found.lines)
    assert (find(done, RetentionPolicy(remote=True)).remote_files == []) is is_settled


ERROR = Reply.of({"error": {"message": "The server had an error"}}, 500)
PAGE = Reply(404, b"<html>Not Found</html>", content_type="text/html")


def delete(workspace: Workspace, api: LocalApi, answer: Callable[[Call], Reply | None]) -> tuple[PrunePlan, list[str]]:
    """Prune at an API that answers in this way, with the key of all files."""
    found = run_prune(workspace, RetentionPolicy(remote=True))
    with proxy(api.url, answer) as client:
        client = client.with_options(api_key=api.client.api_key, max_retries=0)
        return found, delete_remote_files(workspace.database, client, found)


@pytest.mark.parametrize(
    ("reply", "message", "days_tried"),
    [
        (Reply.of({"error": {"message": "Incorrect API key provided"}}, 401), "Incorrect API key provided", 1),
        (Reply.of({"error": {"message": "The key may not delete files"}}, 403), "The key may not delete files", 2),
        (Reply.of({"error": {"message": "No DELETE here"}}, 405), "No DELETE here", 2),
        (ERROR, "The server had an error", 2),
        (PAGE, "404", 2),
        (CUT, "Connection error", 1),
    ],
    ids=["401", "403", "405", "500", "the page of a gateway", "no answer"],
)
def test_files_that_the_api_does_not_delete_stay_in_the_ledger(
    two_days: Workspace, api: LocalApi, reply: Reply | None, message: str, days_tried: int
) -> None:
    tried: list[str] = []

    def answer(call: Call) -> Reply | None:
        if call.method != "DELETE":
            return call.forward()
        tried.append(call.path)
        return reply

    found, [sentence] = delete(two_days, api, answer)
    assert sentence.startswith("4 files of 2 days are not deleted. The API says: ")
    assert message in sentence
    assert len(tried) == days_tried  # one file of each day, until an error that all files would get
    assert found.lines_remote == []
    again = find(two_days, RetentionPolicy(remote=True))
    assert delete_remote_files(two_days.database, api.client, again) == []
    assert again.lines == ["4 files at OpenAI"]


@pytest.mark.parametrize(("column", "files_left"), [("file_id", "2 files"), ("output_file_id", "1 file")])
def test_an_error_at_a_file_of_one_day_does_not_keep_those_of_another(
    two_days: Workspace, api: LocalApi, column: str, files_left: str
) -> None:
    [bad] = two_days.column(f"SELECT {column} FROM openai_batch WHERE partition_date = ?", [DAY])
    _, [sentence] = delete(two_days, api, deletions([], ERROR, of=bad))
    assert sentence.startswith(f"{files_left} of {DAY} ")
    assert [remote.day for remote in find(two_days, RetentionPolicy(remote=True)).remote_files] == [DAY]
    assert delete_remote_files(two_days.database, api.client, find(two_days, RetentionPolicy(remote=True))) == []
    assert find(two_days, RetentionPolicy(remote=True)).remote_files == []


@pytest.fixture
def command_line(two_days: Workspace, api: LocalApi, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`batch-assets prune --remote --yes` on the two days, at an address and with a key."""

    def run(url: str, key: str = api.client.api_key) -> Result:
        monkeypatch.setattr("batch_assets.batching.ledger.database.Database", lambda _: two_days.database)
        monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(two_days.folder))
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", key)
        return CliRunner().invoke(main, ["prune", "--keep-days", "0", "--remote", "--yes"])

    return run


def test_the_command_with_another_key_says_which_files_stay(
    command_line: Callable[..., Result], two_days: Workspace, api: LocalApi
) -> None:
    done = command_line(api.url, "another account's key")
    assert done.exit_code == 0, done.output
    assert "4 files of 2 days are of another account than that of the present key. Not deleted." in done.output
    assert "at OpenAI" not in done.output
    assert len(find(two_days, RetentionPolicy(remote=True)).remote_files) == 2


@pytest.mark.parametrize("reply", [ERROR, CUT], ids=["500", "no answer"])
def test_the_command_says_what_it_deleted_on_this_disk_before_the_api_failed(
    command_line: Callable[..., Result], two_days: Workspace, api: LocalApi, reply: Reply | None
) -> None:
    with proxy(api.url, lambda call: reply) as client:
        done = command_line(str(client.base_url))
    assert done.exit_code == 1
    assert "4 request and result files" in done.output
    assert ("The API says: " if reply else "The API did not answer: ") in done.output
    assert len(find(two_days, RetentionPolicy(remote=True)).remote_files) == 2
