"""Texts that others wrote, in Dagster's real UI and a real browser: they are seen, and nothing comes of them."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Dialog, Page

from batch_assets.cli.dagster_home import shipped
from batch_assets_tests.browser import open_page
from batch_assets_tests.conftest import serving
from batch_assets_tests.end_to_end.processes import environment
from batch_assets_tests.hostile_day import DEAR_DAY, REFUSED_DAY, run_hostile_days
from batch_assets_tests.nasty_texts import BAIT, TEXTS
from batch_assets_tests.project import DAY, Project

pytestmark = pytest.mark.end_to_end
START_SECONDS = 120.0
# Whatever loads something, runs something or leads somewhere, and was made from one of the texts.
MADE_OF_A_TEXT = """() => [...document.querySelectorAll(
    'img, script, iframe, object, embed, link, style, a, area, svg, use, video, audio, source, form, input, meta, base'
)].map(node => node.outerHTML.slice(0, 500)).filter(html => /bait|alert\\(1\\)/.test(html))"""
RENDERED = """() => [...document.querySelectorAll('.dagster-markdown')].map(node => {
    const copy = node.cloneNode(true)
    copy.querySelectorAll('code').forEach(code => code.remove())
    return copy.innerHTML
})"""


@contextmanager
def webserver(home: Path, data: Path) -> Iterator[str]:
    """Dagster's webserver on this home, with our definitions; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = home / "webserver.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster_webserver", "-w", str(shipped("workspace.yaml")), "-p", str(port)],
            env={**environment(data), "DAGSTER_HOME": str(home)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{url}/server_info", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


@pytest.fixture(scope="module")
def hostile_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a UI that shows the hostile days, and their runs."""
    folder = tmp_path_factory.mktemp("hostile")
    home = folder / "home"
    home.mkdir()
    shutil.copy(shipped("dagster.yaml"), home)
    with pytest.MonkeyPatch.context() as patch, serving(folder / "local_api") as api:
        patch.setattr(sys.modules["batch_assets.assets.summaries"], "PREVIEW_ROWS", 50)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            runs = run_hostile_days(Project(folder, api, instance, ""))
    with webserver(home, folder / "data") as url:
        yield url, runs


PAGES = {
    "event of summaries": (f"/assets/summaries?view=events&partition={DAY}", TEXTS[0]),
    "partition of summaries": (f"/assets/summaries?view=partitions&partition={DAY}", TEXTS[0]),
    "overview of summaries": ("/assets/summaries?view=overview", TEXTS[0]),
    "checks of summaries": ("/assets/summaries?view=checks", "usage_adds_up"),
    "checks of batch_request_file": ("/assets/batch_request_file?view=checks", "would cost an unknown amount"),
    "events of openai_batch": (f"/assets/openai_batch?view=events&partition={REFUSED_DAY}", "Refused: ![image]"),
    "event of batch_request_file": (f"/assets/batch_request_file?view=events&partition={DEAR_DAY}", "![image]"),
    "run that collected": ("/runs/{collected}", "ASSET_MATERIALIZATION"),
    "run that was refused": ("/runs/{refused}", "STEP_FAILURE"),
    "run that was too dear": ("/runs/{dear}", "ASSET_CHECK_EVALUATION"),
}


def look_everywhere(page: Page) -> None:
    """Let what is on the page draw itself, and open the dialogs that it offers."""
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
def test_the_texts_are_seen_and_nothing_is_made_of_them(hostile_ui: tuple[str, dict[str, str]], name: str) -> None:
    url, runs = hostile_ui
    path, is_seen = PAGES[name]
    alerts: list[str] = []
    with open_page(url) as (page, requests):

        def note_alert(dialog: Dialog) -> None:
            alerts.append(dialog.message)
            dialog.dismiss()

        page.on("dialog", note_alert)
        page.goto(path.format(**runs))
        page.get_by_text(is_seen).first.wait_for()
        look_everywhere(page)
        assert page.evaluate(MADE_OF_A_TEXT) == []
        assert not [html for html in page.evaluate(RENDERED) if "bait" in html]
    assert not alerts
    assert requests
    assert not [request for request in requests if "bait" in request]


def test_the_browser_would_have_shown_it(hostile_ui: tuple[str, dict[str, str]]) -> None:
    """That these tests can fail: a page in which the texts are HTML does all that they look for."""
    url, _ = hostile_ui
    with open_page(url) as (page, requests):
        page.goto("/runs")
        page.evaluate(
            "html => { document.body.insertAdjacentHTML('beforeend', html) }", f"<img src={BAIT}/x><a href={BAIT}>x</a>"
        )
        page.wait_for_timeout(500)
        assert len(page.evaluate(MADE_OF_A_TEXT)) == 2
    assert any(BAIT in request for request in requests)
