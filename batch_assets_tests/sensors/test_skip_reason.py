"""What the sensor tells the user: which days wait, for what and since when, and what to do."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from batch_assets.batching.next_step import Day
from batch_assets.batching.provider.batches import RemoteBatch
from batch_assets.batching.waiting import late_batches
from batch_assets_tests.batching.conftest import Call, Reply, proxy, still_running
from batch_assets_tests.first_task import openai_batch
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY
from batch_assets_tests.sensors.support import (
    TIMING,
    a_batch,
    a_run,
    collected,
    later,
    ready_day,
    reason_of,
    submitted,
    tick,
)


def test_the_skip_reason_says_which_days_wait_for_what_and_since_when(
    instance: dg.DagsterInstance, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, other = a_batch(local_api), a_batch(local_api)
    local_api.wait(running)
    local_api.wait(other)
    moment = datetime.now(UTC)
    submitted(instance, running, day="2026-01-05")
    submitted(instance, day="2026-01-07")
    collected(instance, day="2026-01-07", pending=3, next_attempt_at=moment + timedelta(days=3))
    submitted(instance, other, day="2026-01-06", waiting=2, next_attempt_at=moment + timedelta(days=2))
    with proxy(local_api.url, still_running) as client:
        reason = reason_of(instance, str(client.base_url))
    assert "3 days wait." in reason
    assert re.search(r"2026-01-05: 0 of 1 batch ended, \d of 1 request done, since \d\d:\d\d UTC\.", reason)
    next_attempt = f"{moment + timedelta(days=2):%Y-%m-%d %H:%M} UTC"
    assert re.search(
        rf"2026-01-06: 2 files deferred since \d\d:\d\d UTC \(no capacity\), next attempt at {next_attempt}\.", reason
    )
    assert f"next round at {moment + timedelta(days=3):%Y-%m-%d %H:%M} UTC" in reason


def test_the_skip_reason_names_the_error_of_the_account(instance: dg.DagsterInstance, local_api: LocalApi) -> None:
    metadata: dict[str, Any] = {
        "batch_ids": dg.MetadataValue.json([]),
        "deferred_files": 1,
        "error": "Billing hard limit has been reached. " + "Check the billing. " * 30,
        "next_attempt_at": dg.MetadataValue.timestamp(datetime.now(UTC) + timedelta(hours=1)),
    }
    instance.report_runless_asset_event(dg.AssetMaterialization(openai_batch.key, partition=DAY, metadata=metadata))
    reason = reason_of(instance, local_api.url)
    assert "(Billing hard limit has been reached." in reason
    assert len(reason) < 600


def test_the_skip_reason_of_many_days_is_short_and_counts_the_others(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    for number in range(30):
        submitted(instance, f"batch_{number:032d}", day=f"2026-03-{number + 1:02d}")
    reason = reason_of(instance, local_api.url)
    assert len(reason) <= 600
    assert "30 days wait." in reason
    assert "does not find batch_00000000000000000000000000000000 of 2026-03-01" in reason
    shown = len(set(re.findall(r"2026-03-\d\d", reason)))
    assert f"And {30 - shown} more days." in reason


def test_an_api_that_is_down_still_names_the_days(instance: dg.DagsterInstance) -> None:
    submitted(instance, "batch_1", "batch_2")
    reason = reason_of(instance, "http://127.0.0.1:9/v1")
    assert re.search(rf"{DAY}: the state of 2 batches is not known, since \d\d:\d\d UTC", reason)


def test_a_day_whose_run_is_in_progress_says_so(instance: dg.DagsterInstance, local_api: LocalApi) -> None:
    submitted(instance)
    a_run(instance, ready_day(instance).dedup_key, dg.DagsterRunStatus.STARTED)
    assert f"{DAY}: a run of `summaries` is in progress." in reason_of(instance, local_api.url)


def test_a_missing_batch_is_named_with_the_account_as_the_likely_cause(
    instance: dg.DagsterInstance, local_api: LocalApi
) -> None:
    missing = "batch_" + "0" * 32
    submitted(instance, missing)
    result = tick(instance, local_api.url)
    assert not result.run_requests
    assert f"does not find {missing} of {DAY} with the present key" in str(result.skip_reason)
    assert "Which organization and project does OPENAI_API_KEY belong to?" in str(result.skip_reason)


@pytest.mark.parametrize(
    ("status", "hours", "warns"),
    [
        ("in_progress", 24, False),
        ("in_progress", 26, True),
        ("validating", 100, True),
        ("finalizing", 1, False),
        ("finalizing", 4, True),
        ("cancelling", 4, True),
        ("paused", 1, False),
        ("paused", 4, True),
    ],
)
def test_a_batch_that_is_late_or_stuck_is_named_with_its_age_and_the_commands(
    instance: dg.DagsterInstance,
    local_api: LocalApi,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    status: str,
    hours: int,
    warns: bool,
) -> None:
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)

    def stuck(call: Call) -> Reply:
        shown = call.forward().json
        for one in shown.get("data", [shown]):
            one.update(status=status, completed_at=None, output_file_id=None)
        return Reply.of(shown)

    with proxy(local_api.url, stuck) as client:
        cursor = tick(instance, str(client.base_url)).cursor
        later(monkeypatch, hours=hours)
        result = tick(instance, str(client.base_url), cursor)
        again = tick(instance, str(client.base_url), result.cursor)  # after it was retrieved, too
    for reason in (str(result.skip_reason), str(again.skip_reason)):
        assert (f"`batch-assets abandon {batch}`" in reason) is warns
        assert (f"`batch-assets cancel {DAY}`" in reason) is warns
        age = f"{hours // 24} days" if hours >= 48 else f"{hours} hours"
        assert (f"{batch} of {DAY}, created {age} ago, is" in reason) is warns
        assert status in reason or not warns
    assert ("batch-assets abandon" in capfd.readouterr().err) is warns


def test_a_hostile_batch_id_is_no_command(instance: dg.DagsterInstance) -> None:
    day = Day(DAY, 1, datetime.now(UTC), batch_ids=("x`; rm -rf ~ #\n",))
    seen = {day.batch_ids[0]: RemoteBatch(day.batch_ids[0], "in_progress")}
    [late] = late_batches([day], seen, {}, datetime.now(UTC) + timedelta(days=2), TIMING).values()
    assert "batch-assets abandon 'x" in late.sentence
    assert "\n" not in late.sentence


def test_a_batch_id_with_a_leading_dash_is_no_option_of_the_command() -> None:
    seen = {"-x": RemoteBatch("-x", "in_progress")}
    day = Day(DAY, 1, datetime.now(UTC), batch_ids=("-x",))
    [late] = late_batches([day], seen, {}, datetime.now(UTC) + timedelta(days=2), TIMING).values()
    assert "`batch-assets abandon -- -x`" in late.sentence
