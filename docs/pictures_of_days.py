"""Pictures of days in Dagster's UI: a day of each asset, its batches, plots, checks, lineage, and a stale day."""

import re
from collections.abc import Sequence
from pathlib import Path

from picture_steps import settle, take
from playwright.sync_api import Page, expect

ASSETS = ("raw_articles", "batch_request_file", "openai_batch")


def pictures_of_days(page: Page, days: Sequence[str], pictures: Path) -> None:
    """Of days that are all finished; the newest is yesterday."""
    for asset in ASSETS:
        picture_of_day(page, asset, days, pictures)
    picture_of_batches(page, days, pictures)
    picture_of_plots(page, pictures)
    picture_of_checks(page, pictures)
    picture_of_columns(page, pictures)
    picture_of_lineage(page, pictures)


def open_day(page: Page, asset: str, days: Sequence[str]) -> None:
    shown = f"[{days[0]}...{days[-1]}]"
    page.goto(f"/assets/{asset}?view=partitions&partition={days[-1]}&default_range={shown}")
    expect(page.get_by_text("Latest materialization")).to_be_visible()


def picture_of_day(page: Page, asset: str, days: Sequence[str], pictures: Path) -> None:
    """The figures of the newest day of an asset."""
    page.set_viewport_size({"width": 1100, "height": 760})
    open_day(page, asset, days)
    expect(page.get_by_text("Materialized", exact=True).first).to_be_visible()
    take(page, pictures / f"{asset}_day.png")


def picture_of_batches(page: Page, days: Sequence[str], pictures: Path) -> None:
    """The table of the batches of the newest day."""
    page.set_viewport_size({"width": 1700, "height": 1400})
    open_day(page, "summaries", days)
    table = page.get_by_role("table").filter(has=page.get_by_role("columnheader", name="submitted", exact=True)).last
    expect(table.get_by_text("completed", exact=True).first).to_be_visible()
    take(table, pictures / "batches_of_the_day.png")


def picture_of_plots(page: Page, pictures: Path) -> None:
    """The figures of the days as plots."""
    page.set_viewport_size({"width": 1300, "height": 900})
    page.goto("/assets/summaries")
    button = page.get_by_role("button", name="Plots")
    button.click()
    expect(page.get_by_text("simulated_cost_usd", exact=True).last).to_be_visible()
    settle(page)
    button.evaluate("node => node.scrollIntoView({block: 'start'})")
    take(page, pictures / "plots.png")


def picture_of_checks(page: Page, pictures: Path) -> None:
    """The checks of the results, with the figures of one of them."""
    page.set_viewport_size({"width": 1300, "height": 900})
    page.goto("/assets/summaries?view=checks")
    page.get_by_text("cost_is_within_estimate", exact=True).first.click()
    expect(page.get_by_text("estimated_at_most_usd").first).to_be_visible()
    take(page, pictures / "checks.png")


def picture_of_columns(page: Page, pictures: Path) -> None:
    """The columns of the results, with their comments."""
    page.set_viewport_size({"width": 1100, "height": 900})
    page.goto("/assets/summaries")
    expect(page.get_by_text("answered, in_flight, pending, blocked, failed, cancelled")).to_be_visible()
    take(page, pictures / "columns.png")


def picture_of_lineage(page: Page, pictures: Path) -> None:
    """The assets before and after the results."""
    page.set_viewport_size({"width": 1400, "height": 560})
    page.goto("/assets/summaries?view=lineage&lineageScope=upstream&lineageDepth=5")
    expect(page.get_by_text("raw_articles", exact=True).first).to_be_visible()
    take(page, pictures / "lineage.png")


def picture_of_stale_day(page: Page, days: Sequence[str], pictures: Path) -> None:
    """A day of an earlier model: Dagster says that it is out of date."""
    page.set_viewport_size({"width": 1100, "height": 520})
    open_day(page, "summaries", days)
    mark = page.get_by_text(re.compile(r"^Unsynced"))
    expect(mark.first).to_be_visible()
    mark.first.hover()
    expect(page.get_by_text("has a new code version")).to_be_visible()
    take(page, pictures / "stale_day.png")
