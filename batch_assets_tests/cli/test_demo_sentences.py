"""What `batch-assets demo` says if there is nothing to send, and if a step fails."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from batch_assets.batching.collection.report import DayReport
from batch_assets.batching.ledger.day_figures import DayFigures
from batch_assets.cli import demo_day
from batch_assets.settings import read_settings

pytestmark = pytest.mark.server  # commands that load Dagster

DAY, FIRST_DAY = "2026-02-03", "2026-02-01"


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"requests": 9, "requests_answered": 9}, "9 of 9 already answered, nothing sent."),
        ({"requests": 9, "requests_answered": 8, "requests_failed": 1}, "8 of 9 already answered, 1 failed, nothing "),
        ({"requests": 9, "requests_answered": 8}, None),  # one waits
        ({"articles": 0}, f"The source has no article for {DAY}. Name a day that it has with --day, from "),
    ],
)
def test_a_day_with_nothing_to_send_is_told_why(counts: dict[str, int], sentence: str | None) -> None:
    plan: dict[str, Any] = {"articles": 9, "requests": 0, "requests_answered": 0, "requests_failed": 0, **counts}
    said = demo_day.why_nothing_to_send(DAY, FIRST_DAY, plan)
    assert (said is None) if sentence is None else (said or "").startswith(sentence)


def test_the_report_names_the_command_for_what_has_no_answer() -> None:
    figures = DayFigures("keywords", DAY, articles=5, answered=1, failed=2, cancelled=2)
    report = DayReport(DAY, figures, 0, [], [])
    output = io.StringIO()
    demo_day._print_report(Console(file=output, width=100), report, read_settings(), "keywords")
    assert f"batch-assets retry {DAY} --task keywords\n" in output.getvalue()
    assert f"batch-assets demo --day {DAY} --task keywords\n" in output.getvalue()


def test_a_failure_names_the_day_the_step_and_the_command_to_run_next(tmp_path: Path) -> None:
    """In a process of its own: Dagster keeps the definitions that a process has loaded, with their settings."""
    variables = {"BATCH_ASSETS_DATA_DIR": str(tmp_path / "data"), "BATCH_ASSETS_MAX_COST_USD": "0.0001"}
    done = subprocess.run(
        [sys.executable, "-m", "batch_assets.cli.main", "demo", "--day", "2026-01-05", "--task", "keywords"],
        env={**os.environ, **variables, "DAGSTER_HOME": "", "OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    first, following, log = done.stderr.splitlines()[-3:]
    assert first.startswith("Error: 2026-01-05: keywords/openai_batch failed. The budget check stopped 2026-01-05: ")
    assert following == "Next:    batch-assets demo --day 2026-01-05 --task keywords"
    assert log.startswith("The log: batch-assets dev, run ")
