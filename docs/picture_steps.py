"""The processes and the browser behind the pictures of the docs, and what all pictures need."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from playwright.sync_api import Locator, Page, expect, sync_playwright

from batch_assets.local_api.serving.server import serve

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
BATCH_SECONDS = 30.0  # long enough for its progress to be seen
CLICK_SECONDS = 30.0
WAIT_SECONDS = 240.0

ROOT = Path(__file__).parents[1]
TEMPORARY_FOLDER = re.compile(re.escape(tempfile.gettempdir()) + r"/batch-assets-\w+")
# Shows a folder of the user in place of those of this machine.
WITHOUT_PATHS = """folders => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    while (texts.nextNode()) {
        for (const folder of folders) {
            texts.currentNode.data = texts.currentNode.data.replaceAll(folder, '/home/you/batch_assets')
        }
    }
}"""

Found = TypeVar("Found")


def find_browser() -> str:
    named = os.environ.get("CHROMIUM")
    wanted = (named,) if named else BROWSERS
    for candidate in wanted:
        if found := shutil.which(candidate):
            return found
    sys.exit(
        f"The pictures need a browser, and there is no {' or '.join(wanted)} that can be run. Install Chromium "
        "(Debian: apt install chromium), or put the path of one into the variable CHROMIUM."
    )


@contextmanager
def slow_batch_api(folder: Path) -> Iterator[None]:
    """A slow local Batch API of a data folder, which `batch-assets dev` of that folder uses."""
    ready, stop = threading.Event(), threading.Event()
    options = {"batch_seconds": BATCH_SECONDS, "ready": lambda _url: ready.set(), "stop": stop}
    server = threading.Thread(target=serve, args=(folder,), kwargs=options, daemon=True)
    server.start()
    try:
        if not ready.wait(WAIT_SECONDS):
            sys.exit("The local Batch API did not start; its output is above.")
        yield
    finally:
        stop.set()
        server.join()


@contextmanager
def running_dev(data: Path, log: Path, **settings: str) -> Iterator[str]:
    """`batch-assets dev`, which runs inside the `with`; yields the address that it prints when it is ready.

    settings: further variables, by their names after `BATCH_ASSETS_`.
    """
    environment = environment_of(data) | {f"BATCH_ASSETS_{name}": value for name, value in settings.items()}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "batch_assets.cli.main", "dev", "--port", str(port)]
    started = time.monotonic()
    with log.open("wb") as output:
        dev = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)

    def address() -> str | None:
        if dev.poll() is not None:
            sys.exit(f"`batch-assets dev` ended with exit code {dev.returncode}.")
        found = re.search(r"^Ready: (http\S+)$", log.read_text(), re.MULTILINE)
        return found and found.group(1)

    try:
        url = wait_until(address, WAIT_SECONDS, "`batch-assets dev` is not ready")
        print(f"`batch-assets dev` was ready after {time.monotonic() - started:.0f} s")
        yield url
    except BaseException:
        print(f"The end of the output of `batch-assets dev`:\n{log.read_text()[-3000:]}", file=sys.stderr)
        raise
    finally:
        dev.send_signal(signal.SIGINT)  # as Ctrl-C does
        dev.wait(WAIT_SECONDS)
        time.sleep(2)  # Dagster's code server ends a moment later, and uses the folder until then


def environment_of(data: Path) -> dict[str, str]:
    """That of our commands, without the key and the settings of the user."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "DAGSTER_"))}
    return environment | {"BATCH_ASSETS_DATA_DIR": str(data), "BATCH_ASSETS_POLL_SECONDS": "4"}


@contextmanager
def open_page(browser: str, base_url: str, color_scheme: Literal["light", "dark"] = "light") -> Iterator[Page]:
    """A page in a new profile. Raises AssertionError at the end if the UI reported an error meanwhile."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=BROWSER_FLAGS)
        try:
            page = chromium.new_page(
                base_url=base_url, color_scheme=color_scheme, device_scale_factor=1.25, locale="en-GB"
            )
            page.set_default_timeout(CLICK_SECONDS * 1000)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.on(
                "response",
                lambda answer: errors.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None,
            )
            yield page
        finally:
            chromium.close()
    assert not errors, f"The UI reported errors: {errors}"


def open_graph(page: Page, group_url: str) -> None:
    page.set_viewport_size({"width": 1400, "height": 640})
    page.goto(group_url)
    expect(page.get_by_text("summaries", exact=True)).to_be_visible()
    settle(page)


def take(what: Page | Locator, file: Path) -> None:
    page = what if isinstance(what, Page) else what.page
    settle(page)
    page.evaluate(WITHOUT_PATHS, [str(ROOT), *TEMPORARY_FOLDER.findall(page.content())])
    what.screenshot(path=file)


def settle(page: Page) -> None:
    """Wait until the page is drawn."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)  # charts and live status are drawn after the last answer


def events(page: Page, asset: str, day: str) -> list[dict[str, Any]]:
    """The day's materializations and observations of an asset, oldest first."""
    query = """query Events($asset: [String!]!, $days: [String!]!) {
        assetNodeOrError(assetKey: {path: $asset}) { ... on AssetNode {
            assetMaterializations(partitions: $days) { timestamp description }
            assetObservations(partitions: $days) { timestamp description }
    } } }"""
    answer = page.request.post("/graphql", data={"query": query, "variables": {"asset": [asset], "days": [day]}})
    node = answer.json()["data"]["assetNodeOrError"]
    found = [*node["assetMaterializations"], *node["assetObservations"]]
    return sorted(found, key=lambda event: float(event["timestamp"]))


def wait_until(condition: Callable[[], Found | None], seconds: float, otherwise: str) -> Found:
    """Wait for a true value of `condition`, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.5)
    sys.exit(f"After {seconds:.0f} s, {otherwise}.")
