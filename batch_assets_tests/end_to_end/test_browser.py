"""Texts of others in Dagster's real UI and a real browser: the user sees them, and they have no effect."""

import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Dialog, Page

from batch_assets.cli.dagster_home.home import packaged_file
from batch_assets_tests.browser import open_page
from batch_assets_tests.conftest import serving
from batch_assets_tests.end_to_end.processes import WAIT_SECONDS, environment, wait_until
from batch_assets_tests.hostile_day import EXPENSIVE_DAY, REFUSED_DAY, run_hostile_days
from batch_assets_tests.nasty_texts import BAIT, TEXTS
from batch_assets_tests.project import DAY, Project

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]
# Each element that loads, executes or links to something, and was made from one of the texts.
MADE_OF_A_TEXT = """() => [...document.querySelectorAll(
    'img, script, iframe, object, embed, link, style, a, area, svg, use, video, audio, source, form, input, meta, base'
)].map(node => node.outerHTML.slice(0, 500)).filter(html => /bait|alert\\(1\\)/.test(html))"""
RENDERED = """() => [...document.querySelectorAll('.dagster-markdown')].map(node => {
    const copy = node.cloneNode(true)
    copy.querySelectorAll('code').forEach(code => code.remove())
    return copy.innerHTML
})"""


@contextmanager
def webserver(dagster_home: Path, data: Path) -> Iterator[str]:
    """Dagster's webserver on this Dagster home, with our definitions; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = dagster_home / "webserver.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster_webserver", "-w", str(packaged_file("workspace.yaml")), "-p", str(port)],
            env={**environment(data), "DAGSTER_HOME": str(dagster_home)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=5):
                return True
        except OSError:
            return False

    try:
        wait_until(answers, log.read_text)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


@pytest.fixture(scope="module")
def hostile_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a UI that shows the hostile days, and their runs."""
    folder = tmp_path_factory.mktemp("hostile")
    dagster_home = folder / "dagster_home"
    dagster_home.mkdir()
    shutil.copy(packaged_file("dagster.yaml"), dagster_home)
    with pytest.MonkeyPatch.context() as patch, serving(folder / "local_api") as api:
        patch.setattr(sys.modules["batch_assets.assets.results"], "PREVIEW_ROWS", 50)
        with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
            runs = run_hostile_days(Project(folder, api, instance, ""))
    with webserver(dagster_home, folder / "data") as url:
        yield url, runs


PAGES = {
    "event of summaries": (f"/assets/summaries?view=events&partition={DAY}", TEXTS[0]),
    "partition of summaries": (f"/assets/summaries?view=partitions&partition={DAY}", TEXTS[0]),
    "overview of summaries": ("/assets/summaries?view=overview", TEXTS[0]),
    "checks of summaries": ("/assets/summaries?view=checks", "usage_adds_up"),
    "checks of batch_request_file": ("/assets/batch_request_file?view=checks", "would cost an unknown amount"),
    "events of openai_batch": (f"/assets/openai_batch?view=events&partition={REFUSED_DAY}", "Refused: ![image]"),
    "event of batch_request_file": (f"/assets/batch_request_file?view=events&partition={EXPENSIVE_DAY}", "![image]"),
    "run that collected": ("/runs/{collected}", "ASSET_MATERIALIZATION"),
    "run that was refused": ("/runs/{refused}", "STEP_FAILURE"),
    "run that was over budget": ("/runs/{expensive}", "ASSET_CHECK_EVALUATION"),
}


def open_all_dialogs(page: Page) -> None:
    """Wait until the page is drawn, and open each dialog that shows a text."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)
    for label in ("[Show Markdown]", "[Show JSON]", "View full message"):
        for number in range(min(page.get_by_text(label).count(), 8)):
            page.get_by_text(label).nth(number).click(force=True)
            page.wait_for_timeout(300)
            assert page.evaluate(MADE_OF_A_TEXT) == []
            page.keyboard.press("Escape")
            page.wait_for_timeout(300)


@pytest.mark.parametrize("name", PAGES)
def test_the_ui_shows_the_texts_and_makes_no_html_of_them(hostile_ui: tuple[str, dict[str, str]], name: str) -> None:
    url, runs = hostile_ui
    path, visible_text = PAGES[name]
    alerts: list[str] = []
    with open_page(url) as (page, requests):

        def note_alert(dialog: Dialog) -> None:
            alerts.append(dialog.message)
            dialog.dismiss()

        page.on("dialog", note_alert)
        page.goto(path.format(**runs))
        page.get_by_text(visible_text).first.wait_for()
        open_all_dialogs(page)
        assert page.evaluate(MADE_OF_A_TEXT) == []
        assert not [html for html in page.evaluate(RENDERED) if "bait" in html]
    assert not alerts
    assert requests
    assert not [request for request in requests if "bait" in request]


def test_these_tests_notice_texts_that_became_html(hostile_ui: tuple[str, dict[str, str]]) -> None:
    """In a page with the texts as HTML, the browser makes elements and requests of them, and the tests see both."""
    url, _ = hostile_ui
    with open_page(url) as (page, requests):
        page.goto("/runs")
        page.evaluate(
            "html => { document.body.insertAdjacentHTML('beforeend', html) }", f"<img src={BAIT}/x><a href={BAIT}>x</a>"
        )
        page.wait_for_timeout(500)
        assert len(page.evaluate(MADE_OF_A_TEXT)) == 2
    assert any(BAIT in request for request in requests)
