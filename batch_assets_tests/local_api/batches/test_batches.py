from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from batch_assets.local_api.batches import batches, execution
from batch_assets.local_api.batches.result_files import Results
from batch_assets.local_api.engines.engine import ChatRequest, Completion, InstantEngine
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    ENDPOINT,
    assert_no_work_is_left,
    body_of,
    custom_ids,
    http_request,
    lines_of,
    post_json,
    request_line,
    results,
    server_process,
    submit,
    submit_file,
    upload,
)
from batch_assets_tests.local_api_client import LocalApi

KEYS = {
    *("id", "object", "endpoint", "model", "errors", "input_file_id", "completion_window", "status"),
    *("output_file_id", "error_file_id", "created_at", "in_progress_at", "expires_at", "finalizing_at"),
    *("completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at", "request_counts"),
    *("usage", "metadata"),
}


def test_a_batch_goes_the_whole_way(local_api: LocalApi) -> None:
    client = local_api.client
    file_id = upload(local_api, [*lines_of(5), request_line("bad", body=body_of(messages=[])), request_line("ü\u2028")])
    created = client.batches.create(
        input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h", metadata={"submission_key": "k"}
    ).to_dict()
    assert set(created) == KEYS
    assert {name for name in KEYS if created[name] is None} == KEYS - {
        *("id", "object", "endpoint", "input_file_id", "completion_window", "status", "created_at"),
        *("expires_at", "request_counts", "metadata"),
    }
    assert created["status"] == "validating"
    assert created["expires_at"] == created["created_at"] + 86400  # type: ignore[operator]
    assert created["request_counts"] == {"total": 0, "completed": 0, "failed": 0}

    batch = local_api.wait(str(created["id"]))
    assert batch.status == "completed"
    assert batch.model == "gpt-4.1-mini"
    assert batch.metadata == {"submission_key": "k"}
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 7, "completed": 6, "failed": 1}
    output, errors = results(local_api, batch)
    assert custom_ids(output) == sorted([*(f"request-{n}" for n in range(5)), "ü\u2028"])
    for line in output:
        assert line["error"] is None
        assert set(line) == {"id", "custom_id", "response", "error"}
        assert line["response"]["status_code"] == 200
        assert line["response"]["body"]["object"] == "chat.completion"
    (failure,) = errors
    assert failure["custom_id"] == "bad"
    assert failure["error"] is None
    assert failure["response"]["status_code"] == 400
    assert failure["response"]["body"]["error"]["code"] == "empty_array"
    assert len({line["id"] for line in output + errors}) == 7
    for line in output + errors:
        assert re.fullmatch("batch_req_[0-9a-f]{32}", line["id"])
        assert re.fullmatch("[0-9a-f]{32}", line["response"]["request_id"])

    usages = [line["response"]["body"]["usage"] for line in output]
    assert batch.usage is not None
    assert batch.usage.input_tokens > 0
    assert batch.usage.to_dict() == {
        "input_tokens": sum(usage["prompt_tokens"] for usage in usages),
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": sum(usage["completion_tokens"] for usage in usages),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": sum(usage["total_tokens"] for usage in usages),
    }
    assert local_api.stats() == {
        "files_created": 1,
        "batches_created": 1,
        "requests_executed": 7,
        "requests_in_flight": 0,
    }
    assert_no_work_is_left(local_api)


def test_result_files_are_named_after_the_batch_and_expire(local_api: LocalApi) -> None:
    batch = local_api.wait(submit(local_api, lines_of(1)).id)
    file = local_api.client.files.retrieve(batch.output_file_id or "")
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert file.expires_at == file.created_at + 2_592_000

    created = local_api.client.batches.create(
        input_file_id=batch.input_file_id,
        endpoint=ENDPOINT,
        completion_window="24h",
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )
    file = local_api.client.files.retrieve(local_api.wait(created.id).output_file_id or "")
    assert file.expires_at == file.created_at + 3600


def test_a_batch_without_failures_has_no_error_file_and_the_reverse(shared_api: LocalApi) -> None:
    good = shared_api.wait(submit(shared_api, lines_of(1)).id)
    assert good.output_file_id
    assert good.error_file_id is None
    bad = shared_api.wait(submit(shared_api, [request_line(body=body_of(messages=[]))]).id)
    assert bad.status == "completed"
    assert bad.output_file_id is None
    assert bad.error_file_id


def test_batches_are_listed_newest_first(local_api: LocalApi) -> None:
    assert http_request(local_api, "GET", "/v1/batches").json == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
    file_id = upload(local_api, lines_of(1))
    ids = [submit_file(local_api, file_id).id for _ in range(25)]
    newest_first = list(reversed(ids))
    assert [batch.id for batch in local_api.client.batches.list()] == newest_first
    page = local_api.client.batches.list(limit=10, after=newest_first[3])
    assert [batch.id for batch in page.data] == newest_first[4:14]
    assert page.to_dict() | {"data": None} == {
        "object": "list",
        "data": None,
        "first_id": newest_first[4],
        "last_id": newest_first[13],
        "has_more": True,
    }
    assert len(local_api.client.batches.list().data) == 20
    for query in ("limit=0", "limit=101", "limit=ten"):
        answer = http_request(local_api, "GET", f"/v1/batches?{query}")
        assert (answer.status, answer.json["error"]["param"]) == (400, "limit")


@pytest.mark.parametrize(
    ("changes", "message", "param", "code"),
    [
        (
            {"endpoint": "/v1/invalid/endpoint"},
            "Invalid value: '/v1/invalid/endpoint'. Supported values are: "
            "'/v1/chat/completions', '/v1/embeddings', and '/v1/responses'.",
            "endpoint",
            "invalid_value",
        ),
        (
            {"metadata": {"tags": ["a"]}},
            "Invalid type for 'metadata.tags': expected a string, but got an array instead.",
            "metadata.tags",
            "invalid_type",
        ),
        (
            {"completion_window": "48h"},
            "Invalid value: '48h'. Supported values are: '24h'.",
            "completion_window",
            "invalid_value",
        ),
        (
            {"input_file_id": None},
            "Missing required parameter: 'input_file_id'.",
            "input_file_id",
            "missing_required_parameter",
        ),
        (
            {"input_file_id": 5},
            "Invalid type for 'input_file_id': expected a string, but got an integer instead.",
            "input_file_id",
            "invalid_type",
        ),
        ({"colour": 1}, "Unknown parameter: 'colour'.", "colour", "unknown_parameter"),
        (
            {"metadata": "x"},
            "Invalid type for 'metadata': expected an object, but got a string instead.",
            "metadata",
            "invalid_type",
        ),
        (
            {"metadata": {"a": "x" * 513}},
            "Invalid 'metadata.a': string too long. Expected a string with maximum "
            "length 512, but got a string with length 513 instead.",
            "metadata.a",
            "string_above_max_length",
        ),
        (
            {"metadata": {str(number): "" for number in range(17)}},
            "Invalid 'metadata': too many properties. Expected an object with at "
            "most 16 properties, but got an object with 17 properties instead.",
            "metadata",
            "object_above_max_properties",
        ),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}},
            "Invalid 'output_expires_after.seconds': integer above maximum value. "
            "Expected a value <= 2592000, but got 2592001 instead.",
            "output_expires_after.seconds",
            "integer_above_max_value",
        ),
    ],
)
def test_creations_that_openai_refuses(
    shared_api: LocalApi, changes: dict[str, Any], message: str, param: str, code: str
) -> None:
    before = shared_api.stats()["batches_created"]
    request = {"input_file_id": "file-a", "endpoint": ENDPOINT, "completion_window": "24h", **changes}
    answer = post_json(shared_api, "/v1/batches", request)
    assert answer.status == 400
    assert answer.json["error"] == {
        "message": message,
        "type": "invalid_request_error",
        "param": param,
        "code": code,
    }
    assert shared_api.stats()["batches_created"] == before


@pytest.mark.parametrize("batch_id", ["batch_" + "0" * 32, "batch_x", "%00", "%ED%A0%80"])
@pytest.mark.parametrize(("method", "tail"), [("GET", ""), ("POST", "/cancel")])
def test_unknown_batches_are_not_found(shared_api: LocalApi, batch_id: str, method: str, tail: str) -> None:
    answer = http_request(shared_api, method, f"/v1/batches/{batch_id}{tail}")
    assert answer.status == 404
    assert "No batch found" in answer.json["error"]["message"]


def check_accounts(api: LocalApi, batch: Batch, total: int, code: str) -> tuple[int, int]:
    """Every line is in exactly one file; what was not executed has the code, and counts nowhere."""
    output, errors = results(api, batch)
    assert custom_ids(output + errors) == custom_ids(lines_of(total))
    assert all(line["response"] is None and line["error"]["code"] == code for line in errors)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": total, "completed": len(output), "failed": 0}
    assert api.stats()["requests_executed"] == len(output)
    return len(output), len(errors)


def test_a_cancelled_batch_keeps_what_it_has(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.02, concurrency=2) as api:
        batch = submit(api, lines_of(200))
        while (batch := api.client.batches.retrieve(batch.id)).request_counts.completed < 10:  # type: ignore[union-attr]
            time.sleep(0.005)
        cancelling = api.client.batches.cancel(batch.id)
        assert cancelling.status == "cancelling"
        assert cancelling.cancelling_at is not None
        assert cancelling.output_file_id is None
        assert api.client.batches.cancel(batch.id).status in ("cancelling", "cancelled"), "twice is no error"
        batch = api.wait(batch.id)
        assert batch.status == "cancelled"
        assert batch.cancelled_at is not None
        completed, unexecuted = check_accounts(api, batch, 200, "batch_cancelled")
        assert completed >= 10
        assert unexecuted > 100
        assert api.client.batches.cancel(batch.id).status == "cancelled"


@pytest.mark.parametrize("pause", [0.0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08])
def test_a_batch_can_be_cancelled_at_any_moment(tmp_path: Path, pause: float) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.002) as api:
        batch = submit(api, lines_of(100))
        time.sleep(pause)
        with contextlib.suppress(openai.ConflictError):  # it may have ended by then
            api.client.batches.cancel(batch.id)
        batch = api.wait(batch.id)
        assert batch.request_counts is not None
        if batch.status == "completed":
            assert batch.request_counts.completed == 100
        elif batch.in_progress_at is None:
            assert (batch.status, results(api, batch)) == ("cancelled", ([], []))
        else:
            check_accounts(api, batch, 100, "batch_cancelled")


def test_a_batch_that_waits_for_its_time_is_cancelled_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, batch_seconds=60) as api:
        batch = submit(api, lines_of(3))
        time.sleep(0.1)
        api.client.batches.cancel(batch.id)
        assert api.wait(batch.id, seconds=2).status == "cancelled"


@pytest.mark.parametrize("status", ["completed", "failed", "expired"])
def test_a_batch_that_has_ended_cannot_be_cancelled(tmp_path: Path, status: str) -> None:
    window = 0.0 if status == "expired" else 60.0
    lines = [b"{}"] if status == "failed" else lines_of(1)
    with serving(tmp_path, completion_window_seconds=window) as api:
        batch = api.wait(submit(api, lines).id)
        assert batch.status == status
        with pytest.raises(openai.ConflictError) as refusal:
            api.client.batches.cancel(batch.id)
        assert refusal.value.body == {
            "message": f"Cannot cancel a batch with status '{status}'.",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
        assert api.client.batches.retrieve(batch.id) == batch


def test_an_expired_batch_keeps_what_it_has(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.05, concurrency=1, completion_window_seconds=0.4) as api:
        batch = api.wait(submit(api, lines_of(30)).id)
        assert batch.status == "expired"
        assert batch.expired_at is not None
        assert batch.completed_at is None
        completed, unexecuted = check_accounts(api, batch, 30, "batch_expired")
        assert completed > 0
        assert unexecuted > 0
        assert batch.usage is not None
        assert batch.usage.total_tokens > 0


def test_batch_seconds_spreads_the_lines_over_the_time(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", batch_seconds=0.8) as api:
        began = time.monotonic()
        batch = submit(api, lines_of(40))
        seen = set()
        while (batch := api.client.batches.retrieve(batch.id)).status != "completed":
            assert batch.request_counts is not None
            seen.add(batch.request_counts.completed)
            time.sleep(0.01)
        assert time.monotonic() - began >= 0.8
        assert len(seen) > 10


def test_a_small_batch_overtakes_a_large_one(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.004) as api:
        large = submit(api, lines_of(2000))
        small = api.wait(submit(api, lines_of(10)).id)
        assert small.status == "completed"
        running = api.client.batches.retrieve(large.id)
        assert running.status == "in_progress"
        assert running.request_counts is not None
        assert running.request_counts.completed < 1000


@pytest.mark.end_to_end
def test_two_hundred_small_batches_are_done_before_a_large_one_that_came_first(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.002) as api:
        large = submit(api, lines_of(50_000))
        while api.client.batches.retrieve(large.id).status == "validating":
            time.sleep(0.01)
        file_id = upload(api, lines_of(3))
        small = [submit_file(api, file_id).id for _ in range(200)]
        before = api.client.batches.retrieve(large.id).request_counts
        assert [api.wait(batch_id, seconds=60).status for batch_id in small] == ["completed"] * 200
        after = api.client.batches.retrieve(large.id)
        assert after.status == "in_progress"
        assert before is not None
        assert after.request_counts is not None
        assert before.completed < after.request_counts.completed, "the large one goes on meanwhile"


def test_lines_that_take_no_time_leave_room_for_other_batches(tmp_path: Path) -> None:
    """A turn is short, however many lines there are."""
    with serving(tmp_path, engine="instant", concurrency=1, latency_seconds=60) as api:
        file_id = upload(api, lines_of(3000))
        large = [submit_file(api, file_id).id for _ in range(2)]
        small = submit(api, lines_of(3)).id
    with serving(tmp_path, engine="instant", concurrency=1) as api:
        ended = [api.wait(batch_id) for batch_id in (small, *large)]
        made = [file.id for file in api.client.files.list(purpose="batch_output", order="asc")]
        assert made[0] == ended[0].output_file_id
        assert set(made) == {batch.output_file_id for batch in ended}


@pytest.mark.end_to_end
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
def test_a_large_batch_needs_no_memory(tmp_path: Path) -> None:
    content = [{"role": "user", "content": "One two three. " * 200}]
    with server_process(tmp_path, engine="instant") as server:
        small = server.api.wait(submit(server.api, lines_of(100)).id)
        assert small.status == "completed"
        before = server.peak_kb()
        lines = (request_line(f"{number}", body=body_of(messages=content)) for number in range(20_000))
        batch = server.api.wait(submit(server.api, lines).id, seconds=60)
        assert batch.request_counts is not None
        assert batch.request_counts.completed == 20_000
        assert server.peak_kb() - before < 25_000, "less than half of the 60 MB of requests"


def test_many_batches_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant") as api:
        made: list[Batch] = []

        def create() -> None:
            made.append(submit(api, lines_of(50)))

        threads = [threading.Thread(target=create) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 12
        for batch in made:
            output, errors = results(api, api.wait(batch.id))
            assert (custom_ids(output), errors) == (custom_ids(lines_of(50)), [])
        assert api.stats()["requests_executed"] == 600


def test_more_batches_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_MAXIMUM_OPEN", 2)
    with serving(tmp_path, engine="instant", latency_seconds=0.2) as api:
        file_id = upload(api, lines_of(400))
        made = [submit_file(api, file_id).id for _ in range(6)]
        api.client.batches.cancel(made[-1])
        assert api.wait(made[-1]).status == "cancelled"  # without waiting for a place
        for first, third in zip(made[:-1], made[2:-1], strict=False):
            assert api.client.batches.retrieve(third).status == "validating"
            api.client.batches.cancel(first)
            assert api.wait(first).status == "cancelled"
            while api.client.batches.retrieve(third).status == "validating":
                time.sleep(0.005)


def test_deleting_the_input_does_not_disturb_a_batch_that_runs(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.005) as api:
        batch = submit(api, lines_of(100))
        while api.client.batches.retrieve(batch.id).status == "validating":
            time.sleep(0.005)
        api.client.files.delete(batch.input_file_id)
        batch = api.wait(batch.id)
        assert batch.request_counts is not None
        assert batch.request_counts.completed == 100


def test_an_engine_that_fails_is_openais_500(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = InstantEngine.complete

    def fail_once_in_two(self: InstantEngine, request: ChatRequest) -> Completion:
        if "request-1." in request.text:
            raise RuntimeError("out of order")
        return complete(self, request)

    monkeypatch.setattr(InstantEngine, "complete", fail_once_in_two)
    with serving(tmp_path, engine="instant") as api:
        batch = api.wait(submit(api, lines_of(3)).id)
        output, (failure,) = results(api, batch)
        assert batch.status == "completed"
        assert len(output) == 2
        assert failure["custom_id"] == "request-1"
        assert failure["response"]["status_code"] == 500
        assert failure["response"]["body"]["error"]["type"] == "server_error"


def test_a_disk_that_fails_for_a_while_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_RETRY_SECONDS", 0.05)
    write, calls = Results._write, iter(range(1_000_000))

    def write_or_fail(self: Results, file: Any, data: bytes) -> None:
        if next(calls) in (10, 30, 31, 32):
            file.write(data + b'{"id": "torn')
            raise OSError(28, "No space left on device")
        write(self, file, data)

    monkeypatch.setattr(Results, "_write", write_or_fail)
    monkeypatch.setattr(execution, "_TURN_SECONDS", 0)
    with serving(tmp_path, engine="instant") as api:
        batch = api.wait(submit(api, lines_of(50)).id)
        output, errors = results(api, batch)
        assert (batch.status, custom_ids(output), errors) == ("completed", custom_ids(lines_of(50)), [])


def test_a_failure_at_the_very_end_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result files are in place, but the transaction that names them fails."""
    monkeypatch.setattr(execution, "_RETRY_SECONDS", 0.05)
    set_ended, calls = batches.set_ended, iter([True, True, False])

    def fail_twice(*arguments: Any, **named: Any) -> None:
        if next(calls):
            raise OSError("disk I/O error")
        set_ended(*arguments, **named)

    monkeypatch.setattr(batches, "set_ended", fail_twice)
    with serving(tmp_path, engine="instant") as api:
        batch = api.wait(submit(api, lines_of(20)).id)
        output, errors = results(api, batch)
        assert (batch.status, custom_ids(output), errors) == ("completed", custom_ids(lines_of(20)), [])
        assert len(api.client.files.list(purpose="batch_output").data) == 1
        assert api.stats()["requests_executed"] == 20


def test_text_that_utf8_cannot_hold_does_no_harm(shared_api: LocalApi) -> None:
    """JSON can escape half a surrogate pair; it must come back as it went in."""
    line = request_line("\ud800", body=body_of(messages=[{"role": "user", "content": "a \udc00"}]))
    batch = shared_api.wait(submit(shared_api, [json.dumps(line).encode()]).id)
    assert batch.status == "completed"
    ((answer,), errors) = results(shared_api, batch)
    assert errors == []
    assert answer["custom_id"] == "\ud800"
    assert "\udc00" in answer["response"]["body"]["choices"][0]["message"]["content"]
    unusable = request_line("a", body=body_of(model="\udfff"))
    assert shared_api.wait(submit(shared_api, [json.dumps(unusable).encode()]).id).status == "failed"
    refused = post_json(
        shared_api, "/v1/batches", {"input_file_id": "\ud800", "endpoint": "\udfff", "completion_window": "24h"}
    )
    assert refused.status == 400
    made = post_json(
        shared_api,
        "/v1/batches",
        {"input_file_id": "\ud800", "endpoint": ENDPOINT, "completion_window": "24h", "metadata": {"\ud800": "\udc00"}},
    )
    assert made.status == 200
    assert made.json["metadata"] == {"\ud800": "\udc00"}
    assert shared_api.wait(made.json["id"]).status == "failed"
