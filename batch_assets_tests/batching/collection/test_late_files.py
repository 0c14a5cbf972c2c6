"""Guards against a file that is not all of the results: what it lacks would be bought again."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from batch_assets_tests.batching.conftest import Call, Reply, Workspace, proxy
from batch_assets_tests.local_api_client import LocalApi

PAGE = b"<!doctype html>\n<html>\n<body>\nbusy\n</body>\n</html>\n"


def nothing(content: bytes) -> bytes:
    return b""


def without_the_last_line(content: bytes) -> bytes:
    return b"".join(content.splitlines(keepends=True)[:-1])


def page_of_html(content: bytes) -> bytes:
    return PAGE


def a_list(content: bytes) -> bytes:
    return b"[" + content.replace(b"\n", b",\n") + b"]\n"


BODIES: dict[str, Callable[[bytes], bytes]] = {
    "0 bytes": nothing,
    "a line less": without_the_last_line,
    "a page of HTML": page_of_html,
    "a list": a_list,
}


def with_content(change: Callable[[bytes], bytes]) -> Callable[[Call], Reply]:
    """An API whose result files have another content, and that does not tell their size."""

    def answer(call: Call) -> Reply:
        if call.method == "GET" and call.path.startswith("/v1/files/") and not call.downloads:
            return Reply.of({"error": {"message": "not found"}}, 404)
        reply = call.forward()
        return replace(reply, content=change(reply.content)) if call.downloads else reply

    return answer


def with_counts(completed: int) -> Callable[[Call], Reply]:
    """An API that counts so many completed requests in each batch."""

    def answer(call: Call) -> Reply:
        reply = call.forward()
        if "/batches/" not in call.path:
            return reply
        return Reply.of({**reply.json, "request_counts": {"total": completed, "completed": completed, "failed": 0}})

    return answer


@pytest.fixture
def submitted(workspace: Workspace, api: LocalApi) -> Workspace:
    """A day of two requests whose batch has ended; files may be late for 25 hours."""
    workspace.ingest(workspace.texts("ab"))
    workspace.plan()
    for batch_id in workspace.submit(api.client).batch_ids:
        api.wait(batch_id)
    return workspace.with_timing(lost_after=timedelta(hours=25))


@pytest.mark.parametrize("change", BODIES.values(), ids=BODIES.keys())
def test_a_file_that_contradicts_its_batch_is_downloaded_again(
    submitted: Workspace, api: LocalApi, change: Callable[[bytes], bytes]
) -> None:
    with proxy(api.url, with_content(change)) as client:
        for _ in range(3):
            collected = submitted.collect(client)
            assert (len(collected.fetched.still_running), collected.requests) == (1, {"in_flight": 2})
            assert submitted.plan().shards == []
    assert submitted.rows("SELECT * FROM failed_request") == []
    assert submitted.rows("SELECT * FROM quarantined_line") == []
    assert submitted.collect(api.client).requests == {"answered": 2}
    assert api.stats() == {**api.stats(), "batches_created": 1, "requests_executed": 2}


@pytest.mark.parametrize("completed", [3, 50_000])
def test_counts_above_the_lines_of_the_file_are_a_contradiction(
    submitted: Workspace, api: LocalApi, completed: int
) -> None:
    with proxy(api.url, with_counts(completed)) as client:
        assert submitted.collect(client).requests == {"in_flight": 2}
    assert submitted.collect(api.client).requests == {"answered": 2}


@pytest.mark.parametrize("completed", [0, 1])
def test_counts_below_the_lines_of_the_file_are_none(submitted: Workspace, api: LocalApi, completed: int) -> None:
    """Counts were seen to be 0 of 0 on completed batches at first."""
    with proxy(api.url, with_counts(completed)) as client:
        assert submitted.collect(client).requests == {"answered": 2}


def test_after_a_day_what_is_there_is_loaded(submitted: Workspace, api: LocalApi) -> None:
    with proxy(api.url, with_content(without_the_last_line)) as client:
        assert submitted.collect(client).requests == {"in_flight": 2}
        patient = submitted.with_timing(lost_after=timedelta(0))
        assert patient.collect(client).requests == {"answered": 1, "pending": 1}
