"""One message for each event: after lost cursors, restarts, refusals, and for many days at once.

Each test says what happened by real runs at the local Batch API, or by events that such runs write.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batch_assets.batching.task_day import TaskDay
from batch_assets.day_events import BACKFILL_TAG
from batch_assets.notifications import sensor
from batch_assets.notifications.memory import MESSAGES
from batch_assets.notifications.news import Kind, News
from batch_assets.notifications.texts import message_of
from batch_assets_tests.batching.conftest import Call, Reply, proxy, with_api_name
from batch_assets_tests.first_task import TASKS, openai_batch, summaries
from batch_assets_tests.leaks import kept_by_dagster
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.notifications.endpoint import TOKEN, Endpoint
from batch_assets_tests.project import DAY, Project, api_at, generated_articles, write_articles
from batch_assets_tests.sensors.support import MAX_ATTEMPTS, a_run, collected, ready_day, submitted
from batch_assets_tests.sensors.support import tick as tick_of_batches

DAYS = ["2026-01-05", "2026-01-06", "2026-01-07"]
KEY = "sk-a-key-of-the-user-0123456789"
NO_CREDIT = f"You exceeded your current quota, key {KEY}. <!channel> @everyone"


class Messages:
    """The sensor with its cursor, and its endpoint."""

    def __init__(self, instance: dg.DagsterInstance, endpoint: Endpoint) -> None:
        self.instance, self.endpoint = instance, endpoint
        self.cursor: str | None = None
        self.urls: tuple[str, ...] = (endpoint.url,)

    def tick(self, **later: float) -> str:
        """The skip reason of a tick so much later."""
        now = datetime.now(UTC) + timedelta(**later)
        result = sensor.tick(self.instance, "batch_assets", self.cursor, TASKS.keys, self.urls, now)
        self.cursor = result.cursor
        assert isinstance(result.skip_reason, dg.SkipReason)
        return result.skip_reason.skip_message or ""

    def new(self, **later: float) -> list[str]:
        """The messages of a tick so much later."""
        before = len(self.endpoint.received)
        self.tick(**later)
        return self.endpoint.texts[before:]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def messages(instance: dg.DagsterInstance, endpoint: Endpoint) -> Messages:
    """The sensor after its first tick."""
    started = Messages(instance, endpoint)
    assert started.tick() == "Messages begin now."
    return started


def done(instance: dg.DagsterInstance, day: str, *, failed: int = 0, cost_usd: float | None = 0.0005) -> None:
    counts: dict[str, Any] = {"dagster/partition_row_count": 9, "answered": 9 - failed, "failed": failed}
    metadata = counts if cost_usd is None else {**counts, "cost_usd": cost_usd}
    instance.report_runless_asset_event(dg.AssetMaterialization(summaries.key, partition=day, metadata=metadata))


def days_from(first: str, number: int) -> list[str]:
    start = datetime.fromisoformat(first)
    return [(start + timedelta(days=after)).date().isoformat() for after in range(number)]


def test_a_day_is_reported_once_also_after_a_lost_cursor_and_a_restart(
    tmp_path: Path, local_api: LocalApi, endpoint: Endpoint
) -> None:
    source = write_articles(tmp_path / "articles.jsonl", generated_articles(20))
    home = str(tmp_path / "home")
    Path(home).mkdir()
    with dg.DagsterInstance.local_temp(home) as first:
        project, messages = Project(tmp_path, local_api, first, source), Messages(first, endpoint)
        messages.tick()
        begun = messages.cursor
        project.materialize()
        assert messages.new() == []
        project.finish()
        [text] = messages.new()
        assert text.startswith("batch_assets: 2026-01-05 done\n2026-01-05 is done: 20 articles, 20 answered, $0.0")
        assert text.endswith("simulated by the built-in engine and not billed.")
        assert messages.new() == []
        project.finish()  # it reads the day again, and finds nothing new
        assert messages.new(hours=1) == []
    with dg.DagsterInstance.local_temp(home) as again:
        for cursor in (None, begun, "{}"):
            messages = Messages(again, endpoint)
            messages.cursor = cursor
            assert messages.tick(hours=2) == "Nothing is new."
        done(again, DAYS[1])
        assert len(messages.new(hours=3)) == 1
    assert len(endpoint.received) == 2


def test_days_of_an_old_event_log_are_no_news(instance: dg.DagsterInstance, endpoint: Endpoint) -> None:
    for day in DAYS:
        done(instance, day)
    messages = Messages(instance, endpoint)
    messages.tick()
    messages.cursor = None
    assert messages.tick() == "Nothing is new."
    assert endpoint.received == []


def test_a_budget_that_stops_a_day_is_reported_once_with_its_amounts(project: Project, endpoint: Endpoint) -> None:
    messages = Messages(project.instance, endpoint)
    messages.tick()
    project.max_cost_usd = 0.00001
    assert not project.materialize().success
    [text] = messages.new()
    assert text.startswith("batch_assets: a budget stops 2026-01-05\n- ")
    assert re.search(r"\$0\.00 is spent, the expected cost of [^$]*\$0\.0\d+", text), text
    assert re.search(r"BATCH_ASSETS_MAX_COST_USD[^$]*\$0\.000010", text), text
    assert "`batch-assets cancel 2026-01-05`" in text
    assert not project.materialize().success  # as the sensor does once a day
    messages.cursor = None
    assert messages.new(days=1) == []


def refuse_creations(call: Call) -> Reply:
    error = {"error": {"message": NO_CREDIT, "code": "insufficient_quota"}}
    return Reply.of(error, 429) if call.creates_batch else call.forward()


def test_an_error_of_the_account_is_reported_once_for_all_days_and_without_secrets(
    tmp_path: Path,
    local_api: LocalApi,
    instance: dg.DagsterInstance,
    messages: Messages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    articles = [{**one, "title": "A hostile title @everyone"} for one in generated_articles(4, days=4)]
    source = write_articles(tmp_path / "articles.jsonl", articles)
    with proxy(local_api.url, with_api_name("local", refuse_creations)) as client:
        project = Project(tmp_path, local_api, instance, source, openai=api_at(str(client.base_url).rstrip("/")))
        project.materialize_days(DAYS[0], DAYS[2])
        [text] = messages.new()
        project.materialize(day="2026-01-08")
        messages.cursor = None
        assert messages.new(hours=1) == []
        project.materialize()
        assert messages.new(hours=2) == []
    assert "an error of the account, 3 days wait" in text
    assert "You exceeded your current quota" in text
    assert "Check the billing" in text
    assert "3 days wait: 2026-01-05 … 2026-01-07." in text
    assert "`batch-assets retry 2026-01-05`" in text
    for secret in (KEY, "hostile title", "harbour", "@everyone", "<!channel>", TOKEN):
        assert secret not in text
    project.openai = None
    project.materialize_days(DAYS[0], "2026-01-08")  # the user has paid
    assert messages.new(hours=3) == []
    with proxy(local_api.url, with_api_name("local", refuse_creations)) as client:
        more = write_articles(tmp_path / "more.jsonl", [{**one, "body": "Another."} for one in articles])
        url = str(client.base_url).rstrip("/")
        Project(tmp_path, local_api, instance, more, openai=api_at(url)).materialize()
        [again] = messages.new(hours=4)
    assert "an error of the account, 2026-01-05 waits" in again
    assert TOKEN not in kept_by_dagster(instance)


def test_a_file_that_openai_refuses_needs_the_user(
    tmp_path: Path, local_api: LocalApi, instance: dg.DagsterInstance, messages: Messages
) -> None:
    def refuse(call: Call) -> Reply:
        error = {"error": {"message": "The endpoint is not there.", "code": "invalid_endpoint"}}
        return Reply.of(error, 400) if call.creates_batch else call.forward()

    source = write_articles(tmp_path / "articles.jsonl", generated_articles(2))
    with proxy(local_api.url, with_api_name("local", refuse)) as client:
        project = Project(tmp_path, local_api, instance, source, openai=api_at(str(client.base_url).rstrip("/")))
        project.materialize()
    [text] = messages.new()
    assert text.startswith("batch_assets: 2026-01-05 needs you\n- OpenAI would not create a batch")
    assert "The endpoint is not there" in text


def test_a_backfill_is_one_message_when_its_last_day_is_done(
    tmp_path: Path, local_api: LocalApi, instance: dg.DagsterInstance, messages: Messages
) -> None:
    source = write_articles(tmp_path / "articles.jsonl", generated_articles(9, days=3))
    project = Project(tmp_path, local_api, instance, source)
    of_backfill: dict[str, Any] = {BACKFILL_TAG: "abcdefgh"}
    project.materialize_days(DAYS[0], DAYS[2], **of_backfill)
    project.wait_for_batches()
    project.materialize([summaries], DAYS[0])
    assert messages.new() == []
    assert "1 event for the next message" in messages.tick()
    project.materialize([summaries], DAYS[1])
    messages.cursor = None
    assert messages.new() == []
    project.materialize([summaries], DAYS[2])
    [text] = messages.new()
    assert "batch_assets: 3 days done\n3 days done: 2026-01-05 … 2026-01-07, 9 articles, 9 answered, $0.0" in text
    assert messages.new(hours=1) == []


def test_a_backfill_with_a_day_that_does_not_end_is_reported_after_some_hours(
    instance: dg.DagsterInstance, messages: Messages
) -> None:
    for day in DAYS[:2]:
        metadata: dict[str, Any] = {"batch_ids": dg.MetadataValue.json([f"batch_{day}"]), "backfill": "abcdefgh"}
        instance.report_runless_asset_event(dg.AssetMaterialization(openai_batch.key, partition=day, metadata=metadata))
    done(instance, DAYS[0])
    assert messages.new(hours=1) == []
    assert len(messages.new(hours=7)) == 1


def test_days_that_end_one_after_the_other_share_messages(instance: dg.DagsterInstance, messages: Messages) -> None:
    done(instance, DAYS[0])
    assert len(messages.new()) == 1
    done(instance, DAYS[1])
    done(instance, DAYS[2], failed=2, cost_usd=None)
    assert messages.new(minutes=5) == []
    [text] = messages.new(minutes=11)
    assert text == (
        "batch_assets: 2 days done, 2 articles failed\n"
        "2 days done: 2026-01-06, 2026-01-07, 18 articles, 16 answered, $0.00050, the cost of 1 day is not known.\n"
        "- 2026-01-07: 2 of 9 articles failed. `summaries.error_code` says why; `batch-assets retry 2026-01-07` sends "
        "them again."
    )


def test_a_url_that_does_not_answer_gets_the_message_later_and_once(
    instance: dg.DagsterInstance, messages: Messages
) -> None:
    messages.endpoint.status = 503
    done(instance, DAY)
    reason = messages.tick()
    assert "json://… (URL 1) did not accept a message: Failed to send JSON" in reason
    assert "json://… (URL 1) has not accepted 1 message yet; next attempt at" in reason
    assert TOKEN not in reason
    assert TOKEN not in kept_by_dagster(instance)
    messages.endpoint.status = 200
    assert messages.new() == []  # the pause is not over
    messages.cursor = None
    assert len(messages.new(minutes=2)) == 1
    assert messages.new(hours=2) == []


def test_a_url_that_fails_repeats_nothing_at_the_others(instance: dg.DagsterInstance, messages: Messages) -> None:
    messages.urls = ("json://127.0.0.1:9/", *messages.urls)
    done(instance, DAY)
    assert len(messages.new()) == 1
    assert "json://… (URL 1) has not accepted 1 message yet" in messages.tick(hours=1)
    assert len(messages.endpoint.received) == 1


def test_a_url_that_never_answers_is_given_up_after_a_day(instance: dg.DagsterInstance, messages: Messages) -> None:
    messages.endpoint.status = 503
    done(instance, DAY)
    messages.tick()
    assert "has not accepted 1 message yet" in messages.tick(hours=23)
    assert "Given up after 3 attempts: batch_assets: 2026-01-05 done." in messages.tick(hours=25)
    messages.endpoint.status = 200
    assert messages.new(hours=48) == []


def test_a_message_whose_process_was_killed_before_its_record_is_sent_again(
    instance: dg.DagsterInstance, messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    done(instance, DAY)
    with monkeypatch.context() as patched:
        patched.setattr(sensor, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            messages.tick()
    assert len(messages.new()) == 1
    assert len(messages.endpoint.received) == 2
    assert messages.new() == []


def test_problems_of_the_other_sensor_are_one_message_and_reported_once(
    instance: dg.DagsterInstance, messages: Messages, local_api: LocalApi
) -> None:
    for day in DAYS:
        submitted(instance, f"batch_{day}", day=day)

    def tick_and_report(cursor: str | None) -> str | None:
        result = tick_of_batches(instance, local_api.url, cursor)
        for event in result.asset_events:
            instance.report_runless_asset_event(event)
        return result.cursor

    submitted(instance, day="2026-01-08")
    for _ in range(MAX_ATTEMPTS):
        a_run(instance, ready_day(instance, "2026-01-08").dedup_key, dg.DagsterRunStatus.FAILURE)
    cursor = tick_and_report(None)
    [text] = messages.new()
    assert "- 2026-01-08: 5 runs of `summaries` failed, the last is" in text
    assert text.startswith("batch_assets: 4 days need you\n- The API does not find batch_2026-01-05 of 2026-01-05")
    assert "Which organization and project does OPENAI_API_KEY belong to?" in text
    for of_batches in (cursor, None):  # with its memory, and after it was lost
        tick_and_report(of_batches)
        messages.cursor = None
        assert messages.new(hours=1) == []


def test_missing_results_need_the_user_and_pending_requests_do_not(
    instance: dg.DagsterInstance, messages: Messages
) -> None:
    collected(instance, pending=3)
    metadata = {"requests_blocked": 2}
    instance.report_runless_asset_event(dg.AssetMaterialization(summaries.key, partition=DAYS[1], metadata=metadata))
    [text] = messages.new()
    assert text == (
        "batch_assets: 2026-01-06 needs you\n- 2026-01-06: the results of 2 requests are missing, and may be billed. "
        "`batch-assets retry 2026-01-06` buys them again."
    )


def test_a_message_names_twenty_days_and_counts_the_others() -> None:
    news = [
        News(Kind.PROBLEM, TaskDay("keywords", day), number, datetime.now(UTC), f"{day} has a problem.")
        for number, day in enumerate(days_from("2026-03-01", 34))
    ]
    message = message_of(Kind.PROBLEM, news, "ours")
    assert message.title == "ours: 34 days need you"
    assert message.body.endswith("- 2026-03-20 has a problem.\nand 14 more")
    account = message_of(Kind.ACCOUNT, [replace(one, kind=Kind.ACCOUNT) for one in news], "ours")
    assert "34 days wait: 2026-03-01 … 2026-04-03 of keywords." in account.body
    assert "`batch-assets retry 2026-03-01 --task keywords`" in account.body


def test_the_messages_are_in_dagsters_event_log(instance: dg.DagsterInstance, messages: Messages) -> None:
    done(instance, DAY)
    messages.tick()
    [newest] = instance.fetch_observations(MESSAGES, limit=1).records
    observation = newest.event_log_entry.asset_observation
    assert observation is not None
    assert observation.metadata["text"].value == messages.endpoint.texts[0]
