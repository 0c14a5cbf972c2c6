"""Guards against a file that is not all of the results: what it lacks would be bought again."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batch_assets.batching.ledger.requests import RequestStateRules
from batch_assets.batching.ledger.retries import retry_day
from batch_assets_tests.batching.conftest import API, DAY, Call, Reply, Workspace, proxy, with_batches
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of

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


@pytest.mark.parametrize(
    ("kind", "answered"), [("0 bytes", 0), ("a line less", 1), ("a page of HTML", 0), ("a list", 0)]
)
def test_after_25_hours_the_file_is_quarantined_and_what_it_lacks_is_blocked(
    submitted: Workspace, api: LocalApi, kind: str, answered: int
) -> None:
    counts = {name: number for name, number in (("answered", answered), ("blocked", 2 - answered)) if number}
    with proxy(api.url, with_content(BODIES[kind])) as client:
        assert submitted.collect(client).requests == {"in_flight": 2}
        patient = submitted.with_timing(lost_after=timedelta(0))
        collected = patient.collect(client)
        assert collected.requests == counts
        assert collected.blocked == {"file": 2 - answered}
    assert submitted.statuses() == counts
    [(code, message)] = submitted.rows(
        "SELECT DISTINCT error_code, error_message FROM summaries WHERE status = 'blocked'"
    )
    assert code == "results_quarantined"
    assert "are incomplete: the file" in message
    assert "may be billed. `batch-assets retry DAY` buys the requests again." in message
    [(path, line)] = submitted.rows("SELECT path, line FROM quarantined_line WHERE line_number = 0")
    assert Path(path).read_bytes().startswith(line)
    plans: list[dict[str, Any]] = [{}, {"resume_cancelled": True}, {"respect_pauses": True}]
    for options in plans:
        assert submitted.plan(**options).shards == []
    assert api.stats()["batches_created"] == 1
    assert submitted.plan(retry_failed=True).requests == {
        **dict.fromkeys(counts.keys() - {"blocked"}, 1),
        "pending": 2 - answered,
    }


@pytest.mark.parametrize("code", [None, "results_quarantined"])
def test_retry_buys_what_the_file_lacked_and_nothing_else(
    submitted: Workspace, api: LocalApi, code: str | None
) -> None:
    patient = submitted.with_timing(lost_after=timedelta(0))
    with proxy(api.url, with_content(without_the_last_line)) as client:
        assert patient.collect(client).requests == {"answered": 1, "blocked": 1}
    assert retry_day(submitted.database, of(DAY), RequestStateRules(API), "server_error").requests == 0
    assert retry_day(submitted.database, of(DAY), RequestStateRules(API), code).requests == 1
    submitted.plan()
    assert submitted.send(api.client, api).requests == {"answered": 2}
    assert api.stats()["requests_executed"] == 3


def test_a_count_of_completed_requests_without_an_output_file_blocks_them(submitted: Workspace, api: LocalApi) -> None:
    with proxy(
        api.url, with_batches(status="completed", request_counts={"completed": 2, "failed": 0, "total": 2})
    ) as client:
        patient = submitted.with_timing(lost_after=timedelta(0))
        assert patient.collect(client).requests == {"in_flight": 2}  # the API does not return when it ended
        assert patient.collect(client).requests == {"blocked": 2}
    [message] = submitted.column("SELECT DISTINCT error_message FROM summaries")
    assert "there is no output file, and the batch counts 2 completed requests" in message


@pytest.mark.parametrize("days_ago", [31, 400])
def test_a_result_file_that_the_api_has_deleted_blocks_its_requests(
    submitted: Workspace, api: LocalApi, days_ago: int
) -> None:
    ended_at = int((datetime.now(UTC) - timedelta(days=days_ago)).timestamp())

    def answer(call: Call) -> Reply:
        if call.method == "GET" and call.path.startswith("/v1/files/"):
            return Reply.of({"error": {"message": "No such File object."}}, 404)
        reply = call.forward()
        return Reply.of({**reply.json, "completed_at": ended_at}) if "/batches/" in call.path else reply

    with proxy(api.url, answer) as client:
        assert submitted.collect(client).requests == {"blocked": 2}
    [(code, message)] = submitted.rows("SELECT DISTINCT error_code, error_message FROM summaries")
    assert code == "results_gone"
    assert "The API no longer has the result file (output) of batch_" in message
    assert submitted.plan().shards == []
    assert [len(shard) for shard in [submitted.plan(retry_failed=True).shards]] == [1]


def test_a_cancelled_day_whose_file_is_incomplete_is_not_bought_again_by_a_plan(
    submitted: Workspace, api: LocalApi
) -> None:
    """The user plans a cancelled day to send what was cancelled: what OpenAI may have billed is not part of it."""
    submitted.execute("UPDATE openai_batch SET cancel_requested_at = now()")
    patient = submitted.with_timing(lost_after=timedelta(0))
    with proxy(api.url, with_content(nothing)) as client:
        assert patient.collect(client).requests == {"blocked": 2}
    assert submitted.plan(resume_cancelled=True).shards == []


def test_an_expired_batch_without_contradiction_costs_a_round(submitted: Workspace, api: LocalApi) -> None:
    """OpenAI writes no line for a request that it did not run."""
    counts = {"completed": 0, "failed": 0, "total": 2}
    with proxy(api.url, with_batches(status="expired", request_counts=counts)) as client:
        assert submitted.with_timing(lost_after=timedelta(0)).collect(client).requests == {"pending": 2}
