"""All kinds of JSON bodies that the server sends, collected over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openai.types import Batch

from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    Endpoint,
    chat_body,
    http_request,
    lines_of,
    post_json,
    request_line,
    results,
    submit,
    upload,
    wait_until_validated,
)
from batch_assets_tests.local_api_client import LocalApi

Bodies = list[tuple[str, Any]]
"""Pairs of the name of OpenAI's schema and a body."""

TEXT = "The council approved the new bridge on Monday. It will cost 40 million euros. Work begins in spring."
REQUESTS: dict[Endpoint, dict[str, Any]] = {
    "/v1/chat/completions": chat_body(),
    "/v1/completions": {"model": "gpt-3.5-turbo-instruct", "prompt": [TEXT, "Two."], "n": 2, "echo": True},
    "/v1/responses": {"model": "gpt-5-mini", "input": TEXT, "metadata": {"a": "b"}},
    "/v1/embeddings": {"model": "text-embedding-3-small", "input": [TEXT, "b"]},
}
ANSWERS: dict[str, str] = {
    "/v1/chat/completions": "CreateChatCompletionResponse",
    "/v1/completions": "CreateCompletionResponse",
    "/v1/responses": "Response",
    "/v1/embeddings": "CreateEmbeddingResponse",
}


def collect(directory: Path) -> Bodies:
    bodies: Bodies = []
    with serving(directory / "quick", engine="instant") as api:
        bodies += _objects(api) + _answers(api) + _errors(api)
    with serving(directory / "slow", engine="instant", latency_seconds=0.02, concurrency=1) as api:
        bodies += _cancelling(api)
    with serving(directory / "expiring", engine="instant", completion_window_seconds=0) as api:
        bodies += _batches(api, api.wait(submit(api, lines_of(2)).id))
    return bodies


def _objects(api: LocalApi) -> Bodies:
    bodies: Bodies = [("ListFilesResponse", _get(api, "/v1/files")), ("ListBatchesResponse", _get(api, "/v1/batches"))]
    created = api.client.batches.create(
        input_file_id=upload(api, [*lines_of(3), request_line("bad", body=chat_body(messages=[]))]),
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"key": "value"},
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )
    bodies.append(("Batch", created.to_dict()))
    failed = submit(api, [b"{}", request_line("a", method="GET")])
    missing = post_json(
        api,
        "/v1/batches",
        {"input_file_id": "file-x", "endpoint": "/v1/responses", "completion_window": "24h"},
    )
    bodies.append(("Batch", missing.json))
    for batch_id in (created.id, failed.id, missing.json["id"]):
        bodies += _batches(api, api.wait(batch_id))
    for _, body in list(bodies):
        for file_id in (body.get("input_file_id"), body.get("output_file_id"), body.get("error_file_id")):
            if file_id and file_id != "file-x":
                bodies.append(("OpenAIFile", _get(api, f"/v1/files/{file_id}")))
    kept = api.client.files.create(file=("a.bin", b"x"), purpose="user_data")
    bodies.append(("OpenAIFile", _get(api, f"/v1/files/{kept.id}")))
    bodies.append(("ListFilesResponse", _get(api, "/v1/files?limit=3")))
    bodies.append(("ListBatchesResponse", _get(api, "/v1/batches?limit=1")))
    bodies.append(("DeleteFileResponse", http_request(api, "DELETE", f"/v1/files/{kept.id}").json))
    bodies.append(("Model", _get(api, "/v1/models/gpt-4.1-mini")))
    bodies += [("Model", model) for model in _get(api, "/v1/models")["data"]]
    return bodies


def _answers(api: LocalApi) -> Bodies:
    """Responses to direct requests, and the results of batches."""
    bodies: Bodies = []
    for endpoint, request in REQUESTS.items():
        bodies.append((ANSWERS[endpoint], post_json(api, endpoint, request).json))
        lines = [request_line(f"{number}", url=endpoint, body=request) for number in range(2)]
        output, errors = results(api, api.wait(submit(api, lines, endpoint).id))
        assert not errors
        bodies += [(ANSWERS[endpoint], line["response"]["body"]) for line in output]
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    for wanted in ({"type": "json_object"}, {"type": "json_schema", "name": "facts", "schema": schema}):
        request = {**REQUESTS["/v1/responses"], "input": f"JSON: {TEXT}", "text": {"format": wanted}}
        bodies.append(("Response", post_json(api, "/v1/responses", request).json))
    cut = {**REQUESTS["/v1/responses"], "input": "word " * 50, "max_output_tokens": 16}
    bodies.append(("Response", post_json(api, "/v1/responses", cut).json))
    encoded = {**REQUESTS["/v1/embeddings"], "encoding_format": "base64"}
    assert all(isinstance(item["embedding"], str) for item in post_json(api, "/v1/embeddings", encoded).json["data"])
    return bodies


def _errors(api: LocalApi) -> Bodies:
    return [
        ("ErrorResponse", answer.json)
        for answer in (
            *(post_json(api, endpoint, {}) for endpoint in (*REQUESTS, "/v1/batches", "/v1/files")),
            *(http_request(api, "GET", path) for path in ("/v1/files/x", "/v1/batches/x", "/v1/x", "/v1/models/a%20b")),
            http_request(api, "DELETE", "/v1/batches"),
            http_request(api, "GET", "/v1/files", headers={"host": "example.com"}),
        )
    ]


def _cancelling(api: LocalApi) -> Bodies:
    batch = submit(api, lines_of(30))
    bodies = _batches(api, wait_until_validated(api, batch.id))
    bodies.append(("Batch", http_request(api, "POST", f"/v1/batches/{batch.id}/cancel").json))
    return bodies + _batches(api, api.wait(batch.id))


def _batches(api: LocalApi, batch: Batch) -> Bodies:
    """The object itself, and the bodies of the lines that failed."""
    _, errors = results(api, batch)
    failures = [("ErrorResponse", line["response"]["body"]) for line in errors if line["response"]]
    return [("Batch", _get(api, f"/v1/batches/{batch.id}")), *failures]


def _get(api: LocalApi, path: str) -> Any:
    answer = http_request(api, "GET", path)
    assert answer.status == 200, answer.content
    return answer.json
