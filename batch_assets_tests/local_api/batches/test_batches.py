"""Batches as the official SDK sees them: creation, listing, results."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from batch_assets_tests.local_api.support import (
    ENDPOINT,
    assert_no_work_folder_is_left,
    chat_body,
    counts,
    custom_ids,
    http_request,
    lines_of,
    post_json,
    request_line,
    results,
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


def test_a_batch_runs_from_creation_to_completion(local_api: LocalApi) -> None:
    client = local_api.client
    file_id = upload(
        local_api, [*lines_of(5), request_line("bad", body=chat_body(messages=[])), request_line("ü\u2028")]
    )
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
    assert counts(batch) == {"total": 7, "completed": 6, "failed": 1}
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
    assert_no_work_folder_is_left(local_api)


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
    bad = shared_api.wait(submit(shared_api, [request_line(body=chat_body(messages=[]))]).id)
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
            "'/v1/chat/completions', '/v1/completions', '/v1/embeddings', '/v1/moderations', and '/v1/responses'.",
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


def test_half_a_surrogate_pair_comes_back_unchanged(shared_api: LocalApi) -> None:
    """JSON can escape half of a surrogate pair, which UTF-8 can't encode."""
    line = request_line("\ud800", body=chat_body(messages=[{"role": "user", "content": "a \udc00"}]))
    batch = shared_api.wait(submit(shared_api, [json.dumps(line).encode()]).id)
    assert batch.status == "completed"
    ((answer,), errors) = results(shared_api, batch)
    assert errors == []
    assert answer["custom_id"] == "\ud800"
    assert "\udc00" in answer["response"]["body"]["choices"][0]["message"]["content"]
    unusable = request_line("a", body=chat_body(model="\udfff"))
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
