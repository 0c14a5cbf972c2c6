"""`batch-assets retry` ends what keeps a day from going on, and the sensor learns of it."""

from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from batch_assets.batching.next_step import Day, Step, next_step
from batch_assets.batching.timing import Timing
from batch_assets.batching.waiting import why_waits
from batch_assets.cli.main import main
from batch_assets_tests.batching.conftest import Call, Reply, changed_lines, proxy, with_api_name
from batch_assets_tests.first_task import batch_request_file, openai_batch, summaries
from batch_assets_tests.project import DAY, Project, api_at

pytestmark = pytest.mark.end_to_end
NO_CREDIT = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}


def seen(project: Project) -> Day:
    [day] = project.days_seen_from("batch_assets")
    return day


def step_of(day: Day) -> Step:
    return next_step(day, {}, datetime.now(UTC), None, Timing())


def retry(*options: str) -> str:
    done = CliRunner().invoke(main, ["retry", DAY, *options])
    assert done.exit_code == 0, done.output
    return done.output


def refuse_creations(call: Call) -> Reply:
    return Reply.of(NO_CREDIT, 429) if call.creates_batch else call.forward()


def test_a_file_that_the_account_kept_waiting_is_sent(project: Project) -> None:
    with proxy(project.api.url, with_api_name("local", refuse_creations)) as client:
        project.openai = api_at(str(client.base_url).rstrip("/"))
        assert not project.materialize().success
    project.openai = None
    assert step_of(seen(project)) is Step.WAIT
    assert retry() == f"1 request file of {DAY} no longer deferred. The sensor starts a run.\n"
    assert step_of(seen(project)) is Step.SUBMIT
    assert project.materialize([openai_batch], **{"batch_assets/dedup_key": "as the sensor's"}).success
    assert project.finish().success
    assert project.rows("SELECT DISTINCT status FROM summaries") == [("answered",)]


def test_requests_in_a_pause_are_sent(project: Project) -> None:
    def no_credit(line: dict[str, object]) -> None:
        line["response"] = {"status_code": 429, "request_id": "r", "body": NO_CREDIT}

    assert project.materialize().success
    project.wait_for_batches()
    with proxy(project.api.url, with_api_name("local", changed_lines(no_credit))) as client:
        project.openai = api_at(str(client.base_url).rstrip("/"))
        assert project.materialize([summaries]).success
    project.openai = None
    assert project.rows("SELECT DISTINCT status, error_code FROM summaries") == [("blocked", "insufficient_quota")]
    day = seen(project)
    assert (day.needs_next_round, step_of(day)) == (True, Step.WAIT)
    assert "exceeded your current quota" in why_waits(day, {}, datetime.now(UTC), Timing())
    assert day.next_attempt_at is not None
    assert retry("--code", "no_such_code") == f"4 requests of {DAY} pending again. The sensor starts a run.\n"
    assert seen(project).next_attempt_at is None
    assert project.materialize([batch_request_file, openai_batch]).success
    assert project.finish().success
    assert project.rows("SELECT DISTINCT status FROM summaries") == [("answered",)]
    assert retry() == f"No request of {DAY} failed for good or is blocked.\n"
    assert project.days_seen_from("batch_assets") == []
