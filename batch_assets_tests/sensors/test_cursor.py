"""A lost cursor delays a day, and never loses one. A tick reads only the new events of collected days."""

from collections.abc import Iterator

import dagster as dg
import pytest

from batch_assets import days
from batch_assets.day_events import DayEvent, read_events
from batch_assets.days import CollectedDays, read_new_days
from batch_assets_tests.first_task import summaries
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import DAY
from batch_assets_tests.sensors.support import NEXT_DAY, a_batch, collected, requested, submitted, tick


@pytest.mark.parametrize("cursor", ["", "[]", "{}", '{"shown": {}, "poll": {}}', '{"days": 1}', "null"])
def test_a_cursor_that_cannot_be_read_is_replaced(
    instance: dg.DagsterInstance, local_api: LocalApi, cursor: str
) -> None:
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)
    assert requested(tick(instance, local_api.url, cursor)) == [(DAY, [summaries.key])]


def test_the_cursor_holds_only_days_in_flight(instance: dg.DagsterInstance, local_api: LocalApi) -> None:
    empty = tick(instance, local_api.url)
    submitted(instance, batch := a_batch(local_api))
    local_api.wait(batch)
    full = tick(instance, local_api.url, empty.cursor)
    collected(instance)
    after = tick(instance, local_api.url, full.cursor)
    assert DAY in str(full.cursor)
    assert DAY not in str(after.cursor)


def in_pages(instance: dg.DagsterInstance, page: int, known: CollectedDays) -> tuple[list[list[str]], CollectedDays]:
    """The days that each tick finds, until all events are read."""
    found: list[list[str]] = []
    while True:
        read = read_new_days(instance, "batch_assets", known, limit=page)
        found.append(sorted(day.day for day in read.days))
        known = read.collected
        if not read.unread:
            return found, known


def many_collected_days(instance: dg.DagsterInstance) -> None:
    """Ten days, the third and the ninth with pending requests."""
    for number in range(10):
        submitted(instance, day=f"2026-02-{number + 1:02d}")
        collected(instance, day=f"2026-02-{number + 1:02d}", pending=number in (2, 8))


@pytest.fixture
def without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_assets.days.OVERLAP", 0)


@pytest.mark.usefixtures("without_overlap")
def test_after_a_lost_cursor_the_collected_days_are_read_in_several_ticks(instance: dg.DagsterInstance) -> None:
    many_collected_days(instance)
    submitted(instance, day="2026-01-01")
    found, _ = in_pages(instance, 4, CollectedDays())
    assert found == [
        ["2026-01-01", "2026-02-03"],
        ["2026-01-01", "2026-02-03"],
        ["2026-01-01", "2026-02-03", "2026-02-09"],
    ]


@pytest.mark.usefixtures("without_overlap")
def test_a_day_with_pending_requests_is_remembered_until_it_is_submitted_again(instance: dg.DagsterInstance) -> None:
    many_collected_days(instance)
    _, known = in_pages(instance, 100, CollectedDays())
    found, known = in_pages(instance, 100, known)
    assert found == [["2026-02-03", "2026-02-09"]]
    submitted(instance, day="2026-02-03")
    collected(instance, day="2026-02-03")
    found, known = in_pages(instance, 100, known)
    assert found == [["2026-02-09"]]
    assert known.pending == ("2026-02-09",)


@pytest.mark.usefixtures("without_overlap")
def test_events_that_were_read_are_not_read_again(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_collected_days(instance)
    _, known = in_pages(instance, 100, CollectedDays())
    numbers: list[int] = []

    def counting(instance: dg.DagsterInstance, key: dg.AssetKey, storage_ids: list[int]) -> Iterator[DayEvent]:
        numbers.append(len(storage_ids))
        return read_events(instance, key, storage_ids)

    monkeypatch.setattr(days, "read_events", counting)
    in_pages(instance, 100, known)
    assert sum(numbers) == 2  # the days with pending requests


def test_an_event_that_becomes_visible_late_is_read(instance: dg.DagsterInstance) -> None:
    """Another process wrote it before the newest one that was read, and committed it later."""
    submitted(instance)
    collected(instance, pending=3)
    submitted(instance, day=NEXT_DAY)
    collected(instance, day=NEXT_DAY)
    newest = max(record.storage_id for record in instance.fetch_materializations(summaries.key, limit=10).records)
    known = CollectedDays(read_up_to=newest)
    assert [one.day for one in read_new_days(instance, "batch_assets", known).days] == [DAY]


def test_a_cursor_of_an_event_log_that_was_deleted_is_read_again_from_the_start(instance: dg.DagsterInstance) -> None:
    """The storage ids of the new log are lower than the cursor's. Dagster keeps cursors in another database."""
    many_collected_days(instance)
    found, known = in_pages(instance, 100, CollectedDays(read_up_to=1_000_000))
    assert found == [["2026-02-03", "2026-02-09"]]
    assert known.read_up_to < 1_000_000


def test_a_lost_cursor_with_many_collected_days_says_how_many_are_unread(
    instance: dg.DagsterInstance, local_api: LocalApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        submitted(instance, day=f"2026-02-0{number + 1}")
        collected(instance, day=f"2026-02-0{number + 1}")
    monkeypatch.setattr("batch_assets.sensors.EVENTS_PER_TICK", 2)
    monkeypatch.setattr("batch_assets.days.OVERLAP", 0)
    first = tick(instance, local_api.url)
    assert "1 collected day is not read yet" in str(first.skip_reason)
    assert "not read yet" not in str(tick(instance, local_api.url, first.cursor).skip_reason)
