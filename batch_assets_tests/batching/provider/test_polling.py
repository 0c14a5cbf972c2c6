"""Guards against a sensor that costs a call per batch, or that one bad batch can blind."""

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
from batch_assets_tests.batching.conftest import Call, Reply, proxy
from batch_assets_tests.local_api_client import LocalApi

NOW = datetime.now(UTC).replace(tzinfo=None)
RECENTLY, LATER = NOW - timedelta(hours=1), NOW + timedelta(days=1)


def soon() -> float:
    return time.monotonic() + 30


def make_batches(api: LocalApi, count: int) -> list[str]:
    line = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": '
    line += b'{"model": "gpt-4.1-nano", "messages": [{"role": "user", "content": "Text."}]}}\n'
    file_id = api.client.files.create(file=("a.jsonl", line), purpose="batch").id
    made = [
        api.client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h").id
        for _ in range(count)
    ]
    for batch_id in made:
        api.wait(batch_id)
    return made


def progress(batch: RemoteBatch) -> tuple[str, str, int | None, int | None, int | None]:
    return batch.id, batch.status, batch.total, batch.completed, batch.failed


class Recorder:
    """Forwards, and remembers what was asked for; `failing` maps a part of a path to a status."""

    def __init__(self, failing: dict[str, int] | None = None) -> None:
        self.failing = failing or {}
        self.paths: list[str] = []

    def __call__(self, call: Call) -> Reply:
        self.paths.append(call.path)
        for part, status in self.failing.items():
            if part in call.path:
                return Reply.of({"error": {"message": "No."}}, status)
        return call.forward()


def test_one_list_shows_all(api: LocalApi) -> None:
    made = make_batches(api, 5)
    recorder = Recorder()
    with proxy(api.url, recorder) as client:
        seen = poll_batches(client, [made[1:]], since=RECENTLY, deadline=soon()).batches
    assert {name: progress(batch) for name, batch in seen.items()} == {
        batch_id: (batch_id, "completed", 1, 1, 0) for batch_id in made[1:]
    }
    assert all(batch.has_ended for batch in seen.values())
    assert len(recorder.paths) == 1


def test_what_the_list_does_not_show_is_asked_for_singly(api: LocalApi) -> None:
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
def test_one_that_cannot_be_had_hides_no_other(api: LocalApi, status: int) -> None:
    made = make_batches(api, 3)
    bad = sorted(made)[0]
    with proxy(api.url, Recorder({bad: status})) as client:
        assert poll_batches(client, [made], since=LATER, deadline=soon()).batches.keys() == set(made) - {bad}


def test_without_a_list_the_caller_is_told(api: LocalApi) -> None:
    with proxy(api.url, Recorder({"/v1/batches?": 500})) as client, pytest.raises(openai.InternalServerError):
        poll_batches(client, [["batch_x"]], since=RECENTLY, deadline=soon())


class Listing:
    """An API with these batches, the newest first, whose clock goes on by `seconds` at each call; counts calls."""

    def __init__(self, batch_ids: list[str], monkeypatch: pytest.MonkeyPatch, *, seconds: float = 2.0) -> None:
        self.batch_ids, self.ended, self.calls, self.now, self.seconds = batch_ids, set[str](), 0, 0.0, seconds
        monkeypatch.setattr("batch_assets.batching.provider.polling.time", SimpleNamespace(monotonic=lambda: self.now))

    def __call__(self, call: Call) -> Reply:
        self.calls += 1
        self.now += self.seconds
        url = urlsplit(call.path)
        if not url.path.endswith("/batches"):
            return Reply.of(self.batch(url.path.rsplit("/", 1)[1]))
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


@pytest.mark.parametrize("keeps_its_place", [True, False])
def test_a_slow_api_is_gone_on_with_where_the_time_was_up(
    monkeypatch: pytest.MonkeyPatch, keeps_its_place: bool
) -> None:
    """Two seconds a call: a tick sees two thirds of a thousand days at most, and the next the others."""
    days = days_of_batches(1000, 3)
    listing = Listing([name for day in days for name in day][::-1], monkeypatch)
    looked_up: set[int] = set()
    place = None
    with proxy("", listing) as client:
        for _ in range(4):
            start = listing.now
            seen = poll_batches(client, days, since=RECENTLY, deadline=start + 40.0, cursor=place)
            assert listing.now <= start + 44
            looked_up |= complete_days(days, seen)
            place = seen.cursor if keeps_its_place else None
    assert len(looked_up) == 1000 if keeps_its_place else 400 < len(looked_up) < 1000


def test_without_a_list_each_batch_gets_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    days = days_of_batches(40, 3)
    listing = Listing([], monkeypatch)
    looked_up: set[int] = set()
    place = None
    with proxy("", listing) as client:
        for _ in range(9):
            seen = poll_batches(client, days, since=RECENTLY, deadline=listing.now + 40.0, cursor=place)
            looked_up |= complete_days(days, seen)
            place = seen.cursor
    assert len(looked_up) > 30


def test_a_day_whose_batches_lie_far_apart_is_completed_singly(monkeypatch: pytest.MonkeyPatch) -> None:
    days = [["newest", "oldest"], *days_of_batches(1500, 1)]
    listing = Listing(["newest", *[name for day in days[1:] for name in day], "oldest"], monkeypatch, seconds=4.0)
    listing.ended = {"newest", "oldest"}
    with proxy("", listing) as client:
        seen = poll_batches(client, days, since=RECENTLY, deadline=40.0)
    assert 0 in complete_days(days, seen)


def test_a_place_that_is_gone_means_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    days = days_of_batches(3, 2)
    listing = Listing([name for day in days for name in day], monkeypatch)
    with proxy("", listing) as client:
        seen = poll_batches(client, days, since=RECENTLY, deadline=40.0, cursor=PollCursor("batch_gone", "batch_gone"))
    assert len(complete_days(days, seen)) == 3


@pytest.mark.parametrize("status", [401, 429, 500])
def test_a_list_that_is_refused_is_not_begun_again(api: LocalApi, status: int) -> None:
    recorder = Recorder({"/v1/batches?": status})
    with proxy(api.url, recorder) as client, pytest.raises(openai.APIStatusError):
        poll_batches(client, [["batch_x"]], since=RECENTLY, deadline=soon(), cursor=PollCursor("batch_y"))
    assert len(recorder.paths) == 1


@pytest.mark.parametrize("hangs", ["list", "batch"])
def test_a_server_that_never_answers_is_left(api: LocalApi, hangs: str) -> None:
    (made,) = make_batches(api, 1)
    over = threading.Event()

    def answer(call: Call) -> Reply:
        if call.lists_batches is (hangs == "list"):
            over.wait(60)
        return call.forward()

    place = PollCursor("batch_y", "batch_z")
    with proxy(api.url, answer) as client:
        if hangs == "list":
            with pytest.raises(openai.OpenAIError, match="too long"):
                poll_batches(client, [[made]], since=RECENTLY, deadline=time.monotonic(), cursor=place)
        else:
            seen = poll_batches(client, [[made, "lost"]], since=RECENTLY, deadline=time.monotonic() + 1, cursor=place)
            assert (set(seen.batches), seen.cursor) == ({made}, place)
        over.set()


def test_an_unknown_status_is_a_running_one(api: LocalApi) -> None:
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
