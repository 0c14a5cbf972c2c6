"""`batch-assets status` and `costs` agree with the tables, while a day waits and when it is done."""

import json
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from batch_assets.cli.main import main
from batch_assets.day_events import Cause, Origin, error_metadata, submission_metadata
from batch_assets_tests.project import DAY, Project

pytestmark = pytest.mark.end_to_end


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def as_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


def test_a_day_waits_with_its_progress_and_then_is_done_with_its_cost(project: Project) -> None:
    assert as_json("status")["days"] == []
    assert "No day was planned yet" in run("status")
    assert project.materialize().success
    [day] = as_json("status")["days"]
    assert (day["day"], day["in_flight"], day["is_finished"], day["requests_total"]) == (DAY, 4, False, 4)
    assert "of 1 batch ended" in day["waits_for"]
    assert "4 in flight" in run("status")
    assert "$0.00 " in run("status")
    assert project.finish().success
    [day] = as_json("status", DAY)["days"]
    [cost] = as_json("costs", DAY)["costs"]
    [(articles, input_tokens, output_tokens)] = project.rows(
        "SELECT count(*), sum(input_tokens), sum(output_tokens) FROM summaries WHERE status = 'answered'"
    )
    [(simulated,)] = project.rows("SELECT sum(simulated_cost_usd) FROM spending")
    assert (day["articles"], day["answered"], day["is_finished"], day["waits_for"]) == (4, articles, True, None)
    for shown in (day, cost):
        assert (shown["input_tokens"], shown["output_tokens"]) == (input_tokens, output_tokens)
        assert shown["simulated_cost_usd"] == round(simulated, 12)  # without the last digits of a binary fraction
        assert (shown["cost_usd"], shown["saving_usd"]) == (0, 0)  # the built-in engine bills nothing
    assert "✓ done" in run("status")
    assert "simulated" in run("costs")
    assert run("status", "--watch").count(DAY) == 1  # nothing is in flight: it ends


def test_no_escape_reaches_a_pipe_and_a_wrong_range_is_wrong_usage(project: Project) -> None:
    assert project.materialize().success
    assert "\x1b" not in run("status") + run("costs")
    for days in ("yesterday", "2026-01-09..2026-01-05"):
        done = CliRunner().invoke(main, ["costs", days])
        assert (done.exit_code, "2026-01-05" in done.output or "ends before" in done.output) == (2, True)


def test_a_day_that_no_run_could_plan_is_shown_with_what_it_waits_for(project: Project) -> None:
    waiting = submission_metadata(Origin("batch_assets"), [], deferred_files=1, next_attempt_at=None)
    metadata = {**waiting, **error_metadata("No key is set.", Cause.ACCOUNT)}
    project.instance.report_runless_asset_event(dg.AssetMaterialization("openai_batch", None, metadata, DAY))
    [day] = as_json("status")["days"]
    assert (day["day"], day["articles"], day["is_finished"]) == (DAY, 0, False)
    assert day["waits_for"]
    assert DAY in run("status")
    assert as_json("status", "2026-01-09")["days"] == as_json("status", "--task", "keywords")["days"] == []
