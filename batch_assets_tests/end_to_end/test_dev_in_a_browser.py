"""Dagster's UI with our check of access, in a real Chromium: it works for its user, and for no other page."""

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Page, WebSocket, expect, sync_playwright

from batch_assets_tests.end_to_end.processes import UPSTREAM, Dev, running_dev
from batch_assets_tests.project import DAY

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

EVIL = "evil.example"  # its DNS name resolves to this machine
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", f"--host-resolver-rules=MAP {EVIL} 127.0.0.1"),
)
WIPE = 'mutation { wipeAssets(assetPartitionRanges: [{assetKey: {path: ["raw_articles"]}}]) { __typename } }'
# Each way in which a page can send a request; resolves to what the page can read of the answers.
ATTACK = """
async ([target, query]) => {
    const url = target + '/graphql', body = JSON.stringify({query}), learnt = [];
    const REPORT = '/report_asset_materialization/raw_articles?partition=2026-01-05';
    const attempt = async (name, act) => {
        const tooLong = new Promise((_, reject) => setTimeout(reject, 5000));
        try { learnt.push(name + ': ' + await Promise.race([act(), tooLong])); }
        catch (error) { learnt.push(name + ': refused'); }
    };
    const operation = url + '?query=' + encodeURIComponent(query);
    await attempt('image', () => new Promise((resolve, reject) => {
        const image = new Image(); image.onload = resolve; image.onerror = reject; image.src = operation;
    }));
    await attempt('get', async () => (await fetch(operation)).text());
    await attempt('simple get', async () => (await fetch(operation, {mode: 'no-cors'})).type);
    for (const type of ['text/plain', 'application/json', 'application/x-www-form-urlencoded']) {
        const headers = {'Content-Type': type};
        await attempt('post', async () => (await fetch(url, {method: 'POST', body, headers})).text());
        await attempt('simple post', async () =>
            (await fetch(operation, {method: 'POST', body, headers, mode: 'no-cors'})).type);
        await attempt('report', async () =>
            (await fetch(target + REPORT, {method: 'POST', body: '{}', headers, mode: 'no-cors'})).type);
    }
    await attempt('form', () => new Promise((resolve) => {
        const frame = document.createElement('iframe'), form = document.createElement('form');
        frame.name = 'hidden';
        form.method = 'POST'; form.action = operation; form.target = 'hidden'; form.enctype = 'text/plain';
        form.appendChild(document.createElement('input')).name = body;
        document.body.append(frame, form);
        form.submit();
        setTimeout(resolve, 1000);
    }));
    await attempt('websocket', () => new Promise((resolve, reject) => {
        const socket = new WebSocket(url.replace('http', 'ws'), 'graphql-ws');
        socket.onopen = () => resolve('open'); socket.onerror = reject;
    }));
    return learnt;
}
"""


def test_the_ui_works_for_its_user_and_for_no_other_page(tmp_path: Path) -> None:
    with running_dev(tmp_path, BATCH_ASSETS_POLL_SECONDS="4") as dev, chromium() as page, another_site() as port:
        sockets: list[str] = []
        frames: list[str] = []

        def watch(socket: WebSocket) -> None:
            sockets.append(socket.url)
            socket.on("framereceived", lambda frame: frames.append(str(frame)))

        page.on("websocket", watch)
        materialize_by_clicks(page, dev)
        dev.wait_for("summaries", [DAY])
        assert sockets, "the UI opened no WebSocket"
        printed = (tmp_path / "dev.log").read_text()
        assert f"Batches     {dev.api_url.removesuffix('/v1')}/ui/\n" in printed, "the page, and no token in a file"
        assert any('"data"' in frame for frame in frames), "no live event came"

        before = {asset: dev.materializations(asset) for asset in ("raw_articles", "openai_batch", "summaries")}
        runs = {run["runId"] for run in dev.runs()}
        target = dev.ui_url
        for site in (f"http://127.0.0.1:{port}", f"http://localhost:{port}", f"http://{EVIL}:{port}"):
            page.goto(site)
            learnt = page.evaluate(ATTACK, [target, WIPE])
            assert {told.split(": ", 1)[1] for told in learnt if not told.startswith(("simple", "report", "form"))} == {
                "refused"
            }
            # the page cannot read the other answers; the materializations and runs below show that nothing was done
        rebound = f"http://{EVIL}:{urlsplit(target).port}"
        page.goto(rebound)
        expect(page.locator("body")).to_contain_text("for this machine only")
        for told in page.evaluate(ATTACK, [rebound, WIPE]):
            assert "data" not in told, told
            assert "open" not in told, told
        assert {asset: dev.materializations(asset) for asset in before} == before
        assert {run["runId"] for run in dev.runs()} == runs

        page.goto(f"http://{EVIL}:{port}")
        page.evaluate("url => { location.href = url; }", f"{target}/runs")  # a link to a page
        page.wait_for_url(f"{target}/runs*")
        expect(page.get_by_text("Runs", exact=True).first).to_be_visible(timeout=280_000)
        page.goto(f"{target}/graphql?query={quote(WIPE)}")
        expect(page.locator(".graphiql-container").first).to_be_visible(timeout=280_000)
        assert dev.materializations("raw_articles") == before["raw_articles"]

        page.goto(target)
        answered = page.evaluate(
            """async (body) => (await fetch('/graphql', {
                method: 'POST', body, headers: {'Content-Type': 'application/json'}})).text()""",
            json.dumps({"query": WIPE}),
        )
        assert "AssetWipeSuccess" in answered  # the query works: the attacks were refused
        assert dev.materializations("raw_articles") == {}


def materialize_by_clicks(page: Page, dev: Dev) -> None:
    """Do what the user does with the assets of a day, and wait until the browser shows the events of the run."""
    page.set_default_timeout(280_000)
    expect.set_options(timeout=280_000)
    page.goto(f"{dev.ui_url}/locations/batch_assets/asset-groups/articles/lineage")
    for name in UPSTREAM:
        page.get_by_text(name, exact=True).first.click(modifiers=["Shift"])
    page.get_by_role("button", name="Materialize selected (3)").click()
    dialog = page.get_by_role("dialog")
    days = dialog.get_by_role("textbox").first
    expect(days).to_be_editable()
    page.wait_for_load_state("networkidle")
    everything = dialog.get_by_role("button", name="Show all partitions")
    if everything.is_visible():  # the day is more than 90 days ago
        everything.click()
    days.fill(DAY)
    days.press("Enter")
    dialog.get_by_role("button", name="Launch 1 run").click()
    expect(page.get_by_text("Launched run")).to_be_visible()
    page.goto(f"{dev.ui_url}/runs/{dev.runs()[0]['runId']}")
    expect(page.get_by_text("RUN_SUCCESS").first).to_be_visible()


@contextmanager
def chromium() -> Iterator[Page]:
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=list(FLAGS))
        try:
            yield browser.new_page(viewport={"width": 1600, "height": 1000})
        finally:
            browser.close()


@contextmanager
def another_site() -> Iterator[int]:
    """An empty page on its own port, for any host name."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<body>Another site</body>")

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()
