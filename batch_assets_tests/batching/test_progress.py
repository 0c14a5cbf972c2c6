"""Guards against a sensor that costs a call per batch, or that one bad batch can blind."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import openai
import pytest

from batch_assets.batching.progress import look_up
from batch_assets.batching.remote import VANISHED, RemoteBatch
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
        seen = look_up(client, made[1:], since=RECENTLY, deadline=soon())
    assert {name: progress(batch) for name, batch in seen.items()} == {
        batch_id: (batch_id, "completed", 1, 1, 0) for batch_id in made[1:]
    }
    assert all(batch.has_ended for batch in seen.values())
    assert len(recorder.paths) == 1


def test_what_the_list_does_not_show_is_asked_for_singly(api: LocalApi) -> None:
    made = make_batches(api, 3)
    recorder = Recorder()
    with proxy(api.url, recorder) as client:
        seen = look_up(client, made, since=LATER, deadline=soon())
    assert seen.keys() == set(made)
    assert sorted(recorder.paths[1:]) == sorted(f"/v1/batches/{batch_id}" for batch_id in made)


def test_a_batch_that_openai_does_not_know_has_vanished(api: LocalApi) -> None:
    (made,) = make_batches(api, 1)
    seen = look_up(api.client, ["batch_forgotten", made], since=LATER, deadline=soon())
    assert seen["batch_forgotten"] == RemoteBatch("batch_forgotten", VANISHED)
    assert seen["batch_forgotten"].has_ended
    assert seen[made].status == "completed"


@pytest.mark.parametrize("status", [400, 500])
def test_one_that_cannot_be_had_hides_no_other(api: LocalApi, status: int) -> None:
    made = make_batches(api, 3)
    bad = sorted(made)[0]
    with proxy(api.url, Recorder({bad: status})) as client:
        assert look_up(client, made, since=LATER, deadline=soon()).keys() == set(made) - {bad}


def test_without_a_list_the_caller_is_told(api: LocalApi) -> None:
    with proxy(api.url, Recorder({"/v1/batches?": 500})) as client, pytest.raises(openai.InternalServerError):
        look_up(client, ["batch_x"], since=RECENTLY, deadline=soon())


def test_at_the_deadline_it_stops_with_what_it_has(api: LocalApi) -> None:
    made = make_batches(api, 3)
    recorder = Recorder()
    with proxy(api.url, recorder) as client:
        seen = look_up(client, made, since=RECENTLY, deadline=time.monotonic())
    assert seen.keys() == {made[2]}  # the newest, which the list shows first
    assert len(recorder.paths) == 1


def test_an_unknown_status_is_a_running_one(api: LocalApi) -> None:
    (made,) = make_batches(api, 1)

    def answer(call: Call) -> Reply:
        batch = call.forward().json
        if "data" in batch:
            return Reply.of({**batch, "data": []})
        return Reply.of({**batch, "status": "Paused", "request_counts": None})

    with proxy(api.url, answer) as client:
        seen = look_up(client, [made], since=RECENTLY, deadline=soon())
    assert progress(seen[made]) == (made, "paused", None, None, None)
    assert not seen[made].has_ended
