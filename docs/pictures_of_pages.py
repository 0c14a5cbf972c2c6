"""Pictures of our own pages: the web page of the local Batch API, and the report."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from picture_steps import WAIT_SECONDS, environment_of, open_page, slow_batch_api, take
from playwright.sync_api import FilePayload, Page, expect

from batch_assets.local_api.serving.discovery import page_url


def take_local_api(browser: str, folder: Path, pictures: Path) -> None:
    """Upload a file on the web page of a local Batch API, and create a batch of it."""
    with slow_batch_api(folder):
        address = page_url(folder, with_token=True)
        assert address is not None, "the local Batch API has no web page"
        with open_page(browser, address) as page:
            picture_of_local_api(page, address, pictures)


def picture_of_local_api(page: Page, address: str, pictures: Path) -> None:
    """A batch of which more than half is executed, with two failures."""
    page.set_viewport_size({"width": 1100, "height": 760})
    page.goto(address)
    page.get_by_role("link", name="Upload a file").click()
    content = "".join(json.dumps(line) + "\n" for line in request_lines(60))
    file = FilePayload(name="articles-2026-01-05.jsonl", mimeType="application/jsonl", buffer=content.encode())
    page.get_by_label("A JSONL file").set_input_files(file)
    page.get_by_role("button", name="Upload").click()
    page.get_by_role("button", name="Create batch").click()
    expect(page.locator("#state")).to_contain_text(re.compile(r"[34]\d of 60, 2 failed"), timeout=WAIT_SECONDS * 1000)
    page.screenshot(path=pictures / "local_batch_api.png", full_page=True)


def request_lines(count: int) -> Iterator[dict[str, Any]]:
    """Lines of a request file. Every seventeenth has no messages, and fails."""
    for number in range(count):
        text = f"The harbour of town {number} reopened. It had been closed for a week."
        messages = [] if number % 17 == 16 else [{"role": "user", "content": text}]
        body = {"model": "gpt-6-luna", "messages": messages}
        yield {"custom_id": f"article-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def pictures_of_report(browser: str, data: Path, pictures: Path) -> None:
    """The upper part of the report about the ten days, on a light and on a dark screen."""
    file = data / "report.html"
    command = [sys.executable, "-m", "batch_assets.cli.main", "report", "--out", str(file)]
    subprocess.run(command, env=environment_of(data), check=True)
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        with open_page(browser, file.as_uri(), scheme) as page:
            page.set_viewport_size({"width": 1100, "height": 560})
            page.goto(file.as_uri())
            expect(page.get_by_role("img", name="Cost per day")).to_be_visible()
            take(page, pictures / ("report.png" if scheme == "light" else "report_dark.png"))
