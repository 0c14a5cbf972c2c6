"""A failed batch names each invalid line, with OpenAI's error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_assets.local_api.batches import line_checks, validation
from batch_assets.local_api.settings import Limits
from batch_assets_tests.local_api.support import (
    ENDPOINT,
    assert_no_work_folder_is_left,
    chat_body,
    jsonl,
    lines_of,
    request_line,
    submit,
    submit_file,
)
from batch_assets_tests.local_api_client import LocalApi

DUPLICATE = (
    "The custom_id for this request is a duplicate of another request. "
    "The custom_id parameter must be unique for each request in a batch."
)
UNPARSEABLE = "This line is not parseable as valid JSON."


def missing(name: str) -> tuple[str, str, str]:
    return ("missing_required_parameter", name, f"Missing required parameter: '{name}'.")


def unsupported(model: str) -> tuple[str, str, str]:
    return ("model_not_found", "body.model", f"The provided model '{model}' is not supported by the Batch API.")


def required(name: str) -> tuple[str, str, str]:
    return ("invalid_request", f"body.{name}", f"{name.title()} parameter is required.")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"no json", ("invalid_json_line", None, UNPARSEABLE)),
        (b"", ("invalid_json_line", None, UNPARSEABLE)),
        (b"[1]", ("invalid_json_line", None, UNPARSEABLE)),
        (b"\xff\xfe", ("invalid_json_line", None, UNPARSEABLE)),
        (b'{"custom_id": NaN}', ("invalid_json_line", None, UNPARSEABLE)),
        (b'{"a":' * 50_000, ("invalid_json_line", None, UNPARSEABLE)),
        (request_line(custom_id=...), missing("custom_id")),
        (request_line(custom_id=None), missing("custom_id")),
        (request_line("b", method=...), missing("method")),
        (request_line("b", url=...), missing("url")),
        (request_line("b", body=...), missing("body")),
        (
            request_line(5),
            (
                "invalid_type",
                "custom_id",
                "Invalid type for 'custom_id': expected a string, but got an integer instead.",
            ),
        ),
        (
            request_line("b", body=[]),
            ("invalid_type", "body", "Invalid type for 'body': expected an object, but got an array instead."),
        ),
        (request_line("first"), ("duplicate_custom_id", "custom_id", DUPLICATE)),
        (
            request_line("b", method="GET"),
            ("invalid_value", "method", "Invalid value: 'GET'. Supported values are: 'POST'."),
        ),
        (
            request_line("b", url="/v1/embeddings"),
            ("invalid_url", "url", "The URL provided for this request does not match the batch endpoint."),
        ),
        (request_line("b", body=chat_body(model=...)), required("model")),
        (request_line("b", body=chat_body(messages=...)), required("messages")),
        *(
            (request_line("b", body=chat_body(model=model)), unsupported(model))
            for model in ("no such model", "text-embedding-3-small", "x" * 257, "\udfff", "a\0")
        ),
        (
            request_line("b", body=chat_body(stream=True)),
            ("streaming_unsupported", "body.stream", "Chat Completions: Streaming is not supported in the Batch API."),
        ),
        (
            request_line("b", body=chat_body(model="gpt-4o")),
            (
                "mismatched_model",
                "body.model",
                "The model 'gpt-4o' for this request does not match the rest of the batch. "
                "Each batch must contain requests for a single model.",
            ),
        ),
    ],
)
def test_a_bad_line_fails_the_batch(
    shared_api: LocalApi, line: dict[str, Any] | bytes, expected: tuple[str, str | None, str]
) -> None:
    batch = shared_api.wait(submit(shared_api, [request_line("first"), line, request_line("last")]).id)
    code, param, message = expected
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.to_dict() == {
        "object": "list",
        "data": [{"code": code, "message": message, "param": param, "line": 2}],
    }
    assert batch.failed_at is not None
    assert batch.to_dict() | {"status": "failed"} == batch.to_dict() | {
        "in_progress_at": None,
        "output_file_id": None,
        "error_file_id": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "model": None,
    }
    assert_no_work_folder_is_left(shared_api)


def test_each_invalid_line_is_an_error(shared_api: LocalApi) -> None:
    batch = shared_api.wait(submit(shared_api, [request_line("a"), b"{", request_line("a"), request_line()]).id)
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.line, error.code) for error in batch.errors.data] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "duplicate_custom_id"),
    ]


def test_a_missing_input_file_fails_the_batch_later(shared_api: LocalApi) -> None:
    """OpenAI responds with 200, and the batch fails a moment later (incident of 2026-09-01)."""
    for file_id in ("file-" + "x" * 22, "../../secret"):
        batch = submit_file(shared_api, file_id)
        assert batch.status == "validating"
        batch = shared_api.wait(batch.id)
        assert batch.status == "failed"
        assert batch.errors is not None
        assert batch.errors.data is not None
        (error,) = batch.errors.data
        assert (error.code, error.param, error.line) == ("invalid_request", "file_id", None)
        assert (error.message or "").startswith("Cannot find file ")


def test_a_file_of_another_purpose_fails_the_batch(shared_api: LocalApi) -> None:
    file = shared_api.client.files.create(file=("a.jsonl", jsonl(lines_of(1))), purpose="user_data")
    batch = shared_api.wait(submit_file(shared_api, file.id).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.code, error.param) for error in batch.errors.data] == [("invalid_request", "file_id")]


def validate(path: Path, limits: Limits | None = None) -> validation.ValidationResult:
    return validation.validate(path, ENDPOINT, limits or Limits(), stopped=lambda: False)


def test_the_limits_are_inclusive(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(jsonl(lines_of(3)))
    result = validate(path, Limits(batch_requests=3, batch_input_bytes=path.stat().st_size))
    assert (result.total, result.model, result.problems) == (3, "gpt-4.1-mini", [])

    too_many = validate(path, Limits(batch_requests=2))
    assert [problem["code"] for problem in too_many.problems] == ["too_many_tasks"]


def test_a_file_over_200_mb_is_refused_without_being_read(shared_api: LocalApi, tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(jsonl(lines_of(1)))
    with path.open("r+b") as file:
        file.truncate(Limits().batch_input_bytes + 1)  # sparse: takes no space
    (problem,) = validate(path).problems
    assert problem == {
        "code": None,
        "message": "The batch input file is larger than the 209715200 maximum for the gpt-4.1-mini model",
        "param": None,
        "line": None,
    }


def test_a_line_that_is_too_long_is_an_error_and_the_next_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    long = request_line("long", body=chat_body(user="x" * line_checks.MAXIMUM_LINE_BYTES))
    path.write_bytes(jsonl([request_line("a"), long, b"{", request_line("b")]))
    assert [(problem["line"], problem["code"]) for problem in validate(path).problems] == [
        (2, "invalid_request"),
        (3, "invalid_json_line"),
    ]


def test_an_empty_file_has_no_requests(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.touch()
    assert [problem["code"] for problem in validate(path).problems] == ["empty_file"]


def test_a_last_line_needs_no_newline_and_only_newlines_split(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    line = '{"custom_id":"%s","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}'
    path.write_bytes(f"{line}\n{line}".encode() % ("a\u2028b\x85c".encode(), b"d"))
    result = validate(path)
    assert (result.total, result.problems) == (2, [])


def test_the_list_of_errors_of_a_batch_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"{\n" * 1000)
    assert len(validate(path).problems) == 100


def test_validation_can_be_stopped(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(jsonl(lines_of(300)))
    with pytest.raises(validation.ValidationCancelledError):
        validation.validate(path, ENDPOINT, Limits(), stopped=lambda: True)
