"""Worker threads serve all batches in turn, small and large, with little memory."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest
from openai.types import Batch

from batch_assets.local_api.settings import Limits
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    chat_body,
    counts,
    custom_ids,
    lines_of,
    request_line,
    results,
    server_process,
    submit,
    submit_file,
    upload,
    wait_until_validated,
)


def test_batch_seconds_spreads_the_lines_over_the_time(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", batch_seconds=0.8) as api:
        began = time.monotonic()
        batch = submit(api, lines_of(40))
        seen = set()
        while (batch := api.client.batches.retrieve(batch.id)).status != "completed":
            seen.add(counts(batch)["completed"])
            time.sleep(0.01)
        assert time.monotonic() - began >= 0.8
        assert len(seen) > 10


def test_a_small_batch_overtakes_a_large_one(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.004) as api:
        large = submit(api, lines_of(2000))
        small = api.wait(submit(api, lines_of(10)).id)
        assert small.status == "completed"
        running = api.client.batches.retrieve(large.id)
        assert running.status == "in_progress"
        assert counts(running)["completed"] < 1000


@pytest.mark.end_to_end
def test_two_hundred_small_batches_end_before_an_earlier_large_one(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.002) as api:
        large = submit(api, lines_of(50_000))
        wait_until_validated(api, large.id)
        file_id = upload(api, lines_of(3))
        small = [submit_file(api, file_id).id for _ in range(200)]
        before = counts(api.client.batches.retrieve(large.id))
        assert [api.wait(batch_id, seconds=60).status for batch_id in small] == ["completed"] * 200
        after = api.client.batches.retrieve(large.id)
        assert after.status == "in_progress"
        assert before["completed"] < counts(after)["completed"], "the server executes the large one too"


def test_fast_lines_of_large_batches_do_not_delay_a_small_batch(tmp_path: Path) -> None:
    """A time slice is short, however many lines there are."""
    with serving(tmp_path, engine="instant", concurrency=1, latency_seconds=60) as api:
        file_id = upload(api, lines_of(3000))
        large = [submit_file(api, file_id).id for _ in range(2)]
        small = submit(api, lines_of(3)).id
    with serving(tmp_path, engine="instant", concurrency=1) as api:
        ended = [api.wait(batch_id) for batch_id in (small, *large)]
        made = [file.id for file in api.client.files.list(purpose="batch_output", order="asc")]
        assert made[0] == ended[0].output_file_id
        assert set(made) == {batch.output_file_id for batch in ended}


@pytest.mark.end_to_end
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
def test_a_large_batch_needs_no_memory(tmp_path: Path) -> None:
    content = [{"role": "user", "content": "One two three. " * 200}]
    with server_process(tmp_path, engine="instant") as server:
        small = server.api.wait(submit(server.api, lines_of(100)).id)
        assert small.status == "completed"
        before = server.peak_kb()
        lines = (request_line(f"{number}", body=chat_body(messages=content)) for number in range(20_000))
        batch = server.api.wait(submit(server.api, lines).id, seconds=60)
        assert counts(batch)["completed"] == 20_000
        assert server.peak_kb() - before < 25_000, "less than half of the 60 MB of requests"


def test_many_batches_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant") as api:
        made: list[Batch] = []

        def create() -> None:
            made.append(submit(api, lines_of(50)))

        threads = [threading.Thread(target=create) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 12
        for batch in made:
            output, errors = results(api, api.wait(batch.id))
            assert (custom_ids(output), errors) == (custom_ids(lines_of(50)), [])
        assert api.stats()["requests_executed"] == 600


def test_batches_above_the_limit_of_open_ones_wait_as_validating(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.2, limits=Limits(open_batches=2)) as api:
        file_id = upload(api, lines_of(400))
        made = [submit_file(api, file_id).id for _ in range(6)]
        api.client.batches.cancel(made[-1])
        assert api.wait(made[-1]).status == "cancelled", "it does not wait until another batch ends"
        for first, third in zip(made[:-1], made[2:-1], strict=False):
            assert api.client.batches.retrieve(third).status == "validating"
            api.client.batches.cancel(first)
            assert api.wait(first).status == "cancelled"
            wait_until_validated(api, third)
