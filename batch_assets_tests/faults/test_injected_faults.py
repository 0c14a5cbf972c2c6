"""Days with the faults that `batch-assets serve` injects: every article gets its summary."""

import threading
import time
from pathlib import Path

import pytest

from batch_assets.local_api.faults import FaultConfig
from batch_assets_tests.faults.scenarios import ARTICLES, World, assert_not_killed, running_world
from batch_assets_tests.local_api.support import http_request
from batch_assets_tests.project import DAY

pytestmark = pytest.mark.end_to_end


def assert_all_answered(world: World) -> None:
    assert world.rows("SELECT status, count(*) FROM summaries GROUP BY ALL") == [("answered", ARTICLES)]
    assert world.rows("SELECT count(*), count(DISTINCT custom_id) FROM completion") == [(ARTICLES, ARTICLES)]


def test_lines_that_expire_vanish_or_fail_are_sent_again_until_all_have_an_answer(tmp_path: Path) -> None:
    faults = FaultConfig(seed=7, expire_share=0.1, drop_share=0.1, fail_share=0.1, fail_status=429)
    with running_world(tmp_path, faults=faults) as world:
        assert_not_killed(world.drive(DAY, BATCH_ASSETS_MAX_ROUNDS="20"))
        assert_all_answered(world)
        codes = {code for (code,) in world.rows("SELECT DISTINCT code FROM failed_request")}
        [(rounds,)] = world.rows("SELECT max(round) FROM openai_batch")
    assert codes
    assert codes <= {"batch_expired", "results_quarantined", "rate_limit_exceeded"}
    assert rounds > 1


def test_lost_answers_a_late_list_and_late_files_cost_nothing(tmp_path: Path) -> None:
    faults = FaultConfig(cut_upload=1, error_upload=1, cut_create=1, list_lag=0.3, output_late=1.0)
    with running_world(tmp_path, faults=faults) as world:
        assert_not_killed(world.drive(DAY))
        assert_all_answered(world)
        stats = world.api.stats()
    assert (stats["batches_created"], stats["requests_executed"]) == (1, ARTICLES)


def test_a_day_waits_for_capacity(tmp_path: Path) -> None:
    with running_world(tmp_path, faults=FaultConfig(token_limit=1), control=True) as world:

        def free_capacity_after_a_refusal() -> None:
            deadline = time.monotonic() + 120
            while not any(batch.status == "failed" for batch in world.api.client.batches.list()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            http_request(world.api, "PUT", "/control/faults", b"{}")

        thread = threading.Thread(target=free_capacity_after_a_refusal)
        thread.start()
        assert_not_killed(world.drive(DAY))
        thread.join()
        assert_all_answered(world)
        states = [batch.status for batch in world.api.client.batches.list()]
        [(refused,)] = world.rows("SELECT len(earlier_batch_ids) FROM openai_batch")
        assert world.api.stats()["requests_executed"] == ARTICLES
    assert states == ["completed"] + ["failed"] * refused
    assert refused >= 1
