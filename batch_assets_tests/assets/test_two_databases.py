"""Two databases, code locations or APIs in one Dagster: each uses only its own days, and buys nothing again."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.day_events import Origin, newest_event, submission_metadata
from batch_assets_tests.batching.conftest import Call, Reply, proxy
from batch_assets_tests.conftest import serving
from batch_assets_tests.first_task import batch_request_file, openai_batch, raw_articles, summaries
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY, UPSTREAM, HasKey, Project, api_at, generated_articles, write_articles

pytestmark = pytest.mark.end_to_end

NEXT_DAY = "2026-01-06"


@pytest.fixture
def model(tmp_path: Path) -> Iterator[LocalApi]:
    """An API whose engine counts as a model."""
    with serving(tmp_path / "model", engine="instant") as api:
        yield api


@pytest.fixture
def other(project: Project, tmp_path: Path) -> Project:
    """Another project of the same articles, with a data folder of its own, in the same Dagster and on the same API."""
    return replace(project, folder=tmp_path / "other")


def sentence_of(result: dg.ExecuteInProcessResult, name: str) -> str:
    failure = result.failure_data_for_node("summaries" if name == "summaries" else "submission")
    assert failure is not None
    assert failure.user_failure_data is not None
    return str(failure.user_failure_data.description)


def test_each_code_location_watches_and_collects_its_own_days_only(project: Project, other: Project) -> None:
    assert project.materialize_from("ours").is_success
    assert other.materialize_from("theirs").is_success
    for name, owner in (("ours", project), ("theirs", other)):
        [day] = owner.days_seen_from(name)
        [(batch_id,)] = owner.rows("SELECT batch_id FROM openai_batch")
        assert day.batch_ids == (batch_id,)
    assert not project.days_seen_from("a third one")
    project.wait_for_batches()
    assert project.materialize_from("ours", [summaries]).is_success
    assert not project.days_seen_from("ours")
    assert len(other.days_seen_from("theirs")) == 1  # though its day was collected, by the other one
    other.wait_for_batches()
    assert other.materialize_from("theirs", [summaries]).is_success
    assert not other.days_seen_from("theirs")
    for owner in (project, other):
        assert owner.rows("SELECT status, count(*) FROM summaries GROUP BY ALL") == [("answered", 20)]
    assert project.api.stats()["batches_created"] == 2  # the same articles: each has bought its own


def test_a_day_of_another_location_alone_is_not_seen(project: Project) -> None:
    assert project.materialize_from("theirs").is_success
    assert project.materialize_from("ours", day=NEXT_DAY).is_success
    assert [day.day for day in project.days_seen_from("ours")] == [NEXT_DAY]
    assert [day.day for day in project.days_seen_from("theirs")] == [DAY]


@pytest.mark.parametrize("events", [1, 51, 120])
def test_many_events_of_another_location_hide_no_day_and_no_database(
    project: Project, other: Project, events: int
) -> None:
    project.materialize_from("ours")
    origin = Origin("theirs", "another", "local")
    for _ in range(events):
        metadata = submission_metadata(origin, [], 1, datetime.now(UTC))
        project.instance.report_runless_asset_event(
            dg.AssetMaterialization(openai_batch.key, partition=DAY, metadata=metadata)
        )
    assert [day.day for day in project.days_seen_from("ours")] == [DAY]
    assert not other.materialize_from("ours").is_success  # an empty database takes the place of the right one
    assert project.api.stats()["batches_created"] == 1


def test_pending_requests_of_another_location_bring_no_round_here(project: Project, other: Project) -> None:
    project.materialize_from("ours")
    project.wait_for_batches()
    project.materialize_from("ours", [summaries])
    articles = [*generated_articles(20), {"id": "late", "body": "It came after the plan. It has no request."}]
    other.materialize_from("theirs")
    other.source = write_articles(other.folder / "articles.jsonl", articles)
    other.materialize_from("theirs", [raw_articles])
    other.wait_for_batches()
    other.materialize_from("theirs", [summaries])
    assert [day.needs_next_round for day in other.days_seen_from("theirs")] == [True]
    assert not project.days_seen_from("ours")


@pytest.mark.parametrize("asset", [openai_batch, summaries])
def test_an_empty_database_in_place_of_the_right_one_stops_the_run(
    project: Project, other: Project, asset: dg.AssetsDefinition
) -> None:
    project.materialize()
    before = newest_event(project.instance, openai_batch.key, DAY, "batch_assets")
    result = other.materialize([asset])
    assert not result.success
    sentence = sentence_of(result, asset.key.to_user_string())
    ours, theirs = project.database.warehouse_id(), other.database.warehouse_id()
    assert f"{DAY} was submitted from another database (warehouse {ours}; this one is {theirs})" in sentence
    assert "BATCH_ASSETS_DATA_DIR and BATCH_ASSETS_DUCKDB" in sentence
    assert other.rows("SELECT count(*) FROM summaries") == [(0,)]
    assert not result.get_asset_materialization_events()
    assert newest_event(project.instance, openai_batch.key, DAY, "batch_assets") == before
    assert project.api.stats()["batches_created"] == 1
    assert project.finish().success  # the right one goes on


@pytest.mark.parametrize("asset", [openai_batch, summaries])
@pytest.mark.parametrize("until", [raw_articles, batch_request_file])
def test_a_database_that_has_prepared_the_day_itself_stops_too(
    project: Project, other: Project, until: dg.AssetsDefinition, asset: dg.AssetsDefinition
) -> None:
    """Two workers with a data folder each: one has ingested or planned the day, the other has submitted it."""
    assert other.materialize(UPSTREAM[: UPSTREAM.index(until) + 1]).success
    project.materialize()
    result = other.materialize([asset])
    assert not result.success
    sentence = sentence_of(result, asset.key.to_user_string())
    assert f"{DAY} was submitted from another database" in sentence
    assert other.rows("SELECT count(*) FROM summaries") == [(0,)]
    assert other.rows("SELECT count(*) FROM openai_batch WHERE state <> 'planned'") == [(0,)]
    assert project.finish().success
    assert project.rows("SELECT status, count(*) FROM summaries GROUP BY status") == [("answered", 20)]
    assert project.api.stats()["batches_created"] == 1


def test_an_event_that_names_no_database_is_known_by_its_batches(project: Project, other: Project) -> None:
    """Versions before recorded no database."""
    project.materialize()
    [(batch_id,)] = project.rows("SELECT batch_id FROM openai_batch")
    metadata = {"batch_ids": dg.MetadataValue.json([batch_id])}
    project.instance.report_runless_asset_event(
        dg.AssetMaterialization(openai_batch.key, partition=DAY, metadata=metadata)
    )
    result = other.materialize([summaries])
    assert not result.success
    assert f"{batch_id} of {DAY} are in Dagster's event log, and the ledger does not know them." in sentence_of(
        result, "summaries"
    )
    assert other.rows("SELECT count(*) FROM summaries") == [(0,)]
    assert project.finish().success


def test_a_day_of_this_database_only_does_not_stop_the_other(project: Project, other: Project) -> None:
    project.materialize()
    assert other.materialize(day=NEXT_DAY).success


@pytest.mark.parametrize("since", ["planned", "ingested"])
def test_a_ledger_from_a_backup_adopts_its_batch_and_buys_nothing(project: Project, since: str) -> None:
    project.materialize([raw_articles, batch_request_file] if since == "planned" else [raw_articles])
    backup = project.folder / "backup.duckdb"
    shutil.copy(project.database.path, backup)
    project.materialize(UPSTREAM[1:] if since == "ingested" else [openai_batch])
    [(batch_id,)] = project.rows("SELECT batch_id FROM openai_batch")
    project.api.wait(batch_id)
    shutil.copy(backup, project.database.path)
    stopped = project.materialize([summaries])
    assert not stopped.success
    sentence = sentence_of(stopped, "summaries")
    assert f"{batch_id} of {DAY} are in Dagster's event log, and the ledger does not know them." in sentence
    assert "Materialize `openai_batch`" in sentence
    if since == "ingested":  # the ledger has no requests, so it cannot find the days of the batch
        refused = project.materialize([openai_batch])
        assert not refused.success
        assert "Materialize `raw_articles` and `batch_request_file` of the day" in sentence_of(refused, "openai_batch")
        event = newest_event(project.instance, openai_batch.key, DAY, "batch_assets")
        assert event is not None
        assert event.batch_ids == (batch_id,)
        assert project.materialize([raw_articles, batch_request_file]).success
    assert project.materialize([openai_batch]).success
    assert project.finish().success
    assert project.rows("SELECT status, batch_id, count(*) FROM summaries GROUP BY ALL") == [("answered", batch_id, 20)]
    assert project.api.stats()["batches_created"] == 1
    assert project.api.stats()["requests_executed"] == 20


def test_a_backup_from_between_the_claim_and_the_batch_continues(project: Project) -> None:
    project.materialize([raw_articles, batch_request_file])
    backup = project.folder / "backup.duckdb"

    def back_up_during_the_creation(call: Call) -> Reply:
        if call.creates_batch:
            shutil.copy(project.database.path, backup)
        return replace(call.forward(), api="local")

    with proxy(project.api.url, back_up_during_the_creation) as client:
        project.openai = api_at(str(client.base_url))
        assert project.materialize([openai_batch]).success
    shutil.copy(backup, project.database.path)
    project.openai = None
    assert project.materialize([openai_batch]).success
    assert project.finish().success
    assert project.rows("SELECT status, count(*) FROM summaries GROUP BY ALL") == [("answered", 20)]
    assert project.api.stats()["batches_created"] == 1


def test_a_batch_that_the_list_no_longer_has_stops_the_day_before_it_is_bought_again(project: Project) -> None:
    project.materialize([raw_articles, batch_request_file])
    missing = "batch_" + "0" * 32
    metadata = {"batch_ids": dg.MetadataValue.json([missing])}
    project.instance.report_runless_asset_event(
        dg.AssetMaterialization(openai_batch.key, partition=DAY, metadata=metadata)
    )
    result = project.materialize([openai_batch])
    assert not result.success
    sentence = sentence_of(result, "openai_batch")
    assert missing in sentence
    assert "wipe the materializations of `openai_batch`" in sentence
    assert project.api.stats()["batches_created"] == 0


def test_after_the_demo_a_real_api_is_asked_and_its_answers_count(project: Project, model: LocalApi) -> None:
    project.is_stand_in = True
    project.materialize()
    project.finish()
    assert project.rows("SELECT DISTINCT api FROM summaries") == [("local",)]
    stand_in = project.api
    project.api, project.is_stand_in = model, False
    project.materialize()
    assert project.finish().success
    assert model.stats()["requests_executed"] == 20
    assert project.rows("SELECT api, status, count(*) FROM summaries GROUP BY ALL") == [
        ("local+instant", "answered", 20)
    ]
    assert project.metadata(summaries)["answered_by"] == "local+instant"
    project.materialize()
    project.finish()
    assert model.stats()["requests_executed"] == 20
    project.api = stand_in  # chosen by its address: the model's answers count here, too
    project.materialize()
    assert project.finish().success
    assert stand_in.stats()["requests_executed"] == 20
    assert project.rows("SELECT DISTINCT api FROM summaries") == [("local+instant",)]


@pytest.mark.parametrize("is_after_a_demo", [False, True])
def test_a_day_that_is_too_expensive_is_stopped_after_a_demo_as_before_it(
    project: Project, model: LocalApi, is_after_a_demo: bool
) -> None:
    project.prices = (ModelPrice("gpt-6-luna", 0.05, 0.25),)
    if is_after_a_demo:
        project.is_stand_in = True
        project.materialize()
        assert project.finish().success
    project.api, project.is_stand_in = model, False
    project.materialize(UPSTREAM[:2])
    project.max_cost_usd = 0.99 * project.metadata(batch_request_file)["max_cost_usd"]
    for assets in (UPSTREAM, [openai_batch]):
        assert not project.materialize(assets).success
    assert model.stats()["files_created"] == 0
    project.max_cost_usd *= 1.02
    assert project.materialize().success
    assert project.finish().success
    assert model.stats()["requests_executed"] == 20


def test_an_interrupted_demo_does_not_stop_the_real_api(project: Project, model: LocalApi) -> None:
    project.materialize([raw_articles, batch_request_file])  # planned for the stand-in, nothing of it sent
    project.api = model
    project.materialize()
    assert project.finish().success
    assert project.rows("SELECT DISTINCT api, status FROM summaries") == [("local+instant", "answered")]


@pytest.mark.parametrize("is_recorded", [True, False])
@pytest.mark.parametrize("asset", [batch_request_file, openai_batch, summaries])
def test_a_database_with_real_batches_refuses_a_stand_in_that_was_not_chosen(
    project: Project, model: LocalApi, asset: HasKey, is_recorded: bool
) -> None:
    stand_in, project.api = project.api, model
    project.materialize()
    project.finish()
    write_articles(Path(project.source), generated_articles(21))
    project.materialize([raw_articles])
    if asset is not batch_request_file:
        project.materialize([batch_request_file])
    if not is_recorded:  # an earlier version made them
        with project.database.writing() as connection:
            connection.execute("UPDATE openai_batch SET api = NULL WHERE batch_id IS NOT NULL")
    project.api, project.is_stand_in = stand_in, True
    files = project.rows("SELECT submission_id FROM batch_request_file ORDER BY ALL")
    result = project.materialize([asset])
    assert not result.success
    sentence = sentence_of(result, asset.key.to_user_string())
    name = "local+instant" if is_recorded else "an API that an earlier version did not record"
    assert f"There is no OPENAI_API_KEY, and this database has batches of {name}." in sentence
    assert "set OPENAI_BASE_URL to its address" in sentence
    assert project.rows("SELECT submission_id FROM batch_request_file ORDER BY ALL") == files
    assert stand_in.stats()["files_created"] == 0
    project.is_stand_in = False
    assert project.materialize().success
