"""The pages show what the API has, say its own errors, and show text of users as text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

import pytest

from batch_assets.local_api.settings import Limits
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.page.visitor import Visitor, signed_in
from batch_assets_tests.local_api.support import (
    ENDPOINT,
    HttpResponse,
    chat_body,
    jsonl,
    lines_of,
    post_json,
    request_line,
    submit,
    upload,
    wait_until_validated,
)

HOSTILE = '"><script>alert(1)</script>{{ 7 * 7 }}\u202e\x9b2J'
ACTIVE = ("<script>alert", "\u202e", "\x9b", "49\\u202e")
NO_FILE = "file-" + "a" * 22
NO_BATCH = "batch_" + "0" * 32


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    directory = tmp_path_factory.mktemp("pages") / "local_api"
    with serving(directory, engine="instant", limits=Limits(file_bytes=100_000)) as api:
        yield signed_in(api)


def error_on(answer: HttpResponse) -> str:
    """The error on a page, as the user reads it."""
    found = re.search(r'<p class="notice error" role="alert">(.*?)</p>', answer.content.decode(), re.DOTALL)
    assert found is not None, answer.content
    return unescape(found[1])


def test_a_file_becomes_a_batch_whose_page_has_its_log_counts_usage_and_files(visitor: Visitor) -> None:
    path = visitor.upload_and_create(jsonl([*lines_of(3), request_line("bad", body=chat_body(messages=[]))]))
    batch = visitor.api.wait(path.removeprefix("/batches/"))
    page = visitor.get(path).content.decode()
    assert batch.usage is not None
    for words in (
        *("4 of 4, 1 failed", "gpt-4.1-mini", "The file is valid. 4 requests are executed.", ENDPOINT),
        *("Completed: 3 answered, 1 failed.", f"<dd>{batch.usage.total_tokens:,}</dd>", "<code>instant</code>"),
    ):
        assert words in page
    assert "Cancel" not in page
    for file_id in (batch.input_file_id, batch.output_file_id, batch.error_file_id):
        assert file_id is not None
        assert f'href="{visitor.root}/files/{file_id}/content"' in page
        download = visitor.get(f"/files/{file_id}/content")
        assert download.content == visitor.api.client.files.content(file_id).content
        assert download.headers["content-disposition"].startswith("attachment;")
        assert download.headers["content-type"] == "text/plain; charset=utf-8"
        assert download.headers["x-content-type-options"] == "nosniff"
    assert path in visitor.get("/batches").content.decode()


def test_text_of_users_is_text_on_every_page(visitor: Visitor) -> None:
    """Names of files, models, metadata, ids of files that don't exist, and errors about lines."""
    file_id = visitor.api.client.files.create(file=(HOSTILE, jsonl(lines_of(1))), purpose="batch").id
    fields = {"endpoint": ENDPOINT, "completion_window": "24h", "metadata": {HOSTILE[:60]: HOSTILE}}
    made = [
        post_json(visitor.api, "/v1/batches", {**fields, "input_file_id": one}).json["id"]
        for one in (
            *(HOSTILE, "x" * 100_000, file_id),
            upload(visitor.api, [request_line("a", url=HOSTILE)]),
            upload(visitor.api, [request_line("a", body={"model": HOSTILE[:25] + "\xa0", "messages": []})]),
        )
    ]
    for batch_id in made:
        visitor.api.wait(batch_id)
    paths = ["/files", "/batches", f"/batches/new?file={file_id}", *(f"/batches/{one}" for one in made)]
    pages = [visitor.get(path).content.decode() for path in paths]
    for page in pages:
        assert not [text for text in ACTIVE if text in page]
        assert len(page) < 50_000
    assert sum("&lt;script&gt;alert(1)" in page for page in pages) == len(pages) - 1, "all but the list of batches"
    download = visitor.get(f"/files/{file_id}/content")
    assert download.headers["content-disposition"].startswith("attachment; filename*=UTF-8''script")
    for path in ("/%3Cscript%3Ealert", "/batches/%3Cscript%3Ealert", "/files/%3Cscript%3Ealert/content"):
        refused = visitor.get(path)
        assert refused.status == 404
        assert "<script>alert" not in refused.content.decode()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"{}\n", "Invalid file format for Batch API. Must be .jsonl"),
        ("a.jsonl", b"", "Invalid file format for Batch API. Must be .jsonl"),
        ("a.jsonl", b"not json", "Invalid file format for Batch API. Must be .jsonl"),
        ("a.jsonl", b"{}\n" * 50_000, "File is too large."),
    ],
)
def test_an_upload_that_the_api_refuses_says_why_on_the_page(
    visitor: Visitor, name: str, content: bytes, sentence: str
) -> None:
    before = len(list(visitor.api.client.files.list()))
    answer = visitor.upload(name, content)
    assert (answer.status, error_on(answer)) == (400, sentence)
    assert 'type="file"' in answer.content.decode(), "the form is there for another attempt"
    assert len(list(visitor.api.client.files.list())) == before
    assert list((visitor.api.directory / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"endpoint": ENDPOINT}, "Missing required parameter: 'input_file_id'."),
        ({"input_file_id": NO_FILE}, "Missing required parameter: 'endpoint'."),
        ({"input_file_id": NO_FILE, "endpoint": HOSTILE}, "Invalid value: '\"><script>alert(1)"),
    ],
)
def test_a_batch_that_the_api_refuses_says_why_on_the_form(
    visitor: Visitor, fields: dict[str, str], sentence: str
) -> None:
    answer = visitor.post("/batches", fields)
    assert answer.status == 400
    assert error_on(answer).startswith(sentence)
    assert "<script>alert" not in answer.content.decode()


def test_a_batch_that_fails_shows_the_error_of_each_line(visitor: Visitor) -> None:
    path = visitor.upload_and_create(jsonl([request_line("a"), request_line("b", method="GET")]))
    visitor.api.wait(path.removeprefix("/batches/"))
    page = unescape(visitor.get(path).content.decode())
    for words in ("Invalid value: 'GET'.", "invalid_value", "line 2", "Failed: the server refused the batch"):
        assert words in page


def test_the_form_selects_the_endpoint_of_the_files_first_line(visitor: Visitor) -> None:
    for line, selected in (
        (request_line("a", url="/v1/embeddings"), ["/v1/embeddings"]),
        (request_line("a", url="/v1/none"), []),
        (b'"no object"', []),
    ):
        page = visitor.get(f"/batches/new?file={upload(visitor.api, [line])}").content.decode()
        assert re.findall(r"<option selected>(.*?)</option>", page) == selected


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (f"/batches/{NO_BATCH}", f"No batch found with id '{NO_BATCH}'."),
        (f"/batches?after={NO_BATCH}", f"No batch found with id '{NO_BATCH}'."),
        ("/files?after=x", "No such File object: x"),
        (f"/files/{NO_FILE}/content", f"No such File object: {NO_FILE}"),
        ("/none", "There is no such page."),
    ],
)
def test_what_does_not_exist_is_an_error_page(visitor: Visitor, path: str, sentence: str) -> None:
    answer = visitor.get(path)
    assert answer.status in (400, 404)
    assert error_on(answer) == sentence


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=x", "text/plain"])
def test_a_form_of_another_type_is_refused_in_a_sentence(visitor: Visitor, content_type: str) -> None:
    answer = visitor.post("/batches", {}, content_type=content_type)
    assert (answer.status, error_on(answer).split()[0]) == (415, "Expected")
    upload = visitor.post("/files", {}, content_type="text/plain")
    assert (upload.status, error_on(upload).split()[0]) == (400, "Expected")


def test_a_form_that_is_too_large_is_refused_in_a_sentence(visitor: Visitor) -> None:
    assert visitor.post("/batches", {"endpoint": "x" * 70_000}).status == 413
    assert visitor.post("/batches", {str(number): "" for number in range(40)}).status == 400


def test_a_running_batch_is_cancelled_and_an_ended_one_says_why_not(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("slow") / "local_api", engine="instant", batch_seconds=600) as api:
        visitor = signed_in(api)
        path = visitor.upload_and_create(jsonl(lines_of(5)))
        wait_until_validated(api, path.removeprefix("/batches/"))
        running = visitor.get(path).content.decode()
        assert 'data-live="running"' in running
        assert f'action="{visitor.root}{path}/cancel"' in running
        assert visitor.post(f"{path}/cancel").headers["location"] == visitor.root + path
        assert api.wait(path.removeprefix("/batches/")).status == "cancelled"
        ended = visitor.get(path).content.decode()
        assert re.search("Cancelled: [01] of 5 requests were executed.", ended)
        assert 'data-live="ended"' in ended
        assert "/cancel" not in ended
    with serving(tmp_path_factory.mktemp("quick") / "local_api", engine="instant") as api:
        batch = api.wait(submit(api, lines_of(1)).id)
        answer = signed_in(api).post(f"/batches/{batch.id}/cancel")
        assert (answer.status, error_on(answer)) == (409, "Cannot cancel a batch with status 'completed'.")


def test_long_lists_have_pages(visitor: Visitor) -> None:
    for number in range(25):
        visitor.api.client.files.create(file=(f"number-{number}", b"{}"), purpose="user_data")
    first = visitor.get("/files").content.decode()
    assert [name for name in ("number-24", "number-5", "number-4") if f">{name}<" in first] == ["number-24", "number-5"]
    assert "Newest" not in first
    older = re.search(rf'href="{visitor.root}(/files\?after=[^"]*)">Older', first)
    assert older is not None
    second = visitor.get(older[1]).content.decode()
    assert ">number-4<" in second
    assert ">number-5<" not in second
    assert "Newest" in second
