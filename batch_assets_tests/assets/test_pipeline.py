"""The four assets together, with a real database and a real Batch API: a second run buys nothing, and nothing is lost.

The tests count at the server: the user pays for created batches and executed requests.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

import dagster as dg
import pytest

from batch_assets.batching.provider.prices import ModelPrice
from batch_assets_tests.batching.conftest import Call, Reply, proxy, with_api_name
from batch_assets_tests.conftest import serving
from batch_assets_tests.first_task import (
    batch_request_file,
    every_article_is_accounted_for,
    openai_batch,
    raw_articles,
    summaries,
)
from batch_assets_tests.project import (
    DAY,
    QUIET,
    HasKey,
    Project,
    api_at,
    generated_articles,
    write_articles,
)

pytestmark = pytest.mark.end_to_end
NEXT_DAY = "2026-01-06"
PRICES = (ModelPrice("gpt-6-luna", 0.05, 0.25),)  # as OpenAI's, which are not known of other APIs


def test_a_day_of_articles_becomes_a_day_of_summaries(project: Project) -> None:
    assert project.materialize().success
    assert project.finish().success
    rows = project.rows("SELECT article_id, title, status, summary, batch_id, api, cost_usd FROM summaries")
    assert len(rows) == 20
    assert all(status == "answered" and summary and batch for _, _, status, summary, batch, _, _ in rows)
    assert {row[5:] for row in rows} == {("local", None)}  # no model has answered, and nothing was billed
    assert project.api.stats()["batches_created"] == 1
    assert project.api.stats()["requests_executed"] == 20
    metadata = project.metadata(summaries)
    [(simulated,)] = project.rows("SELECT sum(simulated_cost_usd) FROM completion")
    assert (metadata["answered"], metadata["answered_by"], metadata["cost_usd"]) == (20, "local", 0)
    assert simulated > 0
    assert metadata["simulated_cost_usd"] == pytest.approx(simulated, abs=1e-6)


def test_what_a_model_has_answered_costs_what_its_rows_say(project: Project) -> None:
    project.prices = PRICES
    with serving(project.folder / "instant_api", engine="instant") as project.api:
        project.materialize()
        project.finish()
    rows = project.rows("SELECT api, cost_usd FROM summaries")
    assert {api for api, _ in rows} == {"local+instant"}
    assert all(cost > 0 for _, cost in rows)
    assert project.metadata(summaries)["cost_usd"] == pytest.approx(sum(cost for _, cost in rows), abs=1e-6)
    assert "simulated_cost_usd" not in project.metadata(summaries)
    [(spent,)] = project.rows("SELECT sum(cost_usd) FROM spending")
    assert spent == pytest.approx(sum(cost for _, cost in rows))


def test_materializing_everything_again_pays_for_nothing(project: Project) -> None:
    project.materialize()
    project.finish()
    before = project.rows("SELECT * FROM summaries ORDER BY article_id"), project.api.stats()
    assert project.materialize().success
    assert project.finish().success
    assert (project.rows("SELECT * FROM summaries ORDER BY article_id"), project.api.stats()) == before


def test_materializing_again_while_the_batch_runs_makes_no_second_one(project: Project) -> None:
    for _ in range(3):
        assert project.materialize().success
    assert project.api.stats()["batches_created"] == 1
    project.finish()
    assert project.api.stats()["requests_executed"] == 20


def test_summaries_of_a_running_day_are_not_materialized_and_the_run_succeeds(project: Project) -> None:
    with serving(project.folder / "slow_api", batch_seconds=60) as slow:
        project.api = slow
        project.materialize()
        result = project.materialize([summaries])
        assert result.success
        assert not result.get_asset_materialization_events()
        assert project.rows("SELECT DISTINCT status FROM summaries") == [("in_flight",)]


def test_an_edited_article_costs_one_request_and_a_new_order_none(project: Project) -> None:
    articles = generated_articles(20)
    project.materialize()
    project.finish()
    articles[7]["body"] += " The mayor apologised."
    write_articles(project.folder / "articles.jsonl", reversed(articles))
    project.materialize()
    project.finish()
    assert project.api.stats()["requests_executed"] == 21
    assert project.rows("SELECT count(*) FROM summaries WHERE status = 'answered'") == [(20,)]


def test_the_same_article_on_another_day_or_under_another_id_is_not_sent_again(project: Project) -> None:
    articles = generated_articles(3)
    twin = {**articles[0], "id": "twin"}
    tomorrow = {**articles[1], "id": "tomorrow", "published_at": f"{NEXT_DAY}T08:00:00Z"}
    write_articles(project.folder / "articles.jsonl", [*articles, twin, tomorrow])
    project.materialize()
    project.materialize(day=NEXT_DAY)  # while the first day's batch may still run: it waits for that one
    assert project.metadata(openai_batch)["batches_created"] == 0
    project.finish()
    project.finish(NEXT_DAY)
    assert project.api.stats()["requests_executed"] == 3
    statuses = project.rows("SELECT partition_date::VARCHAR, count(*), any_value(status) FROM summaries GROUP BY 1")
    assert sorted(statuses) == [(DAY, 4, "answered"), (NEXT_DAY, 1, "answered")]


def test_another_model_makes_every_request_pending_again(project: Project) -> None:
    project.materialize()
    project.finish()
    project.model = "gpt-4.1-nano"
    project.materialize()
    project.finish()
    assert project.api.stats()["requests_executed"] == 40
    assert project.rows("SELECT DISTINCT model FROM summaries") == [("gpt-4.1-nano",)]


def test_a_day_without_articles_succeeds_and_is_empty(project: Project) -> None:
    assert project.materialize(day=NEXT_DAY).success
    assert project.metadata(openai_batch)["batch_ids"] == []
    assert project.finish(NEXT_DAY).success
    assert project.metadata(summaries)["dagster/partition_row_count"] == 0
    assert project.api.stats()["batches_created"] == 0


def test_rows_that_cannot_be_articles_are_rejected_and_counted(project: Project) -> None:
    articles = generated_articles(3)
    write_articles(
        project.folder / "articles.jsonl", [*articles, {**articles[0], "body": "x"}, {"id": "e", "body": " "}]
    )
    project.materialize([raw_articles])
    assert project.metadata(raw_articles)["rejected_rows"] == 2
    assert sorted(project.rows("SELECT article_id, reason FROM rejected_article")) == [
        ("a0", "older_version"),
        ("e", "empty_body"),
    ]


def test_a_source_without_a_body_column_fails_with_the_columns_that_it_has(project: Project) -> None:
    write_articles(project.folder / "articles.jsonl", [{"id": "1", "text": "Hello."}])
    result = project.materialize([raw_articles])
    failure = result.failure_data_for_node("submission")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert "id, published_at, text" in str(failure.user_failure_data.description)


def test_a_request_file_has_its_maximum_cost(project: Project) -> None:
    project.materialize([raw_articles, batch_request_file])
    planned = project.metadata(batch_request_file)
    assert planned["requests_in_new_files"] == planned["requests"] == 20
    assert 0 < planned["max_cost_usd"] < 0.01
    assert project.api.stats() == {
        "files_created": 0,
        "batches_created": 0,
        "requests_executed": 0,
        "requests_in_flight": 0,
    }


def test_a_model_without_a_known_price_has_an_unknown_cost_not_none(project: Project) -> None:
    project.model = "our-own-llama"
    project.materialize()
    project.finish()
    assert "max_cost_usd" not in project.metadata(batch_request_file)
    assert "cost_usd" not in project.metadata(summaries)
    assert project.rows("SELECT count(*), count(cost_usd) FROM summaries") == [(20, 0)]


def test_editing_one_article_of_a_thousand_costs_one_request_and_a_new_prompt_all(project: Project) -> None:
    articles = generated_articles(1000)
    with serving(project.folder / "instant_api", engine="instant", concurrency=2) as api:
        project.api = api

        def executed_for(articles: list[dict[str, str]], day: str = DAY) -> int:
            before = api.stats()["requests_executed"]
            write_articles(project.folder / "articles.jsonl", articles)
            assert project.materialize(day=day).success
            assert project.finish(day).success
            return api.stats()["requests_executed"] - before

        assert executed_for(articles) == 1000
        assert executed_for(articles[::-1]) == 0
        assert (
            executed_for([{**article, "published_at": f"{NEXT_DAY}T12:00Z"} for article in articles[:9]], NEXT_DAY) == 0
        )
        assert executed_for([{**articles[0], "body": "Rewritten."}, *articles[1:]]) == 1
        project.model = "gpt-6.1-sol"
        assert executed_for(articles) == 1000


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("gpt-6-luna", "BATCH_ASSETS_MAX_COST_USD allows $0.0000010."),
        ("our-own-llama", "the price of `our-own-llama` in batches isn't known"),
    ],
)
def test_a_day_that_is_too_expensive_or_of_unknown_cost_is_stopped_before_an_upload(
    project: Project, model: str, reason: str
) -> None:
    project.model, project.max_cost_usd = model, 0.000_001
    result = project.materialize()
    assert not result.success
    [evaluation] = project.failed_checks(result.run_id)
    assert "20 requests" in str(evaluation.description)
    assert reason in str(evaluation.description)
    failure = result.failure_data_for_node("submission")
    assert failure is not None
    assert failure.user_failure_data is not None  # Dagster shows it as the error of the run
    assert failure.user_failure_data.description == evaluation.description
    assert not project.materialize([openai_batch]).success  # nor when it is materialized alone
    assert project.api.stats()["files_created"] == 0
    project.max_cost_usd = None
    assert project.materialize().success


def test_a_day_within_its_budget_is_submitted_and_costs_nothing_again(project: Project) -> None:
    project.max_cost_usd = 0.01
    assert project.materialize().success
    assert project.finish().success
    project.max_cost_usd = 0.0
    assert project.materialize().success  # there is nothing left to pay for
    assert project.finish().success


def test_a_source_that_cannot_be_read_keeps_its_secrets(project: Project) -> None:
    project.source = "file:///nowhere/{partition}.csv?sig=SECRET"
    result = project.materialize([raw_articles])
    assert not result.success
    events = [*result.all_events, *project.instance.all_logs(result.run_id)]
    stored = " ".join(dg.serialize_value(event) for event in events)
    assert "there is no file" in stored
    assert "SECRET" not in stored


def refresh(project: Project, assets: Sequence[HasKey]) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        project.assets,
        selection=[asset.key for asset in assets],
        instance=project.instance,
        partition_key=DAY,
        resources=project.resources,
        run_config={**QUIET, "ops": {"submission": {"config": {"refresh": True}}}},
        raise_on_error=False,
    )


@pytest.mark.parametrize(
    ("model", "times_what_was_spent"),
    [("gpt-6-luna", 0.0), ("gpt-6-luna", 1.5), ("our-own-llama", 100.0)],
    ids=["no budget is left", "half of the second purchase is allowed", "the price is not known"],
)
def test_a_refresh_that_the_budget_stops_leaves_the_day_as_it_is(
    project: Project, model: str, times_what_was_spent: float
) -> None:
    project.model, project.prices = model, PRICES
    with serving(project.folder / "instant_api", engine="instant") as project.api:
        project.materialize()
        project.finish()
        before = project.rows("SELECT * FROM summaries ORDER BY article_id")
        assert {row[0] for row in project.rows("SELECT status FROM summaries")} == {"answered"}
        [(spent,)] = project.rows("SELECT coalesce(sum(cost_usd), 1) FROM spending")
        project.max_cost_usd = times_what_was_spent * spent
        stats = project.api.stats()
        for _ in range(2):
            stopped = refresh(project, [batch_request_file, openai_batch])
            assert not stopped.success
            assert [check.check_name for check in project.failed_checks(stopped.run_id)] == ["day_is_within_budget"]
            assert project.materialize([summaries]).success
            assert project.rows("SELECT * FROM summaries ORDER BY article_id") == before
        project.max_cost_usd = None
        assert project.materialize().success
        assert project.finish().success
        assert project.api.stats() == stats
        assert project.rows("SELECT * FROM summaries ORDER BY article_id") == before


@pytest.mark.parametrize(
    ("api", "model", "options"),
    [
        ("https://api.openai.com/v1", "gpt-6-luna", {"mode": "explicit"}),
        ("https://api.openai.com/v1", "gpt-5.6-luna", {"mode": "explicit"}),
        ("https://api.openai.com/v1", "gpt-5.5", None),
        ("https://api.elsewhere.example/v1", "gpt-6-luna", None),
        ("local+vllm", "gpt-6-luna", None),
    ],
)
def test_articles_are_not_written_to_the_cache_where_the_api_is_known_to_allow_it(
    project: Project, api: str, model: str, options: dict[str, str] | None
) -> None:
    """A write costs 1.25 times as much as input does, and no article is read a second time."""
    project.model = model
    with proxy(project.api.url, with_api_name(api)) as client:
        project.openai = api_at(str(client.base_url))
        assert project.materialize([raw_articles, batch_request_file]).success
    [path] = (project.folder / "data" / "requests" / DAY).iterdir()
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert len(lines) == 20
    assert all(line["body"].get("prompt_cache_options") == options for line in lines)


def test_a_refresh_buys_the_day_again_once(project: Project) -> None:
    project.materialize()
    project.finish()
    assert refresh(project, [batch_request_file]).success
    for _ in range(2):
        project.materialize([openai_batch])
        project.finish()
    assert project.api.stats()["requests_executed"] == 40


@pytest.mark.parametrize(
    ("damage", "passes"),
    [
        ("SELECT 1", True),
        ("DELETE FROM summaries WHERE article_id = 'a3'", False),
        ("UPDATE summaries SET summary = NULL WHERE article_id = 'a3'", False),
        ("UPDATE summaries SET status = 'failed' WHERE article_id = 'a3'", False),
        ("INSERT INTO summaries SELECT * FROM summaries WHERE article_id = 'a3'", False),
    ],
)
def test_the_check_notices_articles_that_are_not_accounted_for(project: Project, damage: str, passes: bool) -> None:
    project.materialize()
    project.finish()
    with project.database.writing() as connection:
        connection.execute(damage)
    assert project.check(every_article_is_accounted_for).passed is passes


def test_the_check_covers_the_day_of_its_run(project: Project) -> None:
    write_articles(project.folder / "articles.jsonl", generated_articles(4, days=2))
    for day in (DAY, NEXT_DAY):
        project.materialize(day=day)
        project.finish(day)
    with project.database.writing() as connection:
        connection.execute("DELETE FROM summaries WHERE partition_date = ?", [NEXT_DAY])
    evaluations = {found.check_name: found for found in project.materialize([summaries]).get_asset_check_evaluations()}
    evaluation = evaluations["every_article_is_accounted_for"]
    assert evaluation.passed
    assert evaluation.metadata["articles"].value == 2


def test_a_usage_that_is_not_the_sum_of_its_lines_fails_the_check(project: Project) -> None:
    project.materialize()
    project.finish()
    direct = project.api

    def usage_check() -> dg.AssetCheckEvaluation:
        found = project.materialize([summaries]).get_asset_check_evaluations()
        return next(evaluation for evaluation in found if evaluation.check_name == "usage_adds_up")

    assert usage_check().passed
    project.model = "gpt-4.1-nano"
    project.materialize()

    def seven_more(call: Call) -> Reply:
        reply = replace(call.forward(), api="local")
        if call.method == "GET" and "/v1/batches/" in call.path:
            batch = reply.json
            batch["usage"]["output_tokens"] += 7
            reply = replace(reply, content=json.dumps(batch).encode())
        return reply

    with proxy(project.api.url, seven_more) as client:
        project.api = replace(project.api, url=str(client.base_url))
        project.finish()
    project.api = direct
    assert not usage_check().passed
    batches_off = usage_check().metadata["batches_off"].value
    assert isinstance(batches_off, list)
    assert len(batches_off) == 1
    assert usage_check().metadata["output_tokens_more_than_the_lines"].value == 7
