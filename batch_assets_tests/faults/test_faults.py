"""With any of these faults, OpenAI executes no request twice and no answer is lost: on real processes."""

import os
import threading
from pathlib import Path

import pytest

from batch_assets_tests.faults.scenarios import (
    ARTICLES,
    SCENARIOS,
    Counts,
    Scenario,
    counts_of,
    killed_at_every_point,
    running_world,
)
from batch_assets_tests.faults.schedules import play
from batch_assets_tests.local_api_client import ENDED
from batch_assets_tests.project import DAY

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]  # real processes, on a machine that may be slow
THOROUGH = bool(os.environ.get("BATCH_ASSETS_TEST_THOROUGH"))  # `make test-thorough`: one hour


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_each_request_is_paid_once_and_each_article_accounted_for(scenario: Scenario, tmp_path: Path) -> None:
    assert counts_of(scenario, tmp_path) == Counts(
        batches=scenario.batches, executed=ARTICLES + scenario.lost, distinct=ARTICLES, unaccounted=0
    )


def test_after_a_kill_at_any_point_the_next_process_continues(tmp_path: Path) -> None:
    """At every eighth point; at all of them in `make test-thorough` and for the table of docs/faults.md."""
    step = 1 if THOROUGH else 8
    points, counts = killed_at_every_point(tmp_path, step=step)
    assert points > 20
    days = 1 + len(range(0, points, step))
    assert counts == Counts(batches=days, executed=3 * days, distinct=3 * days, unaccounted=0)


def test_after_a_kill_at_any_point_of_a_run_of_many_days_the_next_process_continues(tmp_path: Path) -> None:
    step = 3 if THOROUGH else 58
    points, counts = killed_at_every_point(tmp_path, step=step, days_per_run=4)
    assert points > 60
    days = 4 * (1 + len(range(0, points, step)))
    assert counts == Counts(batches=days, executed=3 * days, distinct=3 * days, unaccounted=0)


def test_two_days_at_once_keep_to_the_limit_of_enqueued_tokens_and_send_all_files(tmp_path: Path) -> None:
    """Ten files; the limit has capacity for two."""
    days = [DAY, "2026-01-06"]
    most = 0
    finished = threading.Event()
    with running_world(tmp_path, articles=40, days=2, batch_seconds=0.5) as world:

        def watch() -> None:
            nonlocal most
            while not finished.wait(0.05):
                batches = world.api.client.batches.list(limit=100).data
                most = max(most, sum(batch.status not in ENDED for batch in batches))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert world.drive(*days, BATCH_ASSETS_MAX_ENQUEUED_TOKENS="1300") > 0
        finally:
            finished.set()
            watcher.join()
        assert world.api.stats()["batches_created"] == 10
        assert world.api.stats()["requests_executed"] == 40
        assert world.rows("SELECT status, count(*) FROM summaries GROUP BY status") == [("answered", 40)]
    assert 1 <= most <= 2  # a slow machine may see one at a time


@pytest.mark.parametrize("seed", range(300 if THOROUGH else 3))
def test_random_schedules_end_with_every_article_answered_once(seed: int, tmp_path: Path) -> None:
    play(seed, tmp_path)
