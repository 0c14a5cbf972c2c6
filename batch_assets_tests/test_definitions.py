"""The definitions that Dagster loads, and the direction of imports: `batching` and `local_api` need no Dagster."""

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap

import batch_assets
from batch_assets.batching.safety import clean_errors
from batch_assets.definitions import defs
from batch_assets.partitions import daily_partitions
from batch_assets.project_tasks import declared_task, read_tasks
from batch_assets.resources import WAREHOUSE, all_resources, openai_resource
from batch_assets.settings import read_settings
from batch_assets_tests.first_task import (
    cancel_batches,
    daily_submission,
    day_is_within_budget,
    every_article_is_accounted_for,
    openai_batch_sensor,
    usage_adds_up,
)

ASSET_KEYS = ("raw_articles", "batch_request_file", "openai_batch", "summaries")
PACKAGE = Path(batch_assets.__file__).parent
SECRET = "sk-a-secret-of-the-user"


def imports_of(folder: str) -> set[str]:
    found: set[str] = set()
    for path in (PACKAGE / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
    return found


def test_everything_loads_as_dagster_wants_it() -> None:
    dg.Definitions.validate_loadable(defs())


def test_each_check_has_the_days_of_its_asset() -> None:
    graph = defs().resolve_asset_graph()
    for check in (day_is_within_budget, every_article_is_accounted_for, usage_adds_up):
        assert graph.get(check.key).partitions_def == graph.get(check.asset_key).partitions_def


def test_each_task_has_its_assets_and_shares_the_articles() -> None:
    keys = {spec.key.to_user_string(): spec.group_name for spec in defs().resolve_all_asset_specs()}
    of_summaries = dict.fromkeys(ASSET_KEYS, "articles")
    of_others = {
        f"{task}/{asset}": task
        for task in ("keywords", "captions")
        for asset in ("batch_request_file", "openai_batch", task)
    }
    assert keys == {**of_summaries, **of_others, "captions/raw_articles": "captions", "batch_report": "report"}


def test_what_spends_money_by_itself_is_off_and_what_collects_is_on() -> None:
    definitions = defs()
    for name in ("daily_submission", "daily_batch_report"):
        assert definitions.resolve_schedule_def(name).default_status is dg.DefaultScheduleStatus.STOPPED
    sensor = definitions.resolve_sensor_def("openai_batch_sensor")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


def test_the_sensor_of_messages_is_there_and_on_if_there_are_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {sensor.name for sensor in defs().get_repository_def().sensor_defs}
    monkeypatch.setenv("BATCH_ASSETS_NOTIFY", "json://127.0.0.1/")
    with_urls = {sensor.name: sensor for sensor in defs().get_repository_def().sensor_defs}
    assert set(with_urls) == {*names, "batch_assets_notifications"}
    assert with_urls["batch_assets_notifications"].default_status is dg.DefaultSensorStatus.RUNNING


def test_the_job_for_backfills_leaves_summaries_to_the_sensor() -> None:
    job = defs().resolve_job_def("submit_batches")
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == {
        "raw_articles",
        "batch_request_file",
        "openai_batch",
    }


def test_the_nightly_schedule_asks_for_the_day_that_is_over() -> None:
    at_night = datetime(2026, 1, 8, 2, tzinfo=UTC)
    with (
        dg.instance_for_test() as instance,
        # ended here: Dagster would later set the ended instance as the one that definitions load with
        dg.build_schedule_context(instance=instance, scheduled_execution_time=at_night) as context,
    ):
        [request] = daily_submission(context)  # type: ignore[misc]
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2026-01-07"


BATCHING_STEPS = tuple(
    f"batch_assets.batching.{step}"
    for step in ("ingest", "planning", "submission", "collection", "operations", "synchronous")
)


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("batching", ("dagster", "batch_assets.local_api", "batch_assets.assets", "batch_assets.resources")),
        ("report", ("dagster", "batch_assets.local_api", "batch_assets.assets", "batch_assets.cli")),
        ("local_api", ("dagster", "duckdb", "openai", "batch_assets.batching", "batch_assets.assets")),
        *((f"batching/{base}", BATCHING_STEPS) for base in ("ledger", "provider", "safety")),
        *(
            (f"batching/{step}", tuple(f"batch_assets.batching.{other}" for other in others))
            for step, others in {
                "ingest": ("planning", "submission", "collection", "operations", "synchronous"),
                "planning": ("ingest", "submission", "collection", "operations", "synchronous"),
                "submission": ("ingest", "planning", "collection", "operations", "synchronous"),
                "collection": ("ingest", "planning", "submission", "operations", "synchronous"),
                "synchronous": ("ingest", "submission", "operations"),
            }.items()
        ),
    ],
)
def test_imports_point_one_way(folder: str, forbidden: tuple[str, ...]) -> None:
    assert {name for name in imports_of(folder) if name.startswith(forbidden)} == set()


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("output_schema", ("batch_assets.output_schema",)),
        # It can be taken out of the project, together with the one folder that knows JSON schemas.
        ("local_api", ("batch_assets.local_api", "batch_assets.output_schema")),
    ],
)
def test_neutral_folders_import_nothing_of_the_project(folder: str, allowed: tuple[str, ...]) -> None:
    ours = {name for name in imports_of(folder) if name.split(".")[0] == "batch_assets"}
    assert {name for name in ours if not name.startswith(allowed)} == set()


def test_without_a_key_the_local_batch_api_stands_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path))
    api = openai_resource(read_settings())
    with pytest.raises(dg.Failure, match="local Batch API that stands in for OpenAI isn't running"):
        api.connect()


def test_with_a_key_it_is_openai_and_the_key_is_read_when_a_client_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-an-hour-ago")
    api = openai_resource(read_settings())
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with api.get_client(dg.build_op_context()) as client:
        assert client.api_key == SECRET
        assert client.base_url.host == "api.openai.com"


def test_dagster_gets_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("BATCH_ASSETS_SOURCE", f"https://feeds.example/{{partition}}.jsonl?sig={SECRET}")
    monkeypatch.setenv("BATCH_ASSETS_DUCKDB", f"md:ours?motherduck_token={SECRET}")
    monkeypatch.setenv("BATCH_ASSETS_NOTIFY", f"slack://{SECRET}/{SECRET}/{SECRET}")
    resources = all_resources(read_settings())
    shown = dg.serialize_value(RepositorySnap.from_def(defs().get_repository_def()))
    assert SECRET not in shown
    with dg.build_resources({WAREHOUSE: resources[WAREHOUSE]}) as at_run_time:
        assert getattr(at_run_time, WAREHOUSE).database.endswith(SECRET)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BATCH_ASSETS_POLL_SECONDS", "0"),
        ("BATCH_ASSETS_MAX_ROUNDS", "many"),
        ("BATCH_ASSETS_START_DATE", "05.01.2026"),
        ("BATCH_ASSETS_MAX_COST_USD", "cheap"),
        ("BATCH_ASSETS_MAX_COST_USD", "-1"),
        ("BATCH_ASSETS_MAX_ENQUEUED_TOKENS", "1e6"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} is '{value}'"):
        read_settings()


def test_the_newest_day_is_yesterday_and_a_command_takes_it_for_the_bundled_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yesterday = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    settings = read_settings()
    assert daily_partitions.get_last_partition_key() == yesterday
    assert settings.default_day(settings.source) == yesterday
    captions = declared_task(read_tasks(settings), "captions")
    assert captions is not None
    assert settings.default_day(captions.feed.source.source) == yesterday

    monkeypatch.setenv("BATCH_ASSETS_SOURCE", "/feeds/*.parquet")
    monkeypatch.setenv("BATCH_ASSETS_START_DATE", "2026-02-03")
    settings = read_settings()
    assert settings.default_day(settings.source) == "2026-02-03"


def test_paths_are_absolute_since_runs_may_start_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", "here")
    monkeypatch.setenv("BATCH_ASSETS_DUCKDB", "md:ours")
    settings = read_settings()
    assert settings.data_folder == tmp_path / "here"
    assert settings.database == "md:ours"


def test_whatever_dagster_runs_raises_errors_without_secrets() -> None:
    """Dagster stores what they raise: each of our assets, checks, ops and sensors bears the decorator."""
    definitions = defs()
    functions = [
        *(definitions.resolve_assets_def(key).op.compute_fn.decorated_fn for key in (*ASSET_KEYS, "batch_report")),  # type: ignore[union-attr]
        cancel_batches.get_node_named("cancel_batches_of_day").definition.compute_fn.decorated_fn,  # type: ignore[attr-defined]
        openai_batch_sensor._raw_fn,
    ]
    assert len(functions) == 7
    for function in functions:
        assert function.__code__.co_filename == clean_errors.__file__, function.__name__
