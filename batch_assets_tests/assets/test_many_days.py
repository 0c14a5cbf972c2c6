"""One run of many days: a day that is broken in any stage fails alone, and nothing is bought twice."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run

from batch_assets.batching.next_step import Step, next_step
from batch_assets.batching.operations.cancel import cancel_day
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.timing import Timing
from batch_assets.days import read_days
from batch_assets.resources import BatchApi
from batch_assets.run_requests import FIRST_PARTITION_TAG, LAST_PARTITION_TAG
from batch_assets_tests.batching.conftest import Call, Reply, proxy, with_api_name
from batch_assets_tests.conftest import serving
from batch_assets_tests.first_task import batch_request_file, openai_batch, raw_articles, summaries
from batch_assets_tests.project import (
    DAY,
    EVERYTHING,
    QUIET,
    UPSTREAM,
    Project,
    api_at,
    generated_articles,
    write_articles,
)
from batch_assets_tests.task_days import of

pytestmark = pytest.mark.end_to_end
NUMBER = 5
DAYS = [(date.fromisoformat(DAY) + timedelta(days=number)).isoformat() for number in range(NUMBER)]
BROKEN = DAYS[3]
MARK = "unmistakable"  # in the articles of the broken day
OTHERS = {*DAYS} - {BROKEN}
QUICK = Timing(
    upload_retry_seconds=0.01,
    rate_limit_seconds=0.01,
    download_pauses_seconds=(0.01, 0.01),
    find_batch_pauses_seconds=(0.0, 0.01),
)
REFRESH = {"ops": {"submission": {"config": {"refresh": True}}}}
PRICES = (ModelPrice("gpt-6-luna", 0.05, 0.25),)


@pytest.fixture
def days(project: Project) -> Project:
    """A project with three articles on each of the days."""
    articles = generated_articles(3 * NUMBER, days=NUMBER)
    for article in articles:
        article["body"] += f" It is {article['published_at'][:10]}."
        if article["published_at"].startswith(BROKEN):
            article["body"] += f" {MARK}"
    write_articles(Path(project.source), articles)
    return project


def quick(url: str) -> BatchApi:
    return api_at(url, timing=QUICK)


def upstream(project: Project) -> dg.ExecuteInProcessResult:
    return project.materialize_days(DAYS[0], DAYS[-1])


def finish(project: Project) -> dg.ExecuteInProcessResult:
    project.wait_for_batches()
    return project.materialize_days(DAYS[0], DAYS[-1], [summaries])


def error_of(result: dg.ExecuteInProcessResult, step: str = "submission") -> str:
    failure = result.failure_data_for_node(step)
    assert failure is not None
    assert failure.user_failure_data is not None
    return str(failure.user_failure_data.description)


def answered(project: Project) -> set[str]:
    rows = project.rows(
        "SELECT partition_date::VARCHAR FROM summaries GROUP BY ALL HAVING bool_and(status = 'answered')"
    )
    return {day for (day,) in rows}


def is_of_broken_day(call: Call) -> bool:
    return call.uploads and MARK.encode() in call.body


def test_many_days_are_one_run_and_each_day_has_its_own_batch_and_events(days: Project) -> None:
    assert upstream(days).success
    for asset in UPSTREAM:
        assert days.materialized(asset) == {*DAYS}
    assert days.api.stats()["batches_created"] == NUMBER
    assert days.rows("SELECT count(DISTINCT partition_date), count(*) FROM raw_articles") == [(NUMBER, 3 * NUMBER)]
    assert {day.day for day in read_days(days.instance) if len(day.batch_ids) == 1} == {*DAYS}
    assert finish(days).success
    assert days.materialized(summaries) == answered(days) == {*DAYS}
    assert read_days(days.instance) == []
    assert len(days.instance.get_runs()) == 2
    for _ in range(2):  # again: nothing is bought
        assert upstream(days).success
        assert finish(days).success
    assert days.api.stats()["requests_executed"] == 3 * NUMBER


def test_a_source_of_each_day_that_is_broken_on_one_day_fails_that_day_alone(days: Project, tmp_path: Path) -> None:
    folder = tmp_path / "days"
    folder.mkdir()
    for day in DAYS:
        write_articles(folder / f"{day}.jsonl", [{"id": day, "body": f"The harbour reopened on {day}."}])
    (folder / f"{BROKEN}.jsonl").write_text('{"title": "no body"}\n')
    days.source = str(folder / "{partition}.jsonl")
    result = upstream(days)
    assert not result.success
    message = error_of(result)
    assert message.startswith(f"1 of {NUMBER} days failed")
    assert f"{BROKEN}: " in message
    assert "`body`" in message
    for asset in UPSTREAM:
        assert days.materialized(asset) == OTHERS
        assert days.failed(asset) == {BROKEN}
    assert finish(days).success
    assert answered(days) == OTHERS
    write_articles(folder / f"{BROKEN}.jsonl", [{"id": "b", "body": "It reopened."}])
    assert days.materialize(day=BROKEN).success
    assert days.finish(BROKEN).success
    assert answered(days) == {*DAYS}
    assert days.api.stats()["batches_created"] == NUMBER


def test_a_source_that_cannot_be_read_fails_all_days_in_one_sentence(days: Project) -> None:
    days.source = str(days.folder / "nowhere.jsonl")
    result = upstream(days)
    assert not result.success
    message = error_of(result)
    assert message.startswith(f"{NUMBER} of {NUMBER} days failed")
    assert message.count("nowhere.jsonl") == 1
    assert len(message) < 900
    for asset in UPSTREAM:
        assert days.failed(asset) == {*DAYS}


def test_a_day_over_its_budget_is_stopped_alone(days: Project) -> None:
    articles = [json.loads(line) for line in Path(days.source).read_text().splitlines()]
    more = [{**article, "id": f"more{n}", "body": f"{n} " + 50 * article["body"]} for n, article in enumerate(articles)]
    write_articles(Path(days.source), [*articles, *(one for one in more if one["published_at"].startswith(BROKEN))])
    days.prices = PRICES
    with serving(days.folder / "instant_api", engine="instant") as days.api:
        days.max_cost_usd = 0.0011
        result = upstream(days)
        assert not result.success
        assert f"{BROKEN}: The budget check stopped {BROKEN}: $0.00 is spent, the expected cost of" in error_of(result)
        assert "BATCH_ASSETS_MAX_COST_USD allows $0.0011. Nothing was submitted." in error_of(result)
        [evaluation] = days.failed_checks(result.run_id)
        assert (evaluation.check_name, evaluation.partition) == ("day_is_within_budget", BROKEN)
        assert days.materialized(openai_batch) == OTHERS
        assert days.failed(openai_batch) == {BROKEN}
        assert days.materialized(batch_request_file) == {*DAYS}
        [waiting] = [day for day in read_days(days.instance) if day.deferred]
        assert waiting.day == BROKEN
        assert days.rows("SELECT DISTINCT state FROM openai_batch WHERE partition_date = ?", BROKEN) == [("planned",)]
        assert finish(days).success
        assert answered(days) == OTHERS
        days.max_cost_usd = None
        assert days.materialize([openai_batch], BROKEN).success
        assert days.materialized(openai_batch) == {*DAYS}
        assert days.finish(BROKEN).success
        assert answered(days) == {*DAYS}


def refused_upload(call: Call) -> Reply:
    if is_of_broken_day(call):
        return Reply.of({"error": {"message": "No such purpose.", "code": "invalid_purpose"}}, 400)
    return call.forward()


def failing_upload(call: Call) -> Reply:
    if is_of_broken_day(call):
        return Reply.of({"error": {"message": "The service is unavailable."}}, 503)
    return call.forward()


class FailingCreation:
    """An API that creates no batch of the broken day's file."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.file_ids: set[str] = set()

    def __call__(self, call: Call) -> Reply:
        if call.creates_batch and json.loads(call.body)["input_file_id"] in self.file_ids:
            return Reply.of({"error": {"message": "The batch was not created.", "code": "no"}}, self.status)
        reply = call.forward()
        if is_of_broken_day(call):
            self.file_ids.add(reply.json["id"])
        return reply


@pytest.mark.parametrize(
    "answer",
    [refused_upload, failing_upload, FailingCreation(400), FailingCreation(403)],
    ids=["upload refused", "upload fails", "creation refused", "no access"],
)
def test_a_day_that_the_api_does_not_take_fails_alone(days: Project, answer: Callable[[Call], Reply]) -> None:
    with proxy(days.api.url, with_api_name("local", answer)) as client:
        days.openai = quick(str(client.base_url).rstrip("/"))
        result = upstream(days)
    days.openai = quick(days.api.url)
    assert not result.success
    assert error_of(result).startswith(f"1 of {NUMBER} days failed")
    assert f"{BROKEN}: OpenAI " in error_of(result)
    assert days.materialized(openai_batch) == OTHERS
    assert days.failed(openai_batch) == {BROKEN}
    [waiting] = [day for day in read_days(days.instance) if day.deferred]
    assert waiting.day == BROKEN
    assert next_step(waiting, {}, datetime.now(UTC) + timedelta(hours=2), None, Timing()) is Step.SUBMIT
    assert finish(days).success
    assert answered(days) == OTHERS
    assert days.materialize([openai_batch], BROKEN).success
    assert days.failed(openai_batch) == set()
    assert days.finish(BROKEN).success
    assert answered(days) == {*DAYS}
    assert days.api.stats()["batches_created"] == NUMBER


class FailingDownload:
    """An API that does not return the results of the broken day."""

    def __call__(self, call: Call) -> Reply:
        reply = call.forward()
        if call.downloads and MARK.encode() in reply.content:
            return Reply.of({"error": {"message": "The service is unavailable."}}, 503)
        return reply


def test_a_day_whose_results_cannot_be_fetched_fails_alone(days: Project) -> None:
    articles = [json.loads(line) for line in Path(days.source).read_text().splitlines()]
    for article in articles:
        if article["published_at"].startswith(BROKEN):
            article["body"] = f"The {MARK} harbour. " + article["body"]  # the built-in engine returns first sentences
    write_articles(Path(days.source), articles)
    assert upstream(days).success
    days.wait_for_batches()
    with proxy(days.api.url, with_api_name("local", FailingDownload())) as client:
        days.openai = quick(str(client.base_url).rstrip("/"))
        result = days.materialize_days(DAYS[0], DAYS[-1], [summaries])
    days.openai = quick(days.api.url)
    assert not result.success
    assert f"{BROKEN}: " in error_of(result, "summaries")
    assert days.materialized(summaries) == answered(days) == OTHERS
    assert days.failed(summaries) == {BROKEN}
    assert [day.day for day in read_days(days.instance)] == [BROKEN]
    assert days.materialize([summaries], BROKEN).success
    assert answered(days) == {*DAYS}


def test_days_whose_batches_run_are_not_materialized_and_the_run_succeeds(days: Project) -> None:
    with serving(days.folder / "slow_api", batch_seconds=60) as days.api:
        assert upstream(days).success
        assert days.materialize_days(DAYS[0], DAYS[-1], [summaries]).success
        assert days.materialized(summaries) == days.failed(summaries) == set()
        assert days.rows("SELECT DISTINCT status FROM summaries") == [("in_flight",)]
        result = days.materialize_days(DAYS[0], DAYS[-1], EVERYTHING)
        assert result.success
        assert days.materialized(summaries) == days.failed(summaries) == set()


def test_an_api_that_fails_for_several_days_in_a_row_is_not_asked_for_the_others(
    days: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch_assets.assets.day_run.DAYS_AT_ONCE", 1)
    uploads: list[str] = []

    def down(call: Call) -> Reply:
        if call.uploads:
            uploads.append(call.path)
            return Reply.of({"error": {"message": "The service is unavailable."}}, 503)
        return call.forward()

    with proxy(days.api.url, with_api_name("local", down)) as client:
        days.openai = quick(str(client.base_url).rstrip("/"))
        result = upstream(days)
    assert not result.success
    assert error_of(result).startswith(f"{NUMBER} of {NUMBER} days failed")
    attempts = len(uploads)
    with proxy(days.api.url, with_api_name("local", down)) as client:
        days.openai = quick(str(client.base_url).rstrip("/"))
        days.materialize([openai_batch], DAYS[0])
    of_one_day = len(uploads) - attempts
    assert attempts == 3 * of_one_day
    waiting = read_days(days.instance)
    assert {day.day for day in waiting if day.deferred and day.error} == {*DAYS}
    days.openai = quick(days.api.url)
    assert days.materialize_days(DAYS[0], DAYS[-1], [openai_batch]).success
    assert finish(days).success
    assert answered(days) == {*DAYS}


def test_the_pause_after_an_outage_doubles(days: Project) -> None:
    days.openai = api_at("http://127.0.0.1:9/v1")
    pauses: list[int] = []
    for _ in range(6):
        days.materialize(UPSTREAM if not pauses else [openai_batch], DAYS[0])
        [day] = read_days(days.instance)
        assert day.next_attempt_at is not None
        pauses.append(round((day.next_attempt_at - day.at).total_seconds() / 60))
    assert pauses == [1, 2, 4, 8, 10, 10]


@pytest.mark.parametrize("stages", [[raw_articles], [batch_request_file], [openai_batch]])
def test_each_asset_can_be_materialized_alone_for_several_days(days: Project, stages: list[dg.AssetSpec]) -> None:
    assert upstream(days).success
    stats = days.api.stats()
    assert days.materialize_days(DAYS[0], DAYS[2], stages).success
    assert {key: days.api.stats()[key] for key in ("batches_created", "requests_executed")} == {
        key: stats[key] for key in ("batches_created", "requests_executed")
    }


def run_again(project: Project, first: str, **tags: str) -> dg.DagsterRun:
    """The run of `refresh` again, as Dagster or the user starts it after the first one ended."""
    job = dg.Definitions(project.assets, resources=project.resources, executor=dg.in_process_executor)
    whole = job.resolve_implicit_global_asset_job_def()
    run = project.instance.create_run_for_job(
        whole,
        run_config={**QUIET, **REFRESH},
        tags={FIRST_PARTITION_TAG: DAYS[0], LAST_PARTITION_TAG: DAYS[-1], **tags},
        asset_selection={asset.key for asset in UPSTREAM},
        parent_run_id=first,
        root_run_id=first,
    )
    execute_run(InMemoryJob(whole), run, project.instance)
    finished = project.instance.get_run_by_id(run.run_id)
    assert finished is not None
    return finished


@pytest.mark.parametrize("tag", ["dagster/retry_number", "dagster/is_resume_retry"])
def test_a_run_that_goes_on_with_a_killed_one_buys_no_refresh_twice(days: Project, tag: str) -> None:
    assert upstream(days).success
    assert finish(days).success
    refresh = days.materialize_days(DAYS[0], DAYS[-1], config=REFRESH)
    assert refresh.success
    assert finish(days).success
    assert days.api.stats()["requests_executed"] == 2 * 3 * NUMBER
    assert run_again(days, refresh.run_id, **{tag: "1"}).is_success
    assert finish(days).success
    assert days.api.stats()["requests_executed"] == 2 * 3 * NUMBER
    for asset in UPSTREAM:
        assert days.materialized(asset) == {*DAYS}
    assert run_again(days, refresh.run_id).is_success  # the user starts it again
    assert finish(days).success
    assert days.api.stats()["requests_executed"] == 3 * 3 * NUMBER


def test_a_run_that_goes_on_with_a_killed_one_sends_nothing_that_was_cancelled_between_them(days: Project) -> None:
    with serving(days.folder / "slow_api", batch_seconds=60) as days.api:
        first = upstream(days)
        cancel_day(days.database, days.api.client, day=of(BROKEN), data_folder=days.folder / "data")
        assert run_again(days, first.run_id, **{"dagster/retry_number": "1"}).is_success
        assert days.api.stats()["batches_created"] == NUMBER
