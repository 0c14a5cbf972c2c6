"""File objects: uploads, downloads, listing, deletion and expiry."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from batch_assets.local_api.settings import Limits, Timing
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    HttpResponse,
    http_request,
    jsonl,
    lines_of,
    request_line,
    server_process,
    upload,
)
from batch_assets_tests.local_api_client import LocalApi

THIRTY_DAYS = 30 * 24 * 3600


def multipart(api: LocalApi, *parts: tuple[str, str | None, bytes]) -> HttpResponse:
    """POST /v1/files with parts of (name, filename, content)."""
    body = b""
    for name, filename, content in parts:
        file = "" if filename is None else f'; filename="{filename}"'
        body += f'--xyz\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"
    headers = {"content-type": "multipart/form-data; boundary=xyz"}
    return http_request(api, "POST", "/v1/files", body + b"--xyz--\r\n", headers)


GOOD = jsonl([request_line()])


def test_a_file_comes_back_byte_for_byte_with_every_key(shared_api: LocalApi) -> None:
    content = jsonl([request_line("ü\u2028\x85")]) + b'{"no newline at the end": 1}'
    answer = multipart(shared_api, ("purpose", None, b"batch"), ("file", "day.jsonl", content))
    assert answer.status == 200
    file = answer.json
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(content),
        "created_at": file["created_at"],
        "expires_at": file["created_at"] + THIRTY_DAYS,
        "filename": "day.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert shared_api.client.files.retrieve(file["id"]).to_dict() == file
    download = http_request(shared_api, "GET", f"/v1/files/{file['id']}/content")
    assert download.content == content
    assert download.headers["content-type"] == "application/octet-stream"
    assert download.headers["content-disposition"] == 'attachment; filename="day.jsonl"'
    assert download.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("handle", [io.BytesIO(GOOD), GOOD], ids=["handle", "bytes"])
def test_the_sdk_sends_unnamed_files_as_upload(shared_api: LocalApi, handle: Any) -> None:
    assert shared_api.client.files.create(file=handle, purpose="batch").filename == "upload"


def test_only_batch_files_expire_by_default(shared_api: LocalApi) -> None:
    client = shared_api.client
    file = client.files.create(file=("a.bin", b"\0\xff"), purpose="user_data")
    assert file.expires_at is None
    soon = client.files.create(
        file=("a.jsonl", GOOD), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert soon.expires_at == soon.created_at + 3600


@pytest.mark.parametrize(
    ("parts", "message", "param"),
    [
        ([("purpose", None, b"batch")], "Missing required parameter: 'file'.", "file"),
        ([("file", "a.jsonl", GOOD)], "Missing required parameter: 'purpose'.", "purpose"),
        (
            [("purpose", None, b"fun"), ("file", "a.jsonl", GOOD)],
            "'fun' is not one of ['fine-tune', 'assistants', 'batch', 'user_data', 'vision', 'evals'] - 'purpose'",
            None,
        ),
        (
            [("purpose", None, b"batch"), ("file", "a.jsonl", GOOD), ("colour", None, b"red")],
            "Unknown parameter: 'colour'.",
            "colour",
        ),
        *(
            (
                [("purpose", None, b"batch"), ("file", name, content)],
                "Invalid file format for Batch API. Must be .jsonl",
                None,
            )
            for name, content in [
                ("notes.txt", GOOD),
                ("a.jsonl", b""),
                ("a.jsonl", b"not json\n" + GOOD),
                ("a.jsonl", b"\xef\xbb\xbf" + GOOD),
                ("a.jsonl", b"[" * 100_000),
            ]
        ),
        (
            [
                ("purpose", None, b"batch"),
                ("expires_after[anchor]", None, b"created_at"),
                ("expires_after[seconds]", None, b"5"),
                ("file", "a.jsonl", GOOD),
            ],
            "Invalid 'expires_after.seconds': integer below minimum value. Expected "
            "a value >= 3600, but got 5 instead.",
            "expires_after.seconds",
        ),
        (
            [("purpose", None, b"batch"), ("expires_after[seconds]", None, b"3600"), ("file", "a.jsonl", GOOD)],
            "Missing required parameter: 'expires_after.anchor'.",
            "expires_after.anchor",
        ),
    ],
)
def test_uploads_that_openai_refuses(
    shared_api: LocalApi, parts: list[tuple[str, str | None, bytes]], message: str, param: str | None
) -> None:
    before = shared_api.stats()["files_created"]
    answer = multipart(shared_api, *parts)
    assert answer.status == 400
    error = answer.json["error"]
    assert error == {"message": message, "type": "invalid_request_error", "param": param, "code": error["code"]}
    assert shared_api.stats()["files_created"] == before
    assert not list((shared_api.directory / "uploads").iterdir())


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--xyz--"),
        ("multipart/form-data; boundary=xyz", b"--abc\r\n"),
        ("multipart/form-data; boundary=xyz", b'--xyz\r\nContent-Disposition: form-data; name="file"\r\n\r\n{}'),
        ("multipart/form-data; boundary=xyz", b"--xyz\r\nX: y\r\n\r\n{}\r\n--xyz--"),
        ("multipart/form-data; boundary=xyz", b""),
    ],
)
def test_malformed_forms_are_refused(shared_api: LocalApi, content_type: str, body: bytes) -> None:
    answer = http_request(shared_api, "POST", "/v1/files", body, {"content-type": content_type})
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert not list((shared_api.directory / "uploads").iterdir())


def test_large_fields_and_headers_of_forms_are_refused(shared_api: LocalApi) -> None:
    many = [(f"field {number}", None, b"") for number in range(100)]
    for parts in (
        [("purpose", None, b"x" * 100_000)],
        many,
        [("x" * 100_000, None, b"")],
        [("file", "x" * 20_000, GOOD)],
    ):
        answer = multipart(shared_api, *parts)
        assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
        assert answer.json["error"]["message"].startswith("Could not parse multipart form: ")
    assert not list((shared_api.directory / "uploads").iterdir())


def test_a_file_that_is_too_large_is_refused_and_not_stored(tmp_path: Path) -> None:
    with serving(tmp_path, limits=Limits(file_bytes=2_000_000)) as api:
        answer = multipart(api, ("purpose", None, b"user_data"), ("file", "a.bin", b"x" * 2_000_001))
        assert (answer.status, answer.json["error"]["message"]) == (400, "File is too large.")
        assert not list((api.directory / "uploads").iterdir())
        good = multipart(api, ("purpose", None, b"user_data"), ("file", "a.bin", b"x" * 2_000_000))
        assert (good.status, good.json["bytes"]) == (200, 2_000_000)


@pytest.mark.parametrize("filename", ["../../etc/passwd.jsonl", "C:\\x.jsonl", "ünï.jsonl", "a b.jsonl", "a;b.jsonl"])
def test_a_clients_file_name_is_only_a_label(shared_api: LocalApi, filename: str) -> None:
    before = {path.name for path in (shared_api.directory / "files").iterdir()}
    file = shared_api.client.files.create(file=(filename, GOOD), purpose="batch")
    (added,) = {path.name for path in (shared_api.directory / "files").iterdir()} - before
    assert added == file.id
    disposition = http_request(shared_api, "GET", f"/v1/files/{file.id}/content").headers["content-disposition"]
    assert disposition.startswith("attachment; filename")
    assert ".." not in disposition


@pytest.mark.parametrize("file_id", ["file-" + "a" * 22, "file-", "..%2F..%2Fserver.json", "%ED%A0%80", "%00"])
@pytest.mark.parametrize(("method", "tail"), [("GET", ""), ("DELETE", ""), ("GET", "/content")])
def test_unknown_files_are_not_found(shared_api: LocalApi, method: str, file_id: str, tail: str) -> None:
    answer = http_request(shared_api, method, f"/v1/files/{file_id}{tail}")
    assert answer.status == 404
    assert answer.json["error"]["type"] == "invalid_request_error"


def test_a_deleted_file_is_not_found(local_api: LocalApi) -> None:
    file_id = upload(local_api, lines_of(1))
    other = upload(local_api, lines_of(1))
    deleted = local_api.client.files.delete(file_id)
    assert deleted.to_dict() == {"id": file_id, "object": "file", "deleted": True}
    for call in (
        local_api.client.files.retrieve,
        local_api.client.files.content,
        local_api.client.files.delete,
    ):
        with pytest.raises(openai.NotFoundError) as refusal:
            call(file_id)
        assert refusal.value.body == {
            "message": f"No such File object: {file_id}",
            "type": "invalid_request_error",
            "param": "id",
            "code": None,
        }
    assert [file.id for file in local_api.client.files.list()] == [other]
    assert [path.name for path in (local_api.directory / "files").iterdir()] == [other]


def test_files_are_listed_page_by_page(local_api: LocalApi) -> None:
    ids = [upload(local_api, lines_of(1)) for _ in range(5)]
    data = local_api.client.files.create(file=("a.bin", b"x"), purpose="user_data")
    client = local_api.client
    assert [file.id for file in client.files.list()] == [data.id, *reversed(ids)]
    assert [file.id for file in client.files.list(purpose="batch", order="asc")] == ids
    assert [file.id for file in client.files.list(purpose="batch", limit=2)] == list(reversed(ids))
    page = client.files.list(purpose="batch", order="asc", limit=2, after=ids[0])
    assert page.to_dict() | {"data": None} == {
        "object": "list",
        "data": None,
        "first_id": ids[1],
        "last_id": ids[2],
        "has_more": True,
    }
    client.files.delete(ids[2])
    rest = client.files.list(purpose="batch", order="asc", after=ids[2])
    assert [file.id for file in rest.data] == ids[3:], "a page may begin after a deleted file"
    empty = http_request(local_api, "GET", "/v1/files?purpose=vision").json
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("after=file-x", "after"),
    ],
)
def test_invalid_parameters_of_listings_are_refused(shared_api: LocalApi, query: str, param: str) -> None:
    answer = http_request(shared_api, "GET", f"/v1/files?{query}")
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


def test_expired_files_are_not_found_and_removed_at_the_next_start(tmp_path: Path) -> None:
    directory = tmp_path / "local_api"
    with serving(directory, timing=Timing(batch_file_expiry_seconds=0.1)) as api:
        file_id = upload(api, lines_of(1))
        time.sleep(0.15)
        with pytest.raises(openai.NotFoundError):
            api.client.files.retrieve(file_id)
        assert not api.client.files.list().data
        (directory / "files" / "left-over").touch()
    with serving(directory):
        assert not list((directory / "files").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
def test_a_large_upload_and_download_need_no_memory(tmp_path: Path) -> None:
    line = json.dumps(request_line("x" * 1000)).encode() + b"\n"
    path = tmp_path / "large.jsonl"
    size = 0
    with path.open("wb") as file:
        while size < 50_000_000:
            size += file.write(line * 1000)

    with server_process(tmp_path / "local_api", engine="instant") as server:
        upload(server.api, lines_of(1))  # loads all modules
        before = server.peak_kb()
        with path.open("rb") as handle:
            created = server.api.client.files.create(file=("large.jsonl", handle), purpose="batch")
        assert created.bytes == size
        target = tmp_path / "copy.jsonl"
        with server.api.client.files.with_streaming_response.content(created.id) as answer:
            answer.stream_to_file(target)
        assert target.read_bytes() == path.read_bytes()
        assert server.peak_kb() - before < 20_000
