"""A simulated month of one database: every day ends without a user, or the sensor names what it waits for."""

import os
from pathlib import Path

import pytest

from batch_assets_tests.faults.driver import in_child
from batch_assets_tests.faults.month import MonthToPlay, play_month

SECONDS = 1800  # on a machine that is busy
MONTHS = 20 if os.environ.get("BATCH_ASSETS_TEST_THOROUGH") else 1


@pytest.mark.end_to_end
@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("seed", range(MONTHS))
def test_in_a_month_of_faults_every_day_ends_or_waits_with_the_right_sentence(tmp_path: Path, seed: int) -> None:
    try:
        in_child(play_month, MonthToPlay(seed, tmp_path), None, SECONDS)
    except AssertionError:
        failure = tmp_path / "failure.txt"
        pytest.fail(failure.read_text(encoding="utf-8") if failure.exists() else "the process ended without a report")
