"""An API that does not answer stops no planning, and each day gets an event that the sensor reads."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from batch_assets.day_events import DEDUP_TAG
from batch_assets.days import read_days
from batch_assets.resources import BatchApi
from batch_assets_tests.batching.conftest import CUT, Call, Reply, proxy
from batch_assets_tests.first_task import batch_request_file, openai_batch, raw_articles
from batch_assets_tests.project import DAY, QUIET, Project, api_at

pytestmark = pytest.mark.end_to_end

LOCATION = "batch_assets"
CLOSED = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without retries, for which Dagster would wait ten minutes."""
    monkeypatch.setitem(QUIET, "execution", {"config": {"retries": {"disabled": {}}}})


def the_day_waits_and_goes_on(project: Project) -> None:
    assert project.rows("SELECT state, count(*) FROM openai_batch GROUP BY state") == [("planned", 1)]
    [day] = read_days(project.instance)
    assert (day.day, day.deferred, day.batch_ids) == (DAY, 1, ())
    assert day.next_attempt_at is not None
    project.openai = None
    assert project.materialize([openai_batch]).success
    assert project.finish().success
    assert project.rows("SELECT DISTINCT api, status FROM summaries") == [("local", "answered")]


@pytest.mark.parametrize("limit", [None, 100.0])
def test_a_day_is_planned_and_waits_while_the_api_is_down(project: Project, limit: float | None) -> None:
    project.max_cost_usd = limit
    project.openai = api_at(CLOSED)
    assert not project.materialize_from(LOCATION).is_success
    [day] = read_days(project.instance)
    assert str(day.error).startswith("Nothing listens at http://127.0.0.1:9. Start the server there")
    project.max_cost_usd = None
    the_day_waits_and_goes_on(project)


def unavailable(call: Call) -> Reply:
    return Reply.of({"error": {"message": "The service is unavailable."}}, 503)


def cut(call: Call) -> Reply | None:
    return CUT


@pytest.mark.parametrize("answer", [unavailable, cut])
def test_a_day_waits_while_a_gateway_answers_for_the_api(
    project: Project, answer: Callable[[Call], Reply | None]
) -> None:
    with proxy(project.api.url, answer) as client:
        project.openai = api_at(str(client.base_url))
        assert not project.materialize_from(LOCATION).is_success
    the_day_waits_and_goes_on(project)


def test_a_day_is_planned_while_the_local_api_is_started_again(project: Project) -> None:
    def not_running() -> None:
        raise dg.Failure("The local Batch API isn't running.")

    project.openai = BatchApi(not_running, is_stand_in=True)  # type: ignore[arg-type]
    assert not project.materialize_from(LOCATION).is_success
    [day] = read_days(project.instance)
    assert str(day.error) == "The local Batch API isn't running. The sensor tries again by itself."
    project.is_stand_in = True
    the_day_waits_and_goes_on(project)


@pytest.mark.parametrize("pause_minutes", [-60, 60])
def test_a_deferred_file_whose_pause_is_over_waits_for_the_api_as_any_other(
    project: Project, pause_minutes: int
) -> None:
    """Once the end of a pause in the past was the time of the next attempt: the sensor would try in each tick."""
    assert project.materialize([raw_articles, batch_request_file]).success
    now = datetime.now(UTC)
    with project.database.writing() as connection:
        connection.execute(
            "UPDATE openai_batch SET state = 'deferred', deferred_by = 'account', not_before = ?",
            [(now + timedelta(minutes=pause_minutes)).replace(tzinfo=None)],
        )
    project.openai = api_at(CLOSED)
    assert not project.materialize_from(LOCATION, [openai_batch], **{DEDUP_TAG: "as the sensor's"}).is_success
    [day] = read_days(project.instance)
    assert day.next_attempt_at is not None
    minutes = (day.next_attempt_at - now).total_seconds() / 60
    assert minutes == pytest.approx(60 if pause_minutes > 0 else 1, abs=0.9)
