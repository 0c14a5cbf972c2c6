"""Random schedules of faults, kills, edits and re-materializations over several days, from a seed.

The steps are those of the assets, without Dagster around them, so that hundreds of schedules are a matter of minutes.
These faults destroy no answer, so the invariant is simple: in all batches together, no request has two answers.
"""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import openai

from batch_assets.batching.collection.collect import collect_day
from batch_assets.batching.collection.fetch import CollectionError
from batch_assets.batching.ingest.articles import ingest_day
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.planning.plan import plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.task import Task
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets.batching.submission.submit import submit_day
from batch_assets.batching.submission.submitter import make_submitter
from batch_assets_tests.faults.driver import TIMING, in_child
from batch_assets_tests.faults.proxy import Fault
from batch_assets_tests.faults.scenarios import NO_CAPACITY, NO_FILE, World, running_world
from batch_assets_tests.first_task import RESULTS
from batch_assets_tests.project import generated_articles, write_articles
from batch_assets_tests.task_days import of

DAYS = ("2026-01-05", "2026-01-06", "2026-01-07")
ARTICLES = 9
MAX_ROUNDS = 1_000  # so that no request counts as failed
SECONDS_TO_FINISH = 60


@dataclass(frozen=True)
class Steps:
    """What a child process does for each of these days, in this order."""

    data: Path
    api_url: str
    source: str
    days: tuple[str, ...]
    steps: tuple[str, ...] = ("ingest", "plan", "submit", "collect")


def take_steps(wanted: Steps) -> None:
    """Runs in a child process. A step that fails now is done by a later process."""
    database = Database(str(wanted.data / "batch_assets.duckdb"))
    with openai.OpenAI(api_key="local", base_url=wanted.api_url, max_retries=0) as client:
        for day in wanted.days:
            try:
                if "ingest" in wanted.steps:
                    ingest_day(database, source=wanted.source, day=day)
                if "plan" in wanted.steps:
                    options = PlanOptions(max_rounds=MAX_ROUNDS)
                    plan_day(database, day=day, task=Task("gpt-6-luna"), data_folder=wanted.data, options=options)
                if "submit" in wanted.steps:
                    submitter = make_submitter(database, client, wanted.data, str(os.getpid()), timing=TIMING)
                    submit_day(submitter, of(day), is_run_alive=_is_alive)
                if "collect" in wanted.steps:
                    collect_day(
                        database,
                        client,
                        day=day,
                        results=RESULTS,
                        data_folder=wanted.data,
                        max_rounds=MAX_ROUNDS,
                        timing=TIMING,
                    )
            except (SubmissionError, CollectionError):
                continue


def _is_alive(process: str) -> bool:
    return process != str(os.getpid()) and Path(f"/proc/{process}").exists()


def play(seed: int, folder: Path) -> None:
    """One schedule, to its end. Raises AssertionError if an article is lost, or a request was answered twice."""
    dice = random.Random(seed)
    articles = generated_articles(ARTICLES, days=len(DAYS))
    with running_world(folder, latency_seconds=dice.choice([0, 0.05])) as world:
        for _ in range(dice.randint(2, 5)):
            if dice.random() < 0.4:
                dice.choice(articles)["body"] += f" Edited {dice.random()}."
            dice.shuffle(articles)
            write_articles(Path(world.source), articles)
            world.proxy.faults = dice.sample(_faults(), k=dice.randint(0, 2))
            days = tuple(dice.sample(DAYS, k=dice.randint(1, len(DAYS))))
            kill_at = dice.choice([None, dice.randint(0, 60)])
            in_child(take_steps, Steps(folder / "data", world.proxy.url, world.source, days), kill_at)
        world.proxy.faults = []
        _finish(world, folder)
        answers = Counter(_answers(world))
        assert not [custom_id for custom_id, times in answers.items() if times > 1], f"seed {seed}: answered twice"
        states = world.rows("SELECT status, count(*) FROM summaries GROUP BY status")
        assert states == [("answered", ARTICLES)], f"seed {seed}: {states}"


def _faults() -> list[Fault]:
    create, upload, content = ("POST", "/v1/batches"), ("POST", "/v1/files"), ("GET", "/content")
    return [
        Fault(*create, cut=True),
        Fault(*create, status=500),
        Fault(*create, status=500, forward=False, times=4),
        Fault(*create, status=429, forward=False),
        Fault(*create, delay_seconds=2.5),
        Fault(*create, status=400, forward=False, error=NO_FILE),
        Fault(*create, fake_batch_errors=[NO_CAPACITY]),
        Fault(*upload, cut=True),
        Fault(*upload, status=500),
        Fault(*upload, cut=True, forward=False, times=4),
        Fault("GET", "/v1/batches", cut=True, times=2),
        Fault("GET", "/v1/batches", status=500, times=3),
        Fault(*content, status=404, forward=False, times=2),
        Fault(*content, truncate=True),
        Fault(*content, cut=True, times=6),
    ]


def _finish(world: World, folder: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_FINISH
    while True:
        in_child(take_steps, Steps(folder / "data", world.proxy.url, world.source, DAYS), None)
        states = dict(world.rows("SELECT status, count(*) FROM summaries GROUP BY status"))
        if states == {"answered": ARTICLES}:
            return
        assert time.monotonic() < deadline, f"not finished: {states}"
        time.sleep(0.1)


def _answers(world: World) -> Iterable[str]:
    for batch in world.api.client.batches.list(limit=100):
        if batch.output_file_id:
            for line in world.api.client.files.content(batch.output_file_id).content.split(b"\n"):
                if line:
                    yield json.loads(line)["custom_id"]
