"""Polling needs few calls for many batches, and one failing batch does not hide the others."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import openai
import pytest

from batch_assets.batching.provider.batches import MISSING, RemoteBatch
from batch_assets.batching.provider.polling import PollCursor, PollResult, poll_batches
from batch_assets_tests.batching.conftest import Call, Reply, make_batches, proxy
from batch_assets_tests.local_api_client import LocalApi

NOW = datetime.now(UTC).replace(tzinfo=None)
RECENTLY, LATER = NOW - timedelta(hours=1), NOW + timedelta(days=1)


def soon() -> float:
    return time.monotonic() + 30


def progress(batch: RemoteBatch) -> tuple[str, str, int | None, int | None, int | None]:
    return batch.id, batch.status, batch.total, batch.completed, batch.failed


class Recorder:
    """Forwards each call and records its path; `failing` maps a part of a path to the status of an error."""

    def __init__(self, failing: dict[str, int] | None = None) -> None:
        self.failing = failing or {}
        self.paths: list[str] = []

    def __call__(self, call: Call) -> Reply:
        self.paths.append(call.path)
        for part, status in self.failing.items():
            if part in call.path:
                return Reply.of({"error": {"message": "No."}}, status)
        return call.forward()


def test_one_call_lists_all_batches(api: LocalApi) -> None:
    made = make_batches(api, 5)
    recorder = Recorder()
    with proxy(api.url, recorder) as client:
        seen = poll_batches(client, [made[1:]], since=RECENTLY, deadline=soon()).batches
    assert {name: progress(batch) for name, batch in seen.items()} == {
        batch_id: (batch_id, "completed", 1, 1, 0) for batch_id in made[1:]
    }
    assert all(batch.has_ended for batch in seen.values())
    assert len(recorder.paths) == 1


def test_batches_that_are_not_listed_are_retrieved_singly(api: LocalApi) -> None:
    made = make_batches(api, 3)
    recorder = Recorder()
    with proxy(api.url, recorder) as client:
        seen = poll_batches(client, [made], since=LATER, deadline=soon()).batches
    assert seen.keys() == set(made)
    assert sorted(recorder.paths[1:]) == sorted(f"/v1/batches/{batch_id}" for batch_id in made)


def test_a_batch_that_openai_does_not_know_is_missing(api: LocalApi) -> None:
    (made,) = make_batches(api, 1)
    seen = poll_batches(api.client, [["batch_forgotten", made]], since=LATER, deadline=soon()).batches
    assert seen["batch_forgotten"] == RemoteBatch("batch_forgotten", MISSING)
    assert not seen["batch_forgotten"].has_ended
    assert seen[made].status == "completed"


@pytest.mark.parametrize("status", [400, 500])
def test_a_batch_that_cannot_be_retrieved_hides_no_other(api: LocalApi, status: int) -> None:
    made = make_batches(api, 3)
    bad = sorted(made)[0]
    with proxy(api.url, Recorder({bad: status})) as client:
        assert poll_batches(client, [made], since=LATER, deadline=soon()).batches.keys() == set(made) - {bad}


def test_a_failing_list_raises(api: LocalApi) -> None:
    with proxy(api.url, Recorder({"/v1/batches?": 500})) as client, pytest.raises(openai.InternalServerError):
        poll_batches(client, [["batch_x"]], since=RECENTLY, deadline=soon())


class Listing:
    """An API with these batches, the newest first, whose clock advances by `seconds` with each call; counts calls."""

    def __init__(self, batch_ids: list[str], monkeypatch: pytest.MonkeyPatch, *, seconds: float = 2.0) -> None:
        self.batch_ids, self.ended, self.calls, self.now, self.seconds = batch_ids, set[str](), 0, 0.0, seconds
        self.ended_when_retrieved, self.lists = set[str](), True
        monkeypatch.setattr("batch_assets.batching.provider.polling.time", SimpleNamespace(monotonic=lambda: self.now))

    def __call__(self, call: Call) -> Reply:
        self.calls += 1
        self.now += self.seconds
        url = urlsplit(call.path)
        if not url.path.endswith("/batches"):
            name = url.path.rsplit("/", 1)[1]
            self.ended |= self.ended_when_retrieved & {name}
            return Reply.of(self.batch(name))
        if not self.lists:
            return Reply.of({"error": {"message": "Method not allowed."}}, 405)
        after = parse_qs(url.query).get("after")
        if after and after[0] not in self.batch_ids:
            return Reply.of({"error": {"message": "No such batch."}}, 404)
        start = self.batch_ids.index(after[0]) + 1 if after else 0
        page = self.batch_ids[start : start + 100]
        has_more = start + 100 < len(self.batch_ids)
        return Reply.of({"object": "list", "data": [self.batch(name) for name in page], "has_more": has_more})

    def batch(self, name: str) -> dict[str, object]:
        status = "completed" if name in self.ended else "in_progress"
        return {"id": name, "object": "batch", "status": status, "created_at": int(time.time())}


def complete_days(days: list[list[str]], seen: PollResult) -> set[int]:
    return {number for number, day in enumerate(days) if all(batch_id in seen.batches for batch_id in day)}


def days_of_batches(days: int, shards: int) -> list[list[str]]:
    return [[f"batch_{day}_{shard}" for shard in range(shards)] for day in range(days)]


def test_a_thousand_days_take_ten_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    days = days_of_batches(1000, 1)
    listing = Listing([name for day in days for name in day][::-1], monkeypatch)
    with proxy("", listing) as client:
        seen = poll_batches(client, days, since=RECENTLY, deadline=40.0)
    assert len(complete_days(days, seen)) == 1000
    assert listing.calls == 10
    assert seen.cursor == PollCursor()


@pytest.mark.parametrize("keeps_cursor", [True, False])
def test_the_next_poll_continues_where_a_slow_api_stopped_it(
    monkeypatch: pytest.MonkeyPatch, keeps_cursor: bool
) -> None:
    """Two seconds a call: a tick sees two thirds of a thousand days at most, and the next the others."""
    days = days_of_batches(1000, 3)
    listing = Listing([name for day in days for name in day][::-1], monkeypatch)
    complete: set[int] = set()
    cursor = None
    with proxy("", listing) as client:
        for _ in range(4):
            start = listing.now
            seen = poll_batches(client, days, since=RECENTLY, deadline=start + 40.0, cursor=cursor)
            assert listing.now <= start + 44
            complete |= complete_days(days, seen)
            cursor = seen.cursor if keeps_cursor else None
    assert len(complete) == 1000 if keeps_cursor else 400 < len(complete) < 1000


def test_without_a_list_the_polls_retrieve_all_batches_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    days = days_of_batches(40, 3)
    listing = Listing([], monkeypatch)
    complete: set[int] = set()
    cursor = None
    with proxy("", listing) as client:
        for _ in range(9):
            seen = poll_batches(client, days, since=RECENTLY, deadline=listing.now + 40.0, cursor=cursor)
            complete |= complete_days(days, seen)
            cursor = seen.cursor
    assert len(complete) > 30


def test_a_day_whose_batches_are_far_apart_in_the_list_is_completed_singly(monkeypatch: pytest.MonkeyPatch) -> None:
    days = [["newest", "oldest"], *days_of_batches(1500, 1)]
    listing = Listing(["newest", *[name for day in days[1:] for name in day], "oldest"], monkeypatch, seconds=4.0)
    listing.ended = {"newest", "oldest"}
    with proxy("", listing) as client:
        seen = poll_batches(client, days, since=RECENTLY, deadline=40.0)
    assert 0 in complete_days(days, seen)


def test_a_cursor_whose_batch_no_longer_exists_starts_the_list_again(monkeypatch: pytest.MonkeyPatch) -> None:
    days = days_of_batches(3, 2)
    listing = Listing([name for day in days for name in day], monkeypatch)
    with proxy("", listing) as client:
        seen = poll_batches(client, days, since=RECENTLY, deadline=40.0, cursor=PollCursor("batch_gone", "batch_gone"))
    assert len(complete_days(days, seen)) == 3


@pytest.mark.parametrize("status", [401, 429, 500])
def test_a_refused_list_is_not_read_again(api: LocalApi, status: int) -> None:
    recorder = Recorder({"/v1/batches?": status})
    with proxy(api.url, recorder) as client, pytest.raises(openai.APIStatusError):
        poll_batches(client, [["batch_x"]], since=RECENTLY, deadline=soon(), cursor=PollCursor("batch_y"))
    assert len(recorder.paths) == 1


@pytest.mark.parametrize("hangs", ["list", "batch"])
def test_a_poll_ends_although_the_server_never_answers(api: LocalApi, hangs: str) -> None:
    (made,) = make_batches(api, 1)
    over = threading.Event()

    def answer(call: Call) -> Reply:
        if call.lists_batches is (hangs == "list"):
            over.wait(60)
        return call.forward()

    cursor = PollCursor("batch_y", "batch_z")
    with proxy(api.url, answer) as client:
        if hangs == "list":
            with pytest.raises(openai.OpenAIError, match="too long"):
                poll_batches(client, [[made]], since=RECENTLY, deadline=time.monotonic(), cursor=cursor)
        else:
            seen = poll_batches(client, [[made, "lost"]], since=RECENTLY, deadline=time.monotonic() + 1, cursor=cursor)
            assert (set(seen.batches), seen.cursor) == ({made}, cursor)
        over.set()


def test_a_batch_with_an_unknown_status_counts_as_running(api: LocalApi) -> None:
    (made,) = make_batches(api, 1)

    def answer(call: Call) -> Reply:
        batch = call.forward().json
        if "data" in batch:
            return Reply.of({**batch, "data": []})
        return Reply.of({**batch, "status": "Paused", "request_counts": None})

    with proxy(api.url, answer) as client:
        seen = poll_batches(client, [[made]], since=RECENTLY, deadline=soon()).batches
    assert progress(seen[made]) == (made, "paused", None, None, None)
    assert not seen[made].has_ended


@pytest.mark.parametrize("status", [404, 405, 501])
def test_an_api_without_a_list_is_asked_for_each_batch(api: LocalApi, status: int) -> None:
    made = make_batches(api, 3)
    recorder = Recorder({"/v1/batches?": status})
    with proxy(api.url, recorder) as client:
        seen = poll_batches(client, [made], since=RECENTLY, deadline=soon())
    assert {name: batch.status for name, batch in seen.batches.items()} == dict.fromkeys(made, "completed")
    assert seen.api is not None  # otherwise the sensor could not tell whose batches these are
    assert len(recorder.paths) == 4


def test_an_api_that_stops_listing_while_a_cursor_points_into_its_list_is_asked_for_each_batch(api: LocalApi) -> None:
    made = make_batches(api, 2)
    with proxy(api.url, Recorder({"/v1/batches?": 405})) as client:
        seen = poll_batches(client, [made], since=RECENTLY, deadline=soon(), cursor=PollCursor("batch_y"))
    assert seen.batches.keys() == set(made)
    assert seen.cursor == PollCursor()


def test_a_slow_api_without_a_list_is_asked_for_all_batches_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    days = days_of_batches(40, 1)
    listing = Listing([], monkeypatch)
    listing.lists = False
    complete: set[int] = set()
    cursor = None
    with proxy("", listing) as client:
        for _ in range(3):
            start = listing.now
            seen = poll_batches(client, days, since=RECENTLY, deadline=start + 40.0, cursor=cursor)
            assert listing.now <= start + 44
            complete |= complete_days(days, seen)
            cursor = seen.cursor
    assert len(complete) == 40


def test_a_batch_to_check_again_is_retrieved_although_it_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some servers advance a batch only when a client retrieves it."""
    days = days_of_batches(3, 1)
    listing = Listing([name for day in days for name in day], monkeypatch)
    listing.ended_when_retrieved = {"batch_1_0"}
    with proxy("", listing) as client:
        assert poll_batches(client, days, since=RECENTLY, deadline=40.0).batches["batch_1_0"].status == "in_progress"
        seen = poll_batches(client, days, since=RECENTLY, deadline=80.0, check_again=["batch_1_0"])
    assert seen.batches["batch_1_0"].status == "completed"
    assert seen.checked_again == {"batch_1_0"}
    assert listing.calls == 3


def test_a_batch_that_has_ended_is_not_retrieved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = Listing(["batch_a"], monkeypatch)
    listing.ended = {"batch_a"}
    with proxy("", listing) as client:
        seen = poll_batches(client, [["batch_a"]], since=RECENTLY, deadline=40.0, check_again=["batch_a"])
    assert seen.checked_again == {"batch_a"}
    assert listing.calls == 1


@pytest.mark.parametrize("status", [404, 405, 500])
def test_a_listed_batch_stays_as_listed_if_it_cannot_be_retrieved(api: LocalApi, status: int) -> None:
    (made,) = make_batches(api, 1)

    def answer(call: Call) -> Reply:
        if not call.lists_batches:
            return Reply.of({"error": {"message": "No."}}, status)
        page = call.forward().json
        for batch in page["data"]:
            batch["status"] = "in_progress"
        return Reply.of(page)

    with proxy(api.url, answer) as client:
        seen = poll_batches(client, [[made]], since=RECENTLY, deadline=soon(), check_again=[made])
    assert seen.batches[made].status == "in_progress"
    assert seen.checked_again == {made}


def test_a_batch_is_checked_again_in_a_later_poll_if_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = Listing(["batch_a", "batch_b"], monkeypatch, seconds=30.0)
    with proxy("", listing) as client:
        seen = poll_batches(
            client, [["batch_a", "batch_b"]], since=RECENTLY, deadline=40.0, check_again=["batch_a", "batch_b"]
        )
    assert seen.checked_again == {"batch_a"}


def test_an_address_that_finds_nothing_at_all_does_not_make_the_batches_missing(api: LocalApi) -> None:
    with proxy(api.url, Recorder({"/v1/batches": 404})) as client, pytest.raises(openai.NotFoundError):
        poll_batches(client, [["batch_x", "batch_y"]], since=RECENTLY, deadline=soon())


def test_without_a_list_a_batch_that_the_api_does_not_know_is_missing(api: LocalApi) -> None:
    with proxy(api.url, Recorder({"/v1/batches?": 405})) as client:
        seen = poll_batches(client, [["batch_x"]], since=RECENTLY, deadline=soon())
    assert seen.batches["batch_x"].status == MISSING
