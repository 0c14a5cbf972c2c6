"""Fixtures for all tests: a real local Batch API, over real HTTP, on a directory of its own."""

import functools
import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import httpcore2
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from openai import DefaultHttpxClient, OpenAI

# Before the imports of our modules, which read them: no test may see the project or the key of the user.
FOR_TESTS = ("BATCH_ASSETS_TEST_THOROUGH",)
for name in [name for name in os.environ if name.startswith(("OPENAI_", "BATCH_ASSETS_", "DAGSTER_"))]:
    if name not in FOR_TESTS:
        del os.environ[name]

from batch_assets.local_api.serving.keys import given_key
from batch_assets.local_api.serving.server import serve
from batch_assets.local_api.settings import Timing
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import Project, generated_articles, write_articles

# Each of OpenAI's clients reads the certificates of all authorities again, which takes 35 ms.
httpcore2.default_ssl_context = functools.cache(httpcore2.default_ssl_context)

read_migrations = ScriptDirectory.from_config


@functools.cache
def migrations_in(folder: str) -> ScriptDirectory:
    return read_migrations(Config(config_args={"script_location": folder}))


def migrations_of(config: Config) -> ScriptDirectory:
    """Dagster's migrations. Each new instance in memory imports all of them again, which takes 50 ms."""
    return migrations_in(config.get_main_option("script_location") or "")


ScriptDirectory.from_config = migrations_of  # type: ignore[method-assign]

# Fixtures that open a database file, and the folder whose tests read files into one.
DATABASE_FIXTURES = {"workspace", "new_database", "database", "batch", "connection", "outcomes"}
DATABASE_FOLDER = "ingest"
# Fixtures that start a local Batch API, and what modules call that start one, or another process.
SERVER_FIXTURES = {"local_api", "shared_server", "shared_api", "finished_day"}
STARTS_A_PROCESS = ("serving(", "server_process(", "subprocess", "multiprocessing")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a server, another process or a database file: `make test-unit` leaves them out."""
    modules = {item.path: item.path.read_text(encoding="utf-8") for item in items}
    for item in items:
        needs_server = SERVER_FIXTURES & set(getattr(item, "fixturenames", ()))
        if needs_server or any(call in modules[item.path] for call in STARTS_A_PROCESS):
            item.add_marker(pytest.mark.server)
        if DATABASE_FIXTURES & set(getattr(item, "fixturenames", ())) or item.path.parent.name == DATABASE_FOLDER:
            item.add_marker(pytest.mark.database)


def pytest_collection_finish() -> None:
    """Keep Python's garbage collector from searching thousands of tests and modules again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # Python frees all of them before it ends


@contextmanager
def serving(directory: Path, **options: Any) -> Iterator[LocalApi]:
    """Serve a directory from a thread of this process; the options are those of `serve`.

    Without a key, unless the options or the environment have one, or say `without_key=False`. Without the pause before
    a batch's first line, unless they have `first_line_seconds`.
    """
    options["timing"] = replace(
        options.get("timing") or Timing(), first_line_seconds=options.pop("first_line_seconds", 0.0)
    )
    options.setdefault("without_key", options.get("api_key") is None and given_key() is None)
    stop, listening = threading.Event(), threading.Event()
    urls: list[str] = []
    failures: list[BaseException] = []

    def announce(url: str) -> None:
        urls.append(url)
        listening.set()

    def run() -> None:
        try:
            serve(directory, ready=announce, stop=stop, **options)
        except BaseException as error:
            failures.append(error)
        finally:
            listening.set()

    thread = threading.Thread(target=run, name="local-api")
    thread.start()
    try:
        listening.wait(20)
        if not urls:
            raise failures[0]
        plain = DefaultHttpxClient(verify=False)  # reading certificates takes 35 ms
        key = options.get("api_key") or "unused"
        with OpenAI(base_url=urls[0], api_key=key, max_retries=0, http_client=plain) as client:
            yield LocalApi(urls[0], client, directory)
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive(), "the local Batch API did not stop"


@pytest.fixture
def local_api(tmp_path: Path) -> Iterator[LocalApi]:
    """A local Batch API of this test's own, with the built-in engine and without delays."""
    with serving(tmp_path / "local_api") as api:
        yield api


@pytest.fixture
def project(tmp_path: Path, local_api: LocalApi) -> Iterator[Project]:
    """A project with twenty articles on 2026-01-05, nothing of it materialized yet."""
    source = write_articles(tmp_path / "articles.jsonl", generated_articles(20))
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        yield Project(tmp_path, local_api, instance, source)
