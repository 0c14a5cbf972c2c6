"""The modules of docs/recipes.md are loaded and materialized, as a user does."""

import importlib
import json
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import dagster as dg
import pytest
from dagster._core.workspace.autodiscovery import loadable_targets_from_loaded_module

import batch_assets
from batch_assets_tests.first_task import summaries
from batch_assets_tests.project import DAY, QUIET, Project, generated_articles, write_articles

PAGE = (Path(batch_assets.__file__).parent.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
BLOCKS = {name: code for code, name in re.findall(r"```python\n(# (\w+)\.py\n.*?)```", PAGE, re.DOTALL)}
NEXT_DAY = "2026-01-06"

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Loads a module of the page, with /data in the project's folder, and with the settings of the project."""
    folder = project.folder / "own"
    folder.mkdir()
    for name, code in BLOCKS.items():
        (folder / f"{name}.py").write_text(code.replace("/data/", f"{project.folder}/"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(project.folder / "data"))
    monkeypatch.setenv("BATCH_ASSETS_SOURCE", project.source)
    monkeypatch.setenv("OPENAI_BASE_URL", project.api.url)
    monkeypatch.setenv("OPENAI_API_KEY", "local")
    yield importlib.import_module
    for name in BLOCKS:
        sys.modules.pop(name, None)


def run(module: ModuleType, project: Project, job: str, day: str = DAY) -> dg.ExecuteInProcessResult:
    result: dg.ExecuteInProcessResult = (
        module.defs()
        .resolve_job_def(job)
        .execute_in_process(instance=project.instance, partition_key=day, run_config=QUIET)
    )
    return result


def finish(module: ModuleType, project: Project, *days: str) -> None:
    """Materialize `summaries` of days whose batches have ended, as the sensor does."""
    project.wait_for_batches()
    job = module.defs().resolve_implicit_global_asset_job_def()
    for day in days:
        job.execute_in_process(
            instance=project.instance, partition_key=day, asset_selection=[summaries.key], run_config=QUIET
        )


def test_the_page_has_no_other_code(load: Load) -> None:
    assert PAGE.count("```python") == len(BLOCKS) == 5


@pytest.mark.parametrize("name", BLOCKS)
def test_the_module_is_one_that_dagster_loads(load: Load, name: str) -> None:
    module = load(name)
    [target] = loadable_targets_from_loaded_module(module)
    assert target.attribute == "defs"
    definitions = module.defs()
    dg.Definitions.validate_loadable(definitions)
    assert "__future__" not in BLOCKS[name]
    assert {"submit_batches", "cancel_batches"} <= {job.name for job in definitions.jobs}


def test_own_articles_replace_ours(load: Load, project: Project) -> None:
    module = load("own_articles")
    with sqlite3.connect(project.folder / "news.sqlite") as news:
        news.execute("CREATE TABLE article (id INTEGER, headline TEXT, story TEXT, link TEXT, sent_at TEXT)")
        news.executemany(
            "INSERT INTO article VALUES (?, ?, ?, ?, ?)",
            [
                (1, "First", "The harbour reopened. Ships are waiting.", "https://x.org/1", f"{DAY} 09:00:00"),
                (1, "First", "The harbour reopened again. Ships left.", "https://x.org/1", f"{DAY} 10:00:00"),
                (2, None, "Potatoes are planted earlier. Farmers say so.", None, f"{DAY}T12:00:00+01:00"),
                (3, "Empty", "  ", None, f"{DAY} 11:00:00"),
                (4, "Later", "Another day has another article.", None, f"{NEXT_DAY} 11:00:00"),
            ],
        )
    news.close()
    with project.database.writing() as connection:
        connection.execute("INSERT INTO pruned_day (partition_date) VALUES (?)", [DAY])
    for _ in range(2):  # again: the day is replaced
        assert run(module, project, "submit_batches").success
    finish(module, project, DAY)
    assert project.rows(
        "SELECT article_id, title, status, CAST(published_at AS VARCHAR) FROM summaries ORDER BY 1"
    ) == [
        ("1", "First", "answered", f"{DAY} 10:00:00"),
        ("2", None, "answered", f"{DAY} 11:00:00"),
    ]
    assert project.rows("SELECT count(*) FROM openai_batch") == [(1,)]
    assert project.rows("SELECT count(*) FROM pruned_day") == [(0,)]
    result = (
        module.defs()
        .resolve_job_def("submit_batches")
        .execute_in_process(
            instance=project.instance, partition_key="2026-01-07", run_config=QUIET, raise_on_error=False
        )
    )
    assert not result.success


def test_own_rows_are_checked_as_ours(load: Load, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {
            "id": 7,
            "title": "T",
            "story": "The harbour reopened. Ships are waiting.",
            "sent_at": f"{DAY}T10:00:00+02:00",
        },
        {"id": 8, "title": "T", "story": "", "sent_at": f"{DAY}T10:00:00Z"},
    ]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"articles": rows}).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        module = load("own_rows")
        monkeypatch.setattr(module, "NEWS", f"http://127.0.0.1:{server.server_address[1]}/api/articles?day=")
        assert run(module, project, "submit_batches").success
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert project.rows("SELECT article_id, CAST(published_at AS VARCHAR) FROM raw_articles") == [
        ("7", f"{DAY} 08:00:00")
    ]
    assert project.rows("SELECT article_id, reason FROM rejected_article") == [("8", "empty_body")]
    assert project.rows("SELECT count(*) FROM openai_batch") == [(1,)]


def test_an_upstream_asset_fills_the_table_that_raw_articles_reads(
    load: Load, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_ASSETS_SOURCE", "table:own.feed_item")
    module = load("own_feed")
    (project.folder / "crawled").mkdir()
    for day in (DAY, NEXT_DAY):
        found = [
            {"url": f"https://x.org/{day}/{kind}", "title": "T", "body": f"A {kind} of {day}.", "kind": kind}
            for kind in ("article", "imprint")
        ]
        write_articles(
            project.folder / "crawled" / f"{day}.jsonl",
            [{**page, "found_at": f"{day}T01:00:00+01:00"} for page in found],
        )
        for _ in range(2):
            assert run(module, project, "crawl_and_submit", day).success
    assert project.rows("SELECT CAST(partition_date AS VARCHAR), article_id FROM raw_articles ORDER BY ALL") == [
        (day, f"https://x.org/{day}/article") for day in (DAY, NEXT_DAY)
    ]
    assert project.rows("SELECT count(*) FROM own.feed_item") == [(2,)]


def test_a_sensor_starts_a_job_for_each_day_that_is_complete(load: Load, project: Project) -> None:
    write_articles(Path(project.source), generated_articles(20, days=2))
    module = load("own_sensor")
    for day in (DAY, NEXT_DAY):
        assert run(module, project, "submit_batches", day).success

    def tick(cursor: str | None = None) -> dg.SensorResult:
        with dg.build_sensor_context(instance=project.instance, cursor=cursor, definitions=module.defs()) as context:
            result = module.day_is_complete(context)
        assert isinstance(result, dg.SensorResult)
        return result

    assert not tick().run_requests
    finish(module, project, DAY, NEXT_DAY)
    first = tick()
    assert [request.partition_key for request in first.run_requests or ()] == [DAY, NEXT_DAY]
    second = tick(first.cursor)
    assert (second.run_requests, second.cursor) == ([], first.cursor)
    for day in (DAY, NEXT_DAY):
        assert run(module, project, "publish", day).success
        html = (project.folder / "pages" / f"{day}.html").read_text(encoding="utf-8")
        assert html.count("<h2>Report") == 10

    # an article whose request is pending: not complete
    write_articles(Path(project.source), generated_articles(22, days=2))
    job = module.defs().resolve_implicit_global_asset_job_def()
    job.execute_in_process(
        instance=project.instance, partition_key=DAY, asset_selection=[dg.AssetKey("raw_articles")], run_config=QUIET
    )
    finish(module, project, DAY)
    third = tick(first.cursor)
    assert not third.run_requests
    assert third.cursor != first.cursor  # it has seen the materialization
    assert run(module, project, "submit_batches").success
    finish(module, project, DAY)
    fourth = tick(third.cursor)
    assert [request.partition_key for request in fourth.run_requests or ()] == [DAY]
    run_keys = {request.run_key for result in (first, fourth) for request in result.run_requests or ()}
    assert len(run_keys) == 3
