"""Takes the pictures of the docs: clicks in the real UI bring a day from articles to summaries.

`make screenshots` runs it, on 127.0.0.1 and in a temporary folder; it leaves only `docs/images/*.png`. If the UI does
not work as the docs say, it ends with an error and changes no picture.
"""

import re
import shutil
import signal
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from picture_steps import (
    CLICK_SECONDS,
    WAIT_SECONDS,
    events,
    find_browser,
    open_graph,
    open_page,
    running_dev,
    settle,
    slow_batch_api,
    take,
    wait_until,
)
from pictures_of_days import picture_of_stale_day, pictures_of_days
from pictures_of_pages import pictures_of_report, take_local_api
from playwright.sync_api import FloatRect, Page, expect

IMAGES = Path(__file__).parent / "images"
DAY = "2026-01-05"
SHOWN_DAYS = "[2026-01-05...2026-01-09]"
YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)
TEN_DAYS = tuple((YESTERDAY - timedelta(days=number)).isoformat() for number in range(9, -1, -1))
UPSTREAM = ("raw_articles", "batch_request_file", "openai_batch")


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
            wait_until(
                lambda: events(page, "summaries", DAY), WAIT_SECONDS, "the sensor has not materialized `summaries`"
            )
            picture_of_graph(page, group_url, pictures)
            picture_of_sensor(page, pictures)
            picture_of_progress(page, pictures)
            picture_of_summaries(page, pictures)
        data = Path(temporary) / "ten_days"
        with running_dev(data, log) as group_url, open_page(browser, group_url) as page:
            materialize_ten_days(page, group_url, pictures)
            pictures_of_days(page, TEN_DAYS, pictures)
        with running_dev(data, log, MODEL="gpt-4.1-nano") as group_url, open_page(browser, group_url) as page:
            picture_of_stale_day(page, TEN_DAYS, pictures)
        take_local_api(browser, Path(temporary) / "local_api", pictures)
        pictures_of_report(browser, data, pictures)
        IMAGES.mkdir(exist_ok=True)
        for picture in sorted(pictures.iterdir()):
            shutil.copy(picture, IMAGES)
            print(f"{IMAGES / picture.name}  {picture.stat().st_size / 1000:.0f} kB")


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


def picture_of_graph(page: Page, group_url: str, pictures: Path) -> None:
    open_graph(page, group_url)
    expect(page.get_by_text(re.compile(r"\d / 7 Passed"))).to_be_visible()
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
    shown = [event for event in events(page, "openai_batch", DAY) if event["description"]]
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
    page.set_viewport_size({"width": 1700, "height": 1100})
    expect(preview).to_be_visible()
    take(preview, pictures / "summaries_preview.png")


if __name__ == "__main__":
    main()
