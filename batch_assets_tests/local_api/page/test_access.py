"""Only a browser with the page's token or a key opens the web page, and only the page itself may use its session."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.types import Message

from batch_assets.local_api.http.handlers import Api
from batch_assets.local_api.page.access import PageAccess
from batch_assets.local_api.page.app import create_page
from batch_assets.local_api.serving.discovery import page_url
from batch_assets.local_api.serving.keys import local_api_key
from batch_assets.local_api.settings import Settings
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.page.visitor import Visitor, sign_in, signed_in, token_of
from batch_assets_tests.local_api.support import http_request, jsonl, lines_of
from batch_assets_tests.local_api_client import LocalApi

KEY = "sk-of-the-user"
PATHS = ("/batches", "/batches/new", "/files", "/batches/batch_" + "0" * 32, "/files/file-" + "a" * 22 + "/content")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    """A server with the key of its folder. `api.client` has that key."""
    directory = tmp_path_factory.mktemp("page") / "local_api"
    with serving(directory, engine="instant", without_key=False) as found:
        yield LocalApi(found.url, found.client.with_options(api_key=local_api_key(directory)), directory)


@pytest.fixture
def visitor(api: LocalApi) -> Visitor:
    return signed_in(api)


def created(api: LocalApi) -> tuple[int, int]:
    """How many files were uploaded, and batches created."""
    return len(list(api.client.files.list(purpose="batch"))), len(list(api.client.batches.list()))


@pytest.mark.parametrize("path", PATHS)
def test_without_the_cookie_each_page_leads_to_the_form_to_sign_in(visitor: Visitor, path: str) -> None:
    name, _, value = visitor.cookie.partition("=")
    wrong = ("", f"{name}=", f"{name}={value[:-1]}", f"{name}={value}0", f"{name}={token_of(visitor.api)}", "x=y")
    for cookie in wrong:
        answer = replace(visitor, cookie=cookie).get(path)
        assert (answer.status, answer.headers["location"], answer.content) == (303, "/ui/", b"")
    assert replace(visitor, root="/ui/0123456789abcdef").get(path).status == 303, "another folder"
    assert visitor.get(path).status in (200, 404)


def test_without_the_cookie_nothing_is_uploaded_created_or_cancelled(visitor: Visitor) -> None:
    before = created(visitor.api)
    stranger = replace(visitor, cookie="")
    assert stranger.upload("a.jsonl", jsonl(lines_of(1))).status == 403
    assert stranger.post("/batches", {"input_file_id": "x", "endpoint": "/v1/chat/completions"}).status == 403
    assert stranger.post(f"/batches/batch_{'0' * 32}/cancel").status == 403
    assert created(visitor.api) == before


def test_the_token_or_a_key_signs_in_and_nothing_else(api: LocalApi) -> None:
    token, key = token_of(api), local_api_key(api.directory)
    for right in ({"token": token}, {"key": key}, {"token": "", "key": f" {key}\n"}):
        answer = sign_in(api, **right)
        assert answer.status == 303
        root = answer.headers["location"].removesuffix("/batches")
        assert re.fullmatch(r"/ui/[0-9a-f]{16}", root)
        attributes = answer.headers["set-cookie"].partition("; ")[2].split("; ")
        assert sorted(attributes) == ["HttpOnly", f"Path={root}/", "SameSite=strict"]
    for wrong in (token[:-1], token + "0", token.upper(), key[:-1], "", " ", "local", "\udc80"):
        for field in ("token", "key"):
            answer = sign_in(api, **{field: wrong.encode("utf-8", "surrogateescape").decode("latin-1")})
            assert answer.status == 403
            assert "set-cookie" not in answer.headers
            assert b'role="alert"' in answer.content


def test_the_key_and_the_tokens_are_in_no_page(visitor: Visitor) -> None:
    path = visitor.upload_and_create(jsonl(lines_of(1)))
    secrets = (local_api_key(visitor.api.directory), token_of(visitor.api), visitor.cookie.partition("=")[2])
    pages = [visitor.get(path) for path in (*PATHS, path)] + [http_request(visitor.api, "GET", "/ui/")]
    for page in pages:
        assert not [secret for secret in secrets if secret.encode() in page.content]
    assert not [secret for secret in secrets if secret in (page_url(visitor.api.directory, with_token=False) or "")]


def test_the_api_itself_does_not_accept_the_cookie(visitor: Visitor) -> None:
    for path in ("/v1/files", "/v1/batches", "/stats", "/uix", "//ui/", "/ui%2f..%2fv1/files", "/"):
        assert http_request(visitor.api, "GET", path, headers={"cookie": visitor.cookie}).status in (303, 401, 404), (
            path
        )


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example", "sec_fetch_site": "cross-site"},
        {"origin": "http://127.0.0.1:1", "sec_fetch_site": "same-site"},
        {"origin": "http://localhost:1", "sec_fetch_site": ""},
        {"origin": "null", "sec_fetch_site": ""},
        {"origin": "", "sec_fetch_site": ""},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
    ],
)
def test_a_form_of_another_page_is_refused_even_with_the_cookie_and_the_token(
    visitor: Visitor, headers: dict[str, Any]
) -> None:
    """Of another site or another port of this machine."""
    file = visitor.api.client.files.create(file=("a.jsonl", jsonl(lines_of(1))), purpose="batch")
    fields = {"input_file_id": file.id, "endpoint": "/v1/chat/completions"}
    before = created(visitor.api)
    assert visitor.upload("a.jsonl", jsonl(lines_of(1)), **headers).status == 403
    assert visitor.post("/batches", fields, **headers).status == 403
    assert visitor.post(f"/batches/batch_{'0' * 32}/cancel", **headers).status == 403
    assert Visitor(visitor.api, "/ui").post("/sign-in", {"token": token_of(visitor.api)}, **headers).status == 403
    assert created(visitor.api) == before
    assert visitor.post("/batches", fields).status == 303, "the same form of the page itself"


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_form_without_its_token_is_refused(visitor: Visitor, token: str) -> None:
    path = visitor.upload_and_create(jsonl(lines_of(1)))
    before = created(visitor.api)
    without = replace(visitor, form_token=token)
    assert without.upload("a.jsonl", jsonl(lines_of(1))).status == 403
    assert without.post("/batches", {"input_file_id": "x", "endpoint": "/v1/chat/completions"}).status == 403
    assert without.post(f"{path}/cancel").status == 403
    assert created(visitor.api) == before


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_may_link_to_a_page_and_may_not_embed_or_fetch_it(visitor: Visitor, site: str) -> None:
    for headers in (
        {"sec_fetch_mode": "no-cors", "sec_fetch_dest": "script"},
        {"sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
        {"sec_fetch_mode": "cors", "sec_fetch_dest": "empty"},
        {},
    ):
        assert visitor.get("/batches", sec_fetch_site=site, **headers).status == 403
    opened = visitor.get("/batches", sec_fetch_site=site, sec_fetch_mode="navigate", sec_fetch_dest="document")
    assert opened.status == 200


def test_each_response_forbids_frames_foreign_code_and_caches(visitor: Visitor) -> None:
    answers = [visitor.get(path) for path in (*PATHS, "/none")]
    answers += [http_request(visitor.api, "GET", path) for path in ("/ui/", "/ui/static/page.js", "/ui/static/none")]
    answers += [replace(visitor, cookie="").get("/batches"), visitor.post("/batches"), visitor.upload("a", b"")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] in ("no-store", "no-cache")


def test_the_page_of_an_unexpected_error_has_the_same_headers(tmp_path: Path) -> None:
    access = PageAccess(())
    page = create_page(cast(Api, SimpleNamespace(settings=Settings(tmp_path))), access)  # a server without a store
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    path = f"/{access.folder}/batches"
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    with pytest.raises(AttributeError):
        asyncio.run(page(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 500
    assert {"content-security-policy", "x-frame-options"} <= {name.decode() for name, _ in sent[0]["headers"]}


def test_a_new_start_of_the_server_ends_all_sessions_and_addresses(tmp_path: Path) -> None:
    with serving(tmp_path, without_key=False) as api:
        before, token = signed_in(api), token_of(api)
    with serving(tmp_path, without_key=False) as api:
        old = replace(before, api=api)
        assert old.get("/batches").status == 303
        assert replace(old, root=signed_in(api).root).get("/batches").status == 303
        refused = sign_in(api, token=token)
        assert refused.status == 403
        assert b"the server has started again" in refused.content
    assert page_url(tmp_path, with_token=True) is None, "there is no server"


def test_a_server_without_a_key_needs_no_cookie_and_still_refuses_other_pages(tmp_path: Path) -> None:
    with serving(tmp_path, without_key=True) as api:
        assert page_url(tmp_path, with_token=True) == api.url.removesuffix("/v1") + "/ui/"
        visitor = signed_in(api)
        assert visitor.cookie == ""
        assert visitor.upload("a.jsonl", jsonl(lines_of(1)), origin="https://evil.example").status == 403
        assert replace(visitor, form_token="").upload("a.jsonl", jsonl(lines_of(1))).status == 403
        assert visitor.get("/batches", host="evil.example").status == 403, "a name that resolves to this machine"
        assert http_request(api, "GET", "/ui/", headers={"host": "evil.example"}).status == 403
        assert visitor.upload("a.jsonl", jsonl(lines_of(1))).status == 303


def test_a_users_own_key_signs_in_from_another_machine(tmp_path: Path) -> None:
    with serving(tmp_path, api_key=KEY) as api:
        headers = {"host": "api.example", "origin": "https://api.example"}
        answer = Visitor(api, "/ui").post("/sign-in", {"key": KEY}, **headers)
        assert answer.status == 303
        assert http_request(api, "GET", "/ui", headers=headers).headers["location"] == "/ui/"
