"""The faults between a run and OpenAI, and what each costs: counted at the server, on real processes.

A scenario is a day of articles on a persistent Dagster instance, with one fault and no action of a user. Afterwards
every article must have its summary. The API must have executed each distinct request once, plus once more for each
answer that the fault destroyed after OpenAI had billed it.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb

from batch_assets_tests.conftest import serving
from batch_assets_tests.faults.driver import DaysToDrive, drive
from batch_assets_tests.faults.proxy import Fault, Proxy, proxying
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY, generated_articles, write_articles

ARTICLES = 20
NEXT_DAY = "2026-01-06"
NO_CAPACITY = {
    "code": "token_limit_exceeded",
    "message": "Enqueued token limit reached for gpt-6-luna in organization org-x. Limit: 2,000,000 enqueued tokens. "
    "Please try again once some in_progress batches have been completed.",
    "line": None,
    "param": None,
}
NO_FILE = {"message": "Cannot find file file-x, or organization org-x does not have access to it.", "code": None}


@dataclass
class World:
    """One user's project, and the API that it talks to through a proxy."""

    folder: Path
    api: LocalApi
    proxy: Proxy
    source: str

    def drive(self, *days: str, kill_at: int | None = None, **variables: str) -> int:
        """Submit and collect the days in a child process; returns how many points it passed, or -1 if it was killed."""
        data, url = self.folder / "data", self.proxy.url
        return drive(DaysToDrive(data, url, self.source, days, kill_at, tuple(variables.items())))

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.folder / "data" / "batch_assets.duckdb"), read_only=True) as connection:
            return connection.execute(statement).fetchall()


@contextmanager
def running_world(folder: Path, *, articles: int = ARTICLES, days: int = 1, **options: Any) -> Iterator[World]:
    folder.mkdir(parents=True, exist_ok=True)
    source = write_articles(folder / "articles.jsonl", generated_articles(articles, days=days))
    with serving(folder / "api", **options) as api, proxying(api.url) as proxy:
        yield World(folder, api, proxy, source)


@dataclass(frozen=True)
class Scenario:
    """A fault. `batches`: how many must be created. `lost`: how many billed answers it destroys."""

    name: str
    faults: Callable[[], list[Fault]] = list
    batches: int = 1
    lost: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    play: Callable[[World], None] = lambda world: assert_not_killed(world.drive(DAY))


@dataclass(frozen=True)
class Counts:
    """Batches and requests at the server, distinct requests, and articles without a summary."""

    batches: int
    executed: int
    distinct: int
    unaccounted: int


def counts_of(scenario: Scenario, folder: Path) -> Counts:
    """Play a scenario; returns the counts at its end."""
    with running_world(folder, **scenario.options) as world:
        world.proxy.faults = scenario.faults()
        scenario.play(world)
        stats = world.api.stats()
        [(summarised,)] = world.rows("SELECT count(*) FROM summaries WHERE status = 'answered' AND summary IS NOT NULL")
        [(distinct,)] = world.rows("SELECT count(DISTINCT custom_id) FROM batch_request")
    return Counts(stats["batches_created"], stats["requests_executed"], distinct, ARTICLES - summarised)


def killed_at_every_point(folder: Path, *, step: int = 1, days_per_run: int = 1) -> tuple[int, Counts]:
    """Kill a process of each day, or of some days in one run, at another point, and finish them in a second process.

    Returns (points, counts).
    """
    number_of_days = 80 * days_per_run
    days = [(date.fromisoformat(DAY) + timedelta(days=number)).isoformat() for number in range(number_of_days)]
    runs = [days[first : first + days_per_run] for first in range(0, number_of_days, days_per_run)]
    with running_world(folder, articles=3 * number_of_days, days=number_of_days) as world:
        world.drive()  # makes the Dagster home, whose file is written once
        points, done = world.drive(*runs[0]), days_per_run
        for number, run in zip(range(0, points, step), runs[1:], strict=False):
            was_killed = world.drive(*run, kill_at=number) == -1
            assert was_killed or days_per_run > 1  # with threads, another run may have fewer points
            assert_not_killed(world.drive(*run))
            done += days_per_run
        stats = world.api.stats()
        [(summarised,)] = world.rows("SELECT count(*) FROM summaries WHERE status = 'answered'")
        [(distinct,)] = world.rows("SELECT count(DISTINCT custom_id) FROM batch_request")
    return points, Counts(
        batches=stats["batches_created"],
        executed=stats["requests_executed"],
        distinct=distinct,
        unaccounted=3 * done - summarised,
    )


def assert_not_killed(points: int) -> None:
    assert points > 0


def two_at_once(world: World) -> None:
    world.drive()  # makes the Dagster home, which two processes must not make at once
    with ThreadPoolExecutor() as threads:
        for points in threads.map(world.drive, [DAY, DAY]):
            assert_not_killed(points)


def cancelled_half_way(world: World) -> None:
    def cancel() -> None:
        while world.api.stats()["requests_executed"] < ARTICLES // 4:
            time.sleep(0.02)
        world.api.client.batches.cancel(world.proxy.batch_ids[0])

    thread = threading.Thread(target=cancel)
    thread.start()
    assert_not_killed(world.drive(DAY))
    thread.join()


def down_for(seconds: float) -> Callable[[World], None]:
    def play(world: World) -> None:
        def fail() -> None:
            while not world.api.stats()["files_created"]:
                time.sleep(0.01)
            world.proxy.down = True
            time.sleep(seconds)
            world.proxy.down = False

        thread = threading.Thread(target=fail)
        thread.start()
        assert_not_killed(world.drive(DAY))
        thread.join()

    return play


def vanishing(world: World) -> None:
    """The batch counts as lost only since the account shows another one, that of the second day.

    The days are in the reverse order, so that each has a run: the second run notices that the batch is missing.
    """
    world.proxy.vanish_first_batch = True
    assert_not_killed(world.drive(NEXT_DAY, DAY))


def on_create(**what: Any) -> Callable[[], list[Fault]]:
    return lambda: [Fault("POST", "/v1/batches", **what)]


def on_upload(**what: Any) -> Callable[[], list[Fault]]:
    return lambda: [Fault("POST", "/v1/files", **what)]


def on_download(**what: Any) -> Callable[[], list[Fault]]:
    return lambda: [Fault("GET", "/content", **what)]


def with_status(*statuses: int | None) -> Callable[[bytes], bytes]:
    """A result file whose lines have these statuses in turn; None: the line is missing; 200: it is unchanged."""

    def rewrite(content: bytes) -> bytes:
        kept = []
        for number, line in enumerate(content.splitlines()):
            status = statuses[number % len(statuses)]
            if status is None:
                continue
            result = json.loads(line)
            if status != 200:
                result["response"] = {"status_code": status, "request_id": "x", "body": {"error": {"message": "No."}}}
            kept.append(json.dumps(result).encode())
        return b"\n".join(kept).ljust(len(content))  # as long as the API says that the file is

    return rewrite


def corrupted(content: bytes) -> bytes:
    """Of ten lines, one is cut, one empty, one of another batch. Repairable: one not UTF-8, one with a BOM."""
    lines = content.splitlines()
    for start in range(0, len(lines), 10):
        lines[start] = lines[start][: len(lines[start]) // 2]
        lines[start + 1] = b"{}"
        lines[start + 2] = lines[start + 2].replace(b'"custom_id":', b'"custom_id":"of another batch","x":', 1)
        lines[start + 3] = lines[start + 3].replace(b'"error":null', b'"note":"\xff","error":null')
        lines[start + 4] = b"\xef\xbb\xbf" + lines[start + 4]
    return b"\n".join(lines).ljust(len(content))


SCENARIOS = [
    Scenario("nothing"),
    Scenario("answer to the creation of the batch lost: connection cut", on_create(cut=True)),
    Scenario("answer to the creation lost: 500 after creating", on_create(status=500)),
    Scenario("answer to the creation lost: it arrives after the timeout", on_create(delay_seconds=4)),
    Scenario("creation fails with 500, twice, before creating", on_create(status=500, forward=False, times=2)),
    Scenario("creation is rate-limited (429), twice", on_create(status=429, forward=False, times=2)),
    Scenario("answer to the upload lost: connection cut", on_upload(cut=True)),
    Scenario("answer to the upload lost: 500 after storing", on_upload(status=500)),
    Scenario(
        "file not found right after its upload, twice", on_create(status=400, forward=False, times=2, error=NO_FILE)
    ),
    Scenario("two runs of the day at once", play=two_at_once),
    Scenario("token_limit_exceeded, twice", on_create(fake_batch_errors=[NO_CAPACITY], times=2)),
    Scenario("expired half-way", batches=2, options={"completion_window_seconds": 3, "latency_seconds": 0.7}),
    Scenario(
        "cancelled half-way, by the user at OpenAI",
        batches=2,
        options={"latency_seconds": 0.5},
        play=cancelled_half_way,
    ),
    Scenario("all lines failed (500)", on_download(rewrite=with_status(500)), batches=2, lost=20),
    Scenario(
        "lines with 500, 429, 0, and missing ones", on_download(rewrite=with_status(200, 500, 429, 0, None)), 3, 16
    ),
    Scenario("output file not found at first, three times", on_download(status=404, forward=False, times=3)),
    Scenario("download cut half-way", on_download(truncate=True)),
    Scenario("corrupt lines", on_download(rewrite=corrupted), batches=2, lost=6),
    Scenario("batch vanished (404), of the first of two days", batches=3, lost=10, options={"days": 2}, play=vanishing),
    Scenario("API down for twelve seconds", play=down_for(12)),
]
# Too long for the tests.
LONG_SCENARIOS = [Scenario("API down for two minutes", play=down_for(120))]
