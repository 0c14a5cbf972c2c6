"""Guards against days that no run submits: the schedule runs each day once, and the environment had no key then."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_assets.days import read_days
from batch_assets_tests.conftest import serving
from batch_assets_tests.first_task import batch_request_file, openai_batch, summaries
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import QUIET, Project, generated_articles, write_articles

pytestmark = pytest.mark.end_to_end

NEXT_DAY = "2026-01-06"
OF_THE_SENSOR = {"same_task": True, "respect_pauses": True, "resume_cancelled": False}


@pytest.fixture
def model(tmp_path: Path) -> Iterator[LocalApi]:
    """An API whose engine counts as a model."""
    with serving(tmp_path / "model", engine="instant") as api:
        yield api


def test_a_day_without_a_key_waits_with_the_sentence_and_is_submitted_when_there_is_one(
    project: Project, model: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_articles(Path(project.source), generated_articles(6, days=2))
    stand_in, project.api = project.api, model
    assert project.materialize().success
    assert project.finish().success

    project.api, project.is_stand_in = stand_in, True
    for assets in (None, [openai_batch]):  # the schedule, then the sensor
        assert not (
            project.materialize(day=NEXT_DAY) if assets is None else project.materialize(assets, NEXT_DAY)
        ).success
        [day] = read_days(project.instance)
        assert (day.day, day.batch_ids, day.deferred, day.api) == (NEXT_DAY, (), 1, None)
        assert "There is no OPENAI_API_KEY, and this database has batches of local+instant." in str(day.error)
        assert day.next_attempt_at is not None
    assert stand_in.stats()["files_created"] == 0

    project.api, project.is_stand_in = model, False
    assert project.materialize([openai_batch], NEXT_DAY).success
    assert project.materialize([summaries], NEXT_DAY).success
    [day] = read_days(project.instance)
    assert day.needs_next_round
    with monkeypatch.context() as sensor:
        sensor.setitem(QUIET, "ops", {"submission": {"config": OF_THE_SENSOR}})
        assert project.materialize([batch_request_file, openai_batch], NEXT_DAY).success
    assert project.finish(NEXT_DAY).success
    assert project.rows("SELECT api, status, count(*) FROM summaries GROUP BY ALL") == [
        ("local+instant", "answered", 6)
    ]
    assert model.stats()["requests_executed"] == 6


def test_a_day_with_batches_waits_for_their_api_while_there_is_no_key(project: Project, model: LocalApi) -> None:
    stand_in, project.api = project.api, model
    assert project.materialize().success
    [before] = read_days(project.instance)
    project.api, project.is_stand_in = stand_in, True
    assert not project.materialize([batch_request_file]).success
    [day] = read_days(project.instance)
    assert (day.batch_ids, day.api) == (before.batch_ids, "local+instant")
    project.api, project.is_stand_in = model, False
    assert project.finish().success
    assert not read_days(project.instance)
