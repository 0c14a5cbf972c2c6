"""Takes the pictures of the docs: clicks in the real UI bring a day from articles to summaries.

`make screenshots` runs it, on 127.0.0.1 and in a temporary folder; it leaves only `docs/images/*.png`. If the UI does
not work as the docs say, it ends with an error and changes no picture.
"""

import json
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
from typing import Any, TypeVar

from playwright.sync_api import FilePayload, FloatRect, Locator, Page, expect, sync_playwright

from batch_assets.local_api.serving.discovery import page_url
from batch_assets.local_api.serving.server import serve

IMAGES = Path(__file__).parent / "images"
DAY = "2026-01-05"
SHOWN_DAYS = "[2026-01-05...2026-01-09]"
TEN_DAYS = tuple(f"2026-01-{number:02d}" for number in range(5, 15))
UPSTREAM = ("raw_articles", "batch_request_file", "openai_batch")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
BATCH_SECONDS = 30.0  # long enough for its progress to be seen
CLICK_SECONDS = 30.0
WAIT_SECONDS = 240.0

Found = TypeVar("Found")


def main() -> None:
    browser = find_browser()
    # A process that a shell starts in the background ignores SIGINT. So would Dagster, which then ignores SIGTERM too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped by SIGTERM."))
    expect.set_options(timeout=CLICK_SECONDS * 1000)
    with tempfile.TemporaryDirectory(prefix="batch-assets-") as temporary:
        pictures, data, log = (Path(temporary) / name for name in ("pictures", "data", "dev.log"))
        api = slow_batch_api(data / "local_api")
        with api, running_dev(data, log) as group_url, open_page(browser, group_url) as page:
            materialize(page, group_url, pictures)
            wait_until(lambda: events(page, "summaries"), WAIT_SECONDS, "the sensor has not materialized `summaries`")
            picture_of_graph(page, group_url, pictures)
            picture_of_sensor(page, pictures)
            picture_of_progress(page, pictures)
            picture_of_summaries(page, pictures)
        data, source = Path(temporary) / "ten_days", Path(temporary) / "ten_days.jsonl"
        write_ten_days(source)
        with running_dev(data, log, source) as group_url, open_page(browser, group_url) as page:
            materialize_ten_days(page, group_url, pictures)
        take_local_api(browser, Path(temporary) / "local_api", pictures)
        picture_of_report(browser, data, pictures)
        IMAGES.mkdir(exist_ok=True)
        for picture in sorted(pictures.iterdir()):
            shutil.copy(picture, IMAGES)
            print(f"{IMAGES / picture.name}  {picture.stat().st_size / 1000:.0f} kB")


# The processes


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
def running_dev(data: Path, log: Path, source: Path | None = None) -> Iterator[str]:
    """`batch-assets dev`, which runs inside the `with`; yields the address that it prints when it is ready."""
    environment = environment_of(data)
    if source is not None:
        environment["BATCH_ASSETS_SOURCE"] = str(source)
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
def open_page(browser: str, base_url: str) -> Iterator[Page]:
    """A page in a new profile. Raises AssertionError at the end if the UI reported an error meanwhile."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=BROWSER_FLAGS)
        try:
            page = chromium.new_page(base_url=base_url, color_scheme="light", device_scale_factor=1.25, locale="en-GB")
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


# What a reader does and sees


def materialize(page: Page, group_url: str, pictures: Path) -> None:
    """Select the three upstream assets in the graph, and materialize the day."""
    page.goto(group_url)
    page.get_by_role("button", name="Hide navigation").click()  # it stays hidden, for a larger graph
    open_graph(page, group_url)
    for name in UPSTREAM:
        page.get_by_text(name, exact=True).first.click(modifiers=["Shift"])
    page.get_by_role("button", name="Materialize selected (3)").click()
    dialog = page.get_by_role("dialog")
    days = dialog.get_by_role("textbox").first
    expect(days).to_be_editable()
    settle(page)
    everything = dialog.get_by_role("button", name="Show all partitions")
    if everything.is_visible():  # the day is more than 90 days ago
        everything.click()
    days.fill(DAY)
    days.press("Enter")
    launch = dialog.get_by_role("button", name="Launch 1 run")
    expect(launch).to_be_enabled()
    take(dialog, pictures / "materialize.png")
    launch.click()
    expect(page.get_by_text("Launched run")).to_be_visible()


def write_ten_days(source: Path) -> None:
    """Five articles on each of ten days."""
    articles = [
        {
            "id": f"{day}-{number}",
            "title": f"Report {number} of {day}",
            "body": f"The harbour of town {number} reopened on {day}. It had been closed for a week.",
            "published_at": f"{day}T08:00:00Z",
        }
        for day in TEN_DAYS
        for number in range(5)
    ]
    source.write_text("".join(json.dumps(article) + "\n" for article in articles), encoding="utf-8")


def materialize_ten_days(page: Page, group_url: str, pictures: Path) -> None:
    """Materialize all assets on ten days. The backfill ends without a failure, and the sensor collects the days."""
    open_graph(page, group_url)
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog")
    days = dialog.get_by_role("textbox").first
    expect(days).to_be_editable()
    settle(page)
    everything = dialog.get_by_role("button", name="Show all partitions")
    if everything.is_visible():
        everything.click()
    days.fill(f"[{TEN_DAYS[0]}...{TEN_DAYS[-1]}]")
    days.press("Enter")
    dialog.get_by_role("button", name="Launch backfill").click()
    backfill = wait_until(lambda: ended_backfill(page), WAIT_SECONDS, "the backfill has not ended")
    assert backfill["status"] == "COMPLETED_SUCCESS", backfill
    wait_until(
        lambda: len(materialized_days(page)) == len(TEN_DAYS), WAIT_SECONDS, "the sensor has not collected all days"
    )
    page.set_viewport_size({"width": 1250, "height": 520})
    page.goto(f"/runs/b/{backfill['id']}")
    expect(page.get_by_text("Completed").first).to_be_visible()
    take(page, pictures / "backfill.png")


def ended_backfill(page: Page) -> dict[str, Any] | None:
    """The newest backfill, if it has ended."""
    query = "query Backfills { partitionBackfillsOrError { ... on PartitionBackfills { results { id status } } } }"
    answer = page.request.post("/graphql", data={"query": query})
    found: list[dict[str, Any]] = answer.json()["data"]["partitionBackfillsOrError"]["results"]
    return found[0] if found and found[0]["status"] not in ("REQUESTED", "CANCELING", "FAILING") else None


def materialized_days(page: Page) -> set[str]:
    """The days of `summaries` that the sensor has materialized."""
    query = """query Days($days: [String!]!) {
        assetNodeOrError(assetKey: {path: ["summaries"]}) { ... on AssetNode {
            assetMaterializations(partitions: $days) { partition }
    } } }"""
    answer = page.request.post("/graphql", data={"query": query, "variables": {"days": list(TEN_DAYS)}})
    return {event["partition"] for event in answer.json()["data"]["assetNodeOrError"]["assetMaterializations"]}


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


def picture_of_graph(page: Page, group_url: str, pictures: Path) -> None:
    open_graph(page, group_url)
    expect(page.get_by_text("1 / 1 Passed")).to_be_visible()
    expect(page.get_by_text(re.compile(r" ago$"))).to_have_count(4)
    nodes = FloatRect(x=120, y=273, width=1225, height=225)  # where the four are in a window of this size
    page.screenshot(path=pictures / "asset_graph.png", clip=nodes)


def picture_of_sensor(page: Page, pictures: Path) -> None:
    page.set_viewport_size({"width": 1100, "height": 870})
    page.goto("/locations/batch_assets/sensors/openai_batch_sensor")
    expect(page.get_by_text("1 run requested").first).to_be_visible()
    take(page, pictures / "sensor.png")


def picture_of_progress(page: Page, pictures: Path) -> None:
    """The events of `openai_batch`, with one from the middle of the batch selected."""
    shown = [event for event in events(page, "openai_batch") if event["description"]]
    assert len(shown) > 2, f"The sensor showed little progress: {shown}"
    halfway = shown[len(shown) // 2]
    page.set_viewport_size({"width": 1100, "height": 620})
    page.goto(f"/assets/openai_batch?view=events&time={halfway['timestamp']}")
    expect(page.get_by_text(halfway["description"])).to_be_visible()
    take(page, pictures / "openai_batch_progress.png")


def picture_of_summaries(page: Page, pictures: Path) -> None:
    page.set_viewport_size({"width": 1100, "height": 860})
    page.goto(f"/assets/summaries?view=partitions&partition={DAY}&default_range={SHOWN_DAYS}")
    preview = page.get_by_role("table").filter(has=page.get_by_role("columnheader", name="article", exact=True)).last
    expect(preview).to_be_visible()
    take(page, pictures / "summaries_partition.png")
    take(preview, pictures / "summaries_preview.png")


def picture_of_report(browser: str, data: Path, pictures: Path) -> None:
    """The upper part of the report about the ten days."""
    file = data / "report.html"
    command = [sys.executable, "-m", "batch_assets.cli.main", "report", "--out", str(file)]
    subprocess.run(command, env=environment_of(data), check=True)
    with open_page(browser, file.as_uri()) as page:
        page.set_viewport_size({"width": 1100, "height": 560})
        page.goto(file.as_uri())
        expect(page.get_by_role("img", name="Cost per day")).to_be_visible()
        take(page, pictures / "report.png")


def open_graph(page: Page, group_url: str) -> None:
    page.set_viewport_size({"width": 1400, "height": 640})
    page.goto(group_url)
    expect(page.get_by_text("summaries", exact=True)).to_be_visible()
    settle(page)


def take(what: Page | Locator, file: Path) -> None:
    settle(what if isinstance(what, Page) else what.page)
    what.screenshot(path=file)


def settle(page: Page) -> None:
    """Wait until the page is drawn."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)  # charts and live status are drawn after the last answer


def events(page: Page, asset: str) -> list[dict[str, Any]]:
    """The day's materializations and observations of an asset, oldest first."""
    query = """query Events($asset: [String!]!, $days: [String!]!) {
        assetNodeOrError(assetKey: {path: $asset}) { ... on AssetNode {
            assetMaterializations(partitions: $days) { timestamp description }
            assetObservations(partitions: $days) { timestamp description }
    } } }"""
    answer = page.request.post("/graphql", data={"query": query, "variables": {"asset": [asset], "days": [DAY]}})
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


if __name__ == "__main__":
    main()
