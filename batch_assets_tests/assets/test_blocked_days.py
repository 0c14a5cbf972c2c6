"""Guards against a day that a budget, a price or a missing result file keeps from its end, and that nothing names."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from batch_assets.batching.next_step import Day, Step, next_step
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.timing import Timing
from batch_assets.batching.waiting import why_waits
from batch_assets.checks import BUDGET
from batch_assets.cli.local_daemon import is_done
from batch_assets.resources import BatchApi
from batch_assets_tests.batching.conftest import Call, Reply, proxy, with_api_name
from batch_assets_tests.conftest import serving
from batch_assets_tests.first_task import batch_request_file, openai_batch, raw_articles, summaries
from batch_assets_tests.project import DAY, QUIET, UPSTREAM, Project, api_at

pytestmark = pytest.mark.end_to_end
PRICES = (ModelPrice("gpt-6-luna", 0.05, 0.25),)
TIMING = Timing()


def seen(project: Project) -> Day:
    [day] = [day for day in project.days_seen_from("batch_assets") if day.day == DAY]
    return day


def step_at(day: Day, moment: datetime) -> Step:
    return next_step(day, {}, moment, moment, TIMING)


@pytest.mark.parametrize(
    ("model", "prices", "code", "words"),
    [
        ("gpt-6-luna", PRICES, "over_budget", "BATCH_ASSETS_MAX_COST_USD allows $0.00."),
        ("our-own-llama", (), "price_unknown", "the price of `our-own-llama` in batches isn't known"),
    ],
)
@pytest.mark.parametrize("is_stopped_by_check", [True, False])
def test_a_day_over_its_budget_is_named_and_goes_on_when_the_budget_allows_it(
    project: Project, model: str, prices: tuple[ModelPrice, ...], code: str, words: str, is_stopped_by_check: bool
) -> None:
    project.model, project.prices, project.max_cost_usd = model, prices, 0.0
    with serving(project.folder / "instant_api", engine="instant") as project.api:
        if not is_stopped_by_check:
            project.max_cost_usd = None
            assert project.materialize([raw_articles, batch_request_file]).success
            project.max_cost_usd = 0.0
        assert not project.materialize(UPSTREAM if is_stopped_by_check else [openai_batch]).success
        day = seen(project)
        now = datetime.now(UTC)
        assert (day.deferred, day.batch_ids) == (1, ())
        assert words in (day.error or "")
        assert "1 file deferred since" in why_waits(day, {}, now, TIMING)
        assert f"({day.error})" in why_waits(day, {}, now, TIMING)  # not cut: what to do is at its end
        assert step_at(day, now) is Step.WAIT
        assert step_at(day, now + timedelta(days=1)) is Step.SUBMIT
        assert project.materialize([summaries]).success
        assert project.rows("SELECT DISTINCT status, error_code FROM summaries") == [("blocked", code)]
        assert words in project.rows("SELECT DISTINCT error_message FROM summaries")[0][0]
        assert seen(project) == day  # `summaries` was not materialized: the day waits for the budget
        project.max_cost_usd = None
        assert project.materialize([openai_batch]).success
        assert project.finish().success
    assert project.rows("SELECT DISTINCT status FROM summaries") == [("answered",)]


def test_a_check_without_a_submission_asks_the_sensor_for_nothing(project: Project) -> None:
    """The user only wanted to see the request files: no run may submit them later."""
    project.prices, project.max_cost_usd = PRICES, 0.0
    with serving(project.folder / "instant_api", engine="instant") as project.api:
        planned = project.materialize([raw_articles, batch_request_file])
        failed = [check.check_name for check in planned.get_asset_check_evaluations() if not check.passed]
        assert failed == [BUDGET]
        assert project.days_seen_from("batch_assets") == []


@pytest.mark.parametrize("prompt_changes", [True, False])
def test_the_texts_of_a_day_stay_while_a_budget_blocks_it(project: Project, prompt_changes: bool) -> None:
    project.prices = PRICES
    with serving(project.folder / "instant_api", engine="instant") as project.api:
        assert project.materialize().success
        assert project.finish().success
        texts = project.rows("SELECT article_id, summary FROM summaries ORDER BY article_id")
        if prompt_changes:
            project.model = "gpt-4.1-nano"
        project.prices, project.max_cost_usd = (*PRICES, ModelPrice("gpt-4.1-nano", 0.05, 0.25)), 0.0
        assert project.materialize().success is not prompt_changes
        assert project.materialize([summaries]).success
    assert project.rows("SELECT article_id, summary FROM summaries ORDER BY article_id") == texts
    expected = "blocked" if prompt_changes else "answered"
    assert project.rows("SELECT DISTINCT status FROM summaries") == [(expected,)]


def without_content(call: Call) -> Reply:
    if call.method == "GET" and call.path.startswith("/v1/files/") and not call.downloads:
        return Reply.of({"error": {"message": "not found"}}, 404)
    reply = call.forward()
    return replace(reply, content=b"") if call.downloads else reply


def impatient(api: BatchApi) -> BatchApi:
    return replace(api, timing=replace(api.timing, lost_after=timedelta(0)))


def test_a_day_whose_results_are_missing_is_named_until_the_user_retries(project: Project) -> None:
    assert project.materialize().success
    project.wait_for_batches()
    with proxy(project.api.url, with_api_name("local", without_content)) as client:
        broken = replace(project, openai=impatient(api_at(str(client.base_url).rstrip("/"))))
        assert broken.materialize([summaries]).success
    assert project.rows("SELECT DISTINCT status, error_code FROM summaries") == [("blocked", "results_quarantined")]
    assert project.metadata(summaries)["requests_blocked"] == 20
    day, now = seen(project), datetime.now(UTC)
    assert (day.blocked, day.needs_next_round, day.is_in_flight) == (20, False, False)
    assert step_at(day, now + timedelta(days=99)) is Step.WAIT
    assert is_done(project.instance, DAY)  # `demo` does not wait for what only the user decides
    sentence = why_waits(day, {}, now, TIMING)
    assert sentence.startswith("the results of 20 requests are missing since ")
    assert f"`batch-assets retry {DAY}` buys them again" in sentence
    for _ in range(2):
        assert project.materialize().success
    assert project.api.stats()["batches_created"] == 1
    again = dg.materialize(
        project.assets,
        selection=[batch_request_file.key, openai_batch.key],
        instance=project.instance,
        partition_key=DAY,
        resources=project.resources,
        run_config={**QUIET, "ops": {"submission": {"config": {"retry_failed": True}}}},
    )
    assert again.success
    assert project.finish().success
    assert project.rows("SELECT DISTINCT status FROM summaries") == [("answered",)]
    assert project.days_seen_from("batch_assets") == []
