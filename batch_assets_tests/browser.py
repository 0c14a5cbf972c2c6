"""Chromium, headless, with a note of every request that it makes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def find_chromium() -> str:
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise AssertionError("The tests of the UI need Chromium (Debian: apt install chromium), and none was found.")


@contextmanager
def open_page(base_url: str) -> Iterator[tuple[Page, list[str]]]:
    """A page in a fresh profile, and the URLs of all requests that it makes, which grow."""
    requests: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        try:
            page = chromium.new_page(base_url=base_url, viewport={"width": 1400, "height": 1000})
            page.set_default_timeout(60_000)
            page.on("request", lambda request: requests.append(request.url))
            yield page, requests
        finally:
            chromium.close()
