"""No request is paid twice, no answer is lost, whatever breaks: one fault at a time, on real processes."""

import os
import threading
from pathlib import Path

import pytest

from batch_assets_tests.faults.scenarios import (
    ARTICLES,
    SCENARIOS,
    Outcome,
    Scenario,
    a_world,
    killed_at_every_point,
    outcome_of,
)
from batch_assets_tests.faults.schedules import play
from batch_assets_tests.local_api_client import ENDED
from batch_assets_tests.project import DAY

pytestmark = pytest.mark.end_to_end
THOROUGH = bool(os.environ.get("BATCH_ASSETS_TEST_THOROUGH"))  # `make test-thorough`: an hour, and nothing left out


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_each_request_is_paid_once_and_each_article_accounted_for(scenario: Scenario, tmp_path: Path) -> None:
    assert outcome_of(scenario, tmp_path) == Outcome(
        batches=scenario.batches, executed=ARTICLES + scenario.lost, distinct=ARTICLES, unaccounted=0
    )


def test_killed_at_any_point_the_next_process_goes_on(tmp_path: Path) -> None:
    """At every third point, that is; at all of them where there is time, and in the table of docs/faults.md."""
    step = 1 if THOROUGH else 3
    points, outcome = killed_at_every_point(tmp_path, step=step)
    assert points > 20
    days = 1 + len(range(0, points, step))
    assert outcome == Outcome(batches=days, executed=3 * days, distinct=3 * days, unaccounted=0)


def test_a_budget_of_enqueued_tokens_is_kept_by_two_days_at_once_and_all_shards_go_out(tmp_path: Path) -> None:
    """Ten files, of which the budget holds two."""
    days = [DAY, "2026-01-06"]
    most = 0
    finished = threading.Event()
    with a_world(tmp_path, articles=40, days=2, batch_seconds=0.5) as world:

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
    assert most == 2


@pytest.mark.parametrize("seed", range(300 if THOROUGH else 6))
def test_random_schedules_end_with_every_article_answered_once(seed: int, tmp_path: Path) -> None:
    play(seed, tmp_path)
