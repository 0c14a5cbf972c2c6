"""`batch-assets try` asks a few requests of a day, shows them, and says what the day costs as a batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.planning.plan import plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.provider.prices import batch_rates
from batch_assets.cli import common, day_articles
from batch_assets.cli.main import main
from batch_assets.task_set import TaskSet
from batch_assets_tests.batching.conftest import Call, Reply, proxy
from batch_assets_tests.batching.synchronous.support import OPENAI, at_openai, is_call
from batch_assets_tests.batching.test_tasks import SCHEMA
from batch_assets_tests.first_task import first_task
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.nasty_texts import ESCAPES, MARKUP
from batch_assets_tests.project import DAY, generated_articles, write_articles

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command with tasks of this source. Its answers come from the local Batch API."""
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("OPENAI_BASE_URL", local_api.url)
    source = write_articles(tmp_path / "articles.jsonl", generated_articles(4))

    def run_command(
        *options: str, url: str = "", articles: list[dict[str, Any]] | None = None, **settings: Any
    ) -> Result:
        if articles is not None:
            write_articles(tmp_path / "articles.jsonl", articles)
        tasks = first_task(source, **settings)
        monkeypatch.setattr("batch_assets.project_tasks.read_tasks", lambda _: tasks)
        if url:
            monkeypatch.setenv("OPENAI_BASE_URL", url)
        return CliRunner().invoke(main, ["try", "summaries", *options], env={"COLUMNS": "200"})

    return run_command


def database(tmp_path: Path) -> Database:
    return Database(str(tmp_path / "data" / "batch_assets.duckdb"))


def rows(tmp_path: Path, statement: str) -> list[tuple[Any, ...]]:
    with database(tmp_path).reading() as connection:
        return connection.execute(statement).fetchall()


def test_the_day_is_read_and_its_first_requests_are_answered(run: Run, tmp_path: Path) -> None:
    done = run("--limit", "2")
    assert done.exit_code == 0, done.output
    for text in (
        "Report 0", "Report 1", "Billed: nothing. The built-in engine simulated $",
        "The whole day as a batch: 4 requests, $", "Left to buy: 2 requests, $",
    ):  # fmt: skip
        assert text in done.stdout
    assert "Report 2" not in done.stdout
    options = PlanOptions(max_rounds=3)
    [declared] = first_task("unused").tasks
    plan = plan_day(database(tmp_path), day=DAY, task=declared.task, data_folder=tmp_path, options=options)
    assert plan.requests == {"answered": 2, "pending": 2}


def test_json_has_answers_costs_and_prices(run: Run, local_api: LocalApi) -> None:
    with proxy(local_api.url, at_openai()) as client:
        done = run("--limit", "3", "--json", "--yes", url=str(client.base_url), output_schema=SCHEMA)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["task"], report["day"], report["api"]) == ("summaries", DAY, OPENAI)
    assert [request["article_id"] for request in report["requests"]] == ["a0", "a1", "a2"]
    assert all(list(request["answer"]) == list(SCHEMA["properties"]) for request in report["requests"])
    assert report["cost_usd"] == pytest.approx(sum(request["cost_usd"] for request in report["requests"]))
    assert report["simulated_cost_usd"] is None
    rates = batch_rates("gpt-6-luna")
    assert rates is not None
    whole, left = report["whole_day_as_batch"], report["left_as_batch"]
    assert (whole["requests"], left["requests"], whole["is_measured"]) == (4, 1, True)
    assert whole["usd"] == pytest.approx(report["cost_usd"] / 2 / 3 * 4, rel=0.1)


def test_a_second_try_asks_the_next_requests_and_the_last_one_none(run: Run, local_api: LocalApi) -> None:
    run("--limit", "2")
    assert "Report 2" in run().stdout
    done = run()
    assert done.exit_code == 0
    assert f"No request of {DAY} is pending. Requests: 4 answered." in done.stdout
    assert local_api.stats()["requests_executed"] == 4


def test_nothing_is_sent_before_the_user_agrees(run: Run, local_api: LocalApi, tmp_path: Path) -> None:
    with proxy(local_api.url, at_openai()) as client:
        done = run("--json", url=str(client.base_url))
    assert done.exit_code == 1
    assert "4 requests to gpt-6-luna will cost at most $0." in done.stderr
    assert done.stdout == ""
    assert rows(tmp_path, "FROM synchronous_call") == []


def test_a_budget_refuses_in_a_sentence(run: Run, local_api: LocalApi, tmp_path: Path) -> None:
    with proxy(local_api.url, at_openai()) as client:
        done = run("--yes", url=str(client.base_url), max_cost_usd=0.000001)
    assert done.exit_code == 1
    assert "BATCH_ASSETS_MAX_COST_USD" in done.stderr
    assert rows(tmp_path, "FROM synchronous_call") == []


def test_an_unknown_price_is_said(run: Run, local_api: LocalApi) -> None:
    with proxy(local_api.url, Call.forward) as client:
        done = run("--yes", url=str(client.base_url))
    assert "Billed: an unknown amount." in done.stdout


def test_lost_answers_are_said(run: Run, local_api: LocalApi) -> None:
    with proxy(local_api.url, at_openai(lambda call: None if is_call(call) else call.forward())) as client:
        done = run("--yes", "--limit", "1", url=str(client.base_url))
    assert done.exit_code == 1
    assert "2 answers lost: OpenAI may bill them." in done.stdout
    assert "It is left to the batch." in " ".join(done.stdout.replace("│", " ").split())


def test_an_error_of_the_account_ends_the_command(run: Run, local_api: LocalApi, tmp_path: Path) -> None:
    no_credit = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}
    answer = at_openai(lambda call: Reply.of(no_credit, 429) if is_call(call) else call.forward())
    with proxy(local_api.url, answer) as client:
        done = run("--yes", url=str(client.base_url))
    assert done.exit_code == 1
    assert "3 requests not asked, since the API refused the last one." in done.stdout
    assert len(rows(tmp_path, "FROM synchronous_call")) == 1


def test_texts_of_others_have_no_effect_on_the_terminal(
    run: Run, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-0123456789")
    nasty = f"{MARKUP[0]} before{ESCAPES}after sk-proj-0123456789"
    done = run(articles=[{"id": "a", "title": nasty, "body": f"{nasty}. Ships are waiting."}])
    assert done.exit_code == 0, done.output
    assert "\x1b]" not in done.stdout
    assert "0123456789" not in done.stdout
    assert MARKUP[0] in done.stdout


def test_mistakes_are_sentences(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "There is no day '1999-01-01'" in run("--day", "1999-01-01").output
    missing = run(articles=[])
    assert (missing.exit_code, "The source has no article for" in missing.output) == (0, True)
    (tmp_path / "articles.jsonl").unlink()
    assert "articles.jsonl" in run("--day", "2026-01-06").output
    with pytest.raises(click.ClickException, match="There is no task other"):
        common.find_task(TaskSet(first_task().tasks), "other")
    settings = common.checked_settings()
    monkeypatch.setattr("batch_assets.batching.ledger.known_batches.real_apis", lambda _: [OPENAI])
    local = type("Settings", (), {**vars(settings), "has_remote_api": False})
    with pytest.raises(click.ClickException, match="Set the key"):
        day_articles.check_stand_in(local, database(tmp_path))  # type: ignore[arg-type]
