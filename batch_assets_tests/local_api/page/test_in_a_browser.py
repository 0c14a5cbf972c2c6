"""The whole way in a real Chromium, by keyboard and mouse, without an account and without another server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from batch_assets_tests.browser import open_page
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.page.visitor import token_of
from batch_assets_tests.local_api.support import chat_body, jsonl, lines_of, request_line

HOSTILE = "<img src=x onerror=document.title='owned'>.jsonl"


@pytest.mark.end_to_end
def test_a_user_uploads_creates_watches_downloads_and_cancels(tmp_path: Path) -> None:
    file, slow = tmp_path / HOSTILE, tmp_path / "slow.jsonl"
    file.write_bytes(jsonl([*lines_of(5), request_line("bad", body=chat_body(messages=[]))]))
    with (
        serving(tmp_path / "local_api", engine="instant", latency_seconds=0.3, concurrency=1, without_key=False) as api,
        open_page(api.url.removesuffix("/v1")) as (page, requests),
    ):
        problems = problems_of(page)
        page.goto(f"/ui/#{token_of(api)}")
        page.get_by_role("link", name="Upload a file").press("Enter")
        assert page.evaluate("location.hash + document.cookie") == "", "the token and the cookie are hidden"

        upload_and_create(page, file)
        expect(page.locator("#state .badge.completed")).to_be_visible()  # without a click: the page is refreshed
        expect(page.locator("#state")).to_contain_text("6 of 6, 1 failed")
        assert [line["custom_id"] for line in downloaded(page, "Output", tmp_path)] == [
            f"request-{n}" for n in range(5)
        ]
        assert [line["custom_id"] for line in downloaded(page, "Errors", tmp_path)] == ["bad"]

        page.get_by_role("link", name="Files", exact=True).press("Enter")
        slow.write_bytes(jsonl(lines_of(1000)))
        upload_and_create(page, slow)
        expect(page.locator("#state")).to_contain_text(re.compile("in progress.*[1-9][0-9]* of 1,000", re.DOTALL))
        page.locator("summary", has_text="Cancel batch").press("Enter")
        page.get_by_role("button", name="Cancel this batch").press("Enter")
        expect(page.locator(".badge.cancelled")).to_be_visible()
        expect(page.get_by_text("Cancel batch")).to_have_count(0)

        page.get_by_role("link", name="Batches", exact=True).first.click()
        expect(page.locator("tbody .badge")).to_have_text(["cancelled", "completed"])
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": 360, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, "nothing is wider than a phone"
        assert problems == []
        assert page.title() == "Batches – Local Batch API"
        assert not [url for url in requests if not url.startswith(api.url.removesuffix("/v1") + "/ui/")]


def problems_of(page: Page) -> list[str]:
    """Errors of scripts and refused loads, which grow."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    return problems


def upload_and_create(page: Page, file: Path) -> None:
    page.get_by_label("A JSONL file").set_input_files(file)
    page.get_by_role("button", name="Upload").press("Enter")
    expect(page.get_by_label("File", exact=True).locator("option:checked")).to_contain_text(file.name)
    expect(page.get_by_label("Endpoint")).to_have_value("/v1/chat/completions")
    page.get_by_role("button", name="Create batch").press("Enter")
    expect(page.locator("#log")).to_contain_text("Created. The server validates the file.")


def downloaded(page: Page, title: str, folder: Path) -> list[dict[str, object]]:
    """The lines of a result file that the browser saves."""
    with page.expect_download() as found:
        page.get_by_role("link", name=f"Download the file: {title.lower()}").click()
    found.value.save_as(folder / title)
    assert found.value.suggested_filename.endswith(".jsonl")
    return [json.loads(line) for line in (folder / title).read_bytes().splitlines()]
