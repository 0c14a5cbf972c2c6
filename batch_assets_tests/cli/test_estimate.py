"""`batch-assets estimate` says what a plan and its submission will cost, and changes only `raw_articles`."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from batch_assets.batching.ledger.spending import Budget
from batch_assets.batching.planning.plan import plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.provider.prices import batch_rates
from batch_assets_tests.batching.conftest import proxy
from batch_assets_tests.batching.synchronous.support import OPENAI, at_openai
from batch_assets_tests.cli.conftest import NEXT_DAY, Finished, run
from batch_assets_tests.first_task import first_task
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY

LEDGER = ("openai_batch", "batch_request", "batch_request_file", "spending", "completion", "day_plan", "summaries")


@pytest.fixture
def day(own_copy: Finished, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[Finished]:
    """The finished day, and a day after it, at an API with known prices."""
    with proxy(local_api.url, at_openai()) as client:
        monkeypatch.setenv("OPENAI_BASE_URL", str(client.base_url))
        yield own_copy


def estimate(*arguments: str) -> dict[str, Any]:
    done = run("estimate", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def counts(day: Finished) -> list[Any]:
    return [day.rows(f"SELECT count(*) FROM {table}") for table in LEDGER]


def test_the_estimate_is_calibrated_and_changes_nothing_but_the_articles(day: Finished) -> None:
    before = counts(day)
    report = estimate(NEXT_DAY, "--model", "gpt-6-sol", "--model", "no-such-model")
    assert counts(day) == before
    assert day.rows("SELECT count(*) FROM raw_articles WHERE partition_date = '2026-01-06'") == [(4,)]
    ours, sol, unknown = report["models"]
    [(input_tokens, output_tokens)] = day.rows(
        "SELECT sum(input_tokens) / sum(billed_requests), sum(output_tokens) / sum(billed_requests) FROM spending "
        "WHERE kind <> 'unattributed'"
    )
    rates = batch_rates("gpt-6-luna", api=OPENAI)
    assert rates is not None
    expected = 4 * (input_tokens * rates.input_usd + output_tokens * rates.output_usd)
    assert (ours["requests"], ours["is_calibrated"]) == (4, True)
    assert ours["batch_usd"] == pytest.approx(expected, rel=0.05)
    assert ours["standard_usd"] == pytest.approx(2 * ours["batch_usd"])
    assert ours["saving_usd"] == pytest.approx(ours["batch_usd"])
    assert ours["batch_max_usd"] > ours["batch_usd"]
    assert (sol["is_calibrated"], sol["batch_usd"] > ours["batch_usd"]) == (False, True)
    amounts = ("batch_usd", "batch_max_usd", "standard_usd", "saving_usd")
    assert [unknown[name] for name in amounts] == [None] * 4


def test_answered_requests_cost_nothing_with_the_model_and_everything_with_another(day: Finished) -> None:
    report = estimate(f"{DAY}..{NEXT_DAY}", "--model", "gpt-6-sol")
    ours, other = report["models"]
    assert [one["requests"] for one in ours["days"]] == [2, 4]  # two are pending after an error
    assert [one["requests"] for one in other["days"]] == [10, 4]
    assert ours["days"][0]["states"] == {"answered": 6, "failed": 2, "pending": 2}
    assert ours["batch_usd"] == pytest.approx(sum(one["batch_usd"] for one in ours["days"]))


def test_requests_in_files_that_no_run_has_sent_count(day: Finished) -> None:
    before = estimate(NEXT_DAY)
    [declared] = day.tasks.tasks
    options = PlanOptions(max_rounds=3, api=OPENAI)
    plan = plan_day(day.database, day=NEXT_DAY, task=declared.task, data_folder=day.data, options=options)
    assert [shard.requests for shard in plan.shards] == [4]
    assert estimate(NEXT_DAY)["models"][0]["batch_usd"] == before["models"][0]["batch_usd"]
    assert plan.shards[0].path.exists()
    assert day.rows("SELECT state FROM openai_batch WHERE partition_date = '2026-01-06'") == [("planned",)]


def test_a_budget_that_does_not_allow_it_is_named(day: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = first_task(day.source, max_cost_usd=100.0)
    monkeypatch.setattr("batch_assets.project_tasks.read_tasks", lambda _: allowed)
    assert "gpt-6-luna: the budgets allow it." in run("estimate", NEXT_DAY).stdout
    object.__setattr__(allowed.limits, "budget", Budget(max_cost_usd_per_month=0.0000001))
    assert "BATCH_ASSETS_MAX_COST_USD_PER_MONTH" in run("estimate", NEXT_DAY).stdout
    assert "BATCH_ASSETS_MAX_COST_USD_PER_MONTH" in estimate(NEXT_DAY)["models"][0]["why_not_allowed"]


def test_a_table_says_unknown_and_an_api_that_does_not_answer(
    own_copy: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    done = run("estimate", NEXT_DAY)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("unknown") >= 4
    assert "http://127.0.0.1:9/v1 did not answer" in done.stdout
    assert run("estimate", "tomorrow").exit_code == 2
    assert "There is no day '1999-01-01'" in run("estimate", "1999-01-01").stderr
