"""A browser without a browser: it sends what a page's forms and links send, with the cookie and the form's token."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import urlencode, urlsplit

from batch_assets.local_api.serving.discovery import page_url
from batch_assets_tests.local_api.support import HttpResponse, http_request
from batch_assets_tests.local_api_client import LocalApi

BOUNDARY = "boundary"


@dataclass(frozen=True)
class Visitor:
    """root: the path of all pages. cookie: the header; empty for a browser that is not signed in."""

    api: LocalApi
    root: str
    cookie: str = ""
    form_token: str = ""

    @property
    def origin(self) -> str:
        return self.api.url.removesuffix("/v1")

    def get(self, path: str, **headers: str) -> HttpResponse:
        """path: below the root. headers: Python names, `sec_fetch_site` for example."""
        return http_request(self.api, "GET", self.root + path, headers=self._headers({}, headers))

    def post(self, path: str, fields: dict[str, str] | None = None, **headers: str) -> HttpResponse:
        body = urlencode({"form_token": self.form_token, **(fields or {})}).encode()
        own = {"content-type": "application/x-www-form-urlencoded"}
        return http_request(self.api, "POST", self.root + path, body, self._headers(own, headers))

    def upload(self, name: str, content: bytes, **headers: str) -> HttpResponse:
        quoted = name.replace('"', "%22")
        head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="form_token"\r\n\r\n{self.form_token}\r\n'
        head += f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="{quoted}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
        own = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
        return http_request(self.api, "POST", f"{self.root}/files", body, self._headers(own, headers))

    def upload_and_create(self, content: bytes) -> str:
        """The path of the new batch, below the root."""
        uploaded = self.upload("requests.jsonl", content)
        assert uploaded.status == 303, uploaded.content
        file_id = uploaded.headers["location"].partition("?file=")[2]
        created = self.post("/batches", {"input_file_id": file_id, "endpoint": "/v1/chat/completions"})
        assert created.status == 303, created.content
        return created.headers["location"].removeprefix(self.root)

    def _headers(self, own: dict[str, str], given: dict[str, str]) -> dict[str, str]:
        """Those of a form of the page, unless a test gives others; an empty value leaves a header out."""
        usual = {"cookie": self.cookie, "origin": self.origin if own else "", "sec-fetch-site": "same-origin"}
        headers = {**usual, **own, **{name.replace("_", "-"): value for name, value in given.items()}}
        return {name: value for name, value in headers.items() if value}


def token_of(api: LocalApi) -> str:
    """The token of the printed address."""
    address = page_url(api.directory, with_token=True)
    assert address is not None
    return urlsplit(address).fragment


def sign_in(api: LocalApi, **fields: str) -> HttpResponse:
    return Visitor(api, "/ui").post("/sign-in", fields)


def signed_in(api: LocalApi) -> Visitor:
    """A browser that has opened the printed address, which has a token if the server has a key."""
    answer = http_request(api, "GET", "/ui/")
    if answer.status != 303:
        answer = sign_in(api, token=token_of(api))
    assert answer.status == 303, answer.content
    cookie = answer.headers.get("set-cookie", "").partition(";")[0]
    visitor = Visitor(api, answer.headers["location"].removesuffix("/batches"), cookie)
    found = re.search(r'name="form_token" value="([0-9a-f]{64})"', visitor.get("/files").content.decode())
    assert found is not None
    return replace(visitor, form_token=found[1])
