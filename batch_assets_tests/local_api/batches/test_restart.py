"""A server may be killed at any moment. The next one continues its batches, and each request has exactly one result."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from batch_assets.local_api.serving.discovery import running_url
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    counts,
    custom_ids,
    lines_of,
    results,
    server_process,
    submit,
    wait_for_progress,
    wait_until,
)
from batch_assets_tests.local_api_client import LocalApi

LINES = 300
SLOW: dict[str, Any] = {"engine": "instant", "latency_seconds": 0.01, "concurrency": 4}


def check_one_result_each(api: LocalApi, batch_id: str, lines: int = LINES) -> None:
    batch = api.wait(batch_id)
    output, errors = results(api, batch)
    assert (batch.status, custom_ids(output), errors) == ("completed", custom_ids(lines_of(lines)), [])
    assert counts(batch) == {"total": lines, "completed": lines, "failed": 0}
    assert batch.usage is not None
    assert batch.usage.total_tokens == sum(line["response"]["body"]["usage"]["total_tokens"] for line in output)


def test_after_a_kill_the_next_server_continues_the_batch(tmp_path: Path) -> None:
    with server_process(tmp_path, **SLOW) as server:
        batch = submit(server.api, lines_of(LINES))
        wait_for_progress(server.api, batch.id, 60)
        server.kill()
        url = server.api.url
    assert running_url(tmp_path) is None
    recorded = (tmp_path / "batches" / batch.id / "output.jsonl").read_bytes()
    assert recorded.count(b"\n") >= 60

    with serving(tmp_path, **SLOW) as api:
        assert api.url == url, "the port is the same, so that clients find it again"
        check_one_result_each(api, batch.id)
        output = api.client.files.content(api.client.batches.retrieve(batch.id).output_file_id or "").content
        assert output.startswith(recorded), "recorded lines are not executed again"
        assert api.stats()["requests_executed"] == LINES


KILLS = 10
MANY = 1000
# An engine that writes each executed line to a log, and takes 2 ms for it: at most six lines fit into a time slice of
# 10 ms. It stops at 80 lines, so that a server that is killed late leaves some for the next one.
LOGGING_ENGINE = """
import itertools, os, time
from batch_assets.local_api.engines.engine import InstantEngine
log = os.open({path!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
complete, count = InstantEngine.complete, itertools.count()
def log_and_complete(self, request):
    if next(count) >= 80:
        time.sleep(600)
    os.write(log, request.text.split()[2].encode() + b"\\n")
    time.sleep(0.002)
    return complete(self, request)
InstantEngine.complete = log_and_complete
"""
LINES_IN_A_TIME_SLICE = 6


@pytest.mark.end_to_end
def test_recorded_lines_are_not_executed_again_after_ten_kills(tmp_path: Path) -> None:
    directory, log = tmp_path / "local_api", tmp_path / "executed"
    prelude = LOGGING_ENGINE.format(path=str(log))
    log.touch()

    def executed() -> list[bytes]:
        return [name.rstrip(b".") for name in log.read_bytes().split()]

    with server_process(directory, engine="instant", prelude=prelude) as server:
        batch = submit(server.api, lines_of(MANY))
        server.kill()  # at once: the batch must be there, since the client has the response
    results_path = directory / "batches" / batch.id / "output.jsonl"
    for _ in range(KILLS):
        before = executed()
        recorded = recorded_ids(results_path)
        with server_process(directory, engine="instant", prelude=prelude, concurrency=4) as server:
            enough = len(before) + 50
            wait_until(lambda: len(executed()) >= enough)  # noqa: B023 (called at once)
            server.kill()
        now = executed()[len(before) :]
        assert len(now) == len(set(now)), "a server executes no line twice"
        assert not recorded & set(now), "recorded lines are not executed again"
        lost = set(now) - recorded_ids(results_path)
        assert len(lost) <= 4 * LINES_IN_A_TIME_SLICE, "only the lines in execution are lost"
    with serving(directory, engine="instant") as api:
        check_one_result_each(api, batch.id, MANY)
        assert api.stats()["requests_executed"] == MANY


def recorded_ids(path: Path) -> set[bytes]:
    """The custom_ids in a result file that a killed server left, without its incomplete end."""
    if not path.exists():
        return set()
    return {json.loads(line)["custom_id"].encode() for line in path.read_bytes().split(b"\n")[:-1]}


@pytest.mark.parametrize(
    "tail",
    [b'{"id": "batch_req_', b"\0" * 100, b'{"id": "x"}', b"\xff\n"],
    ids=["torn", "zeroes", "no newline", "garbage"],
)
def test_an_incomplete_end_of_a_result_file_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    with serving(tmp_path, **SLOW) as api:
        batch = submit(api, lines_of(LINES))
        wait_for_progress(api, batch.id, 10)
    for name in ("output.jsonl", "errors.jsonl"):
        with (tmp_path / "batches" / batch.id / name).open("ab") as file:
            file.write(tail)
    with serving(tmp_path, engine="instant") as api:
        check_one_result_each(api, batch.id)


def test_results_that_a_power_cut_lost_are_executed_again(tmp_path: Path) -> None:
    """After a power cut, results that were not synced may be missing, although the database counted them."""
    with serving(tmp_path, **SLOW) as api:
        batch = submit(api, lines_of(LINES))
        wait_for_progress(api, batch.id, 20)
    path = tmp_path / "batches" / batch.id / "output.jsonl"
    path.write_bytes(path.read_bytes()[:-700])
    with serving(tmp_path, engine="instant") as api:
        check_one_result_each(api, batch.id)


def test_a_cancelling_batch_is_cancelled_after_a_kill(tmp_path: Path) -> None:
    with server_process(tmp_path, engine="instant", latency_seconds=0.01) as server:
        batch = submit(server.api, lines_of(LINES))
        wait_for_progress(server.api, batch.id, 20)
        server.api.client.batches.cancel(batch.id)
        server.kill()
    with serving(tmp_path, engine="instant") as api:
        batch = api.wait(batch.id)
        output, errors = results(api, batch)
        assert batch.status == "cancelled"
        assert custom_ids(output + errors) == custom_ids(lines_of(LINES))
        assert len(output) < LINES


def test_a_batch_expires_while_no_server_runs(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.02, completion_window_seconds=0.6) as api:
        batch = submit(api, lines_of(LINES))
        wait_for_progress(api, batch.id, 5)
    time.sleep(0.5)
    with serving(tmp_path, engine="instant") as api:
        batch = api.wait(batch.id)
        output, errors = results(api, batch)
        assert batch.status == "expired"
        assert custom_ids(output + errors) == custom_ids(lines_of(LINES))
        assert {line["error"]["code"] for line in errors} == {"batch_expired"}


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_gracefully(tmp_path: Path, name: signal.Signals) -> None:
    with server_process(tmp_path, **SLOW) as server:
        found = json.loads((tmp_path / "server.json").read_text())
        assert (found["url"], found["pid"]) == (server.api.url, server.process.pid)
        batch = submit(server.api, lines_of(LINES))
        wait_for_progress(server.api, batch.id, 5)
        server.process.send_signal(name)
        assert server.process.wait(5) == 0
    assert not (tmp_path / "server.json").exists()
    with serving(tmp_path, engine="instant") as api:
        check_one_result_each(api, batch.id)
        assert api.stats()["requests_executed"] == LINES
