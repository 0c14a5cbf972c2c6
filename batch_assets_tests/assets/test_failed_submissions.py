"""Guards against paid batches that no event names: a run created them, and then ended with any error."""

import sys
from collections.abc import Callable
from typing import Any

import duckdb
import pytest

from batch_assets.batching.ledger import submissions
from batch_assets.batching.ledger.database import DatabaseBusyError
from batch_assets.batching.submission.submit import Submitted, submit_day
from batch_assets.days import read_days
from batch_assets_tests.first_task import openai_batch
from batch_assets_tests.project import DAY, QUIET, UPSTREAM, Project

ASSET = sys.modules["batch_assets.assets.openai_batch"]
ERRORS = {
    "a full disk": OSError(28, "No space left on device"),
    "a locked database": DatabaseBusyError("The database stayed locked for 900 s."),
    "an error of DuckDB": duckdb.IOException("Could not write file"),
    "a bug": KeyError("custom_id"),
}


@pytest.fixture(autouse=True)
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without retries, for which Dagster would wait ten minutes."""
    monkeypatch.setitem(QUIET, "execution", {"config": {"retries": {"disabled": {}}}})


def submit_then(error: Exception) -> Callable[..., Submitted]:
    """Submit the day, as the asset does, and fail before the result is reported."""

    def submit(*arguments: Any, **options: Any) -> Submitted:
        submit_day(*arguments, **options)
        raise error

    return submit


def assert_the_day_is_collected(project: Project) -> None:
    assert project.finish().success
    assert project.rows("SELECT DISTINCT status FROM summaries") == [("answered",)]
    assert project.api.stats()["batches_created"] == 1


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_the_sensor_knows_the_batches_of_a_run_that_ended_with_any_error(
    project: Project, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(ASSET, "submit_day", submit_then(error))
        assert not project.materialize_from("batch_assets", UPSTREAM).is_success
    [(batch_id,)] = project.rows("SELECT batch_id FROM openai_batch")
    [day] = read_days(project.instance)
    assert (day.day, day.batch_ids) == (DAY, (batch_id,))
    assert_the_day_is_collected(project)


def test_a_run_that_cannot_read_the_tables_in_the_end_leaves_an_event_that_brings_another_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> list[str]:
        raise ERRORS["a locked database"]

    with monkeypatch.context() as broken:
        broken.setattr(ASSET, "submit_day", submit_then(ERRORS["a locked database"]))
        broken.setattr(submissions, "awaited_batch_ids", locked)
        assert not project.materialize_from("batch_assets", UPSTREAM).is_success
    [day] = read_days(project.instance)
    assert (day.day, day.batch_ids, day.deferred) == (DAY, (), 1)
    assert day.next_attempt_at is not None
    assert project.materialize([openai_batch]).success
    [day] = read_days(project.instance)
    assert (len(day.batch_ids), day.deferred) == (1, 0)
    assert_the_day_is_collected(project)
