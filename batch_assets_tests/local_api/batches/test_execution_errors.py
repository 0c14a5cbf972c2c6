"""Errors of the engine and the disk while batches run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_assets.local_api.batches import batches
from batch_assets.local_api.batches.result_files import Results
from batch_assets.local_api.engines.engine import ChatRequest, Completion, InstantEngine
from batch_assets.local_api.settings import Timing
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    counts,
    custom_ids,
    lines_of,
    results,
    submit,
    wait_until_validated,
)


def test_deleting_the_input_does_not_disturb_a_batch_that_runs(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.005) as api:
        batch = submit(api, lines_of(100))
        wait_until_validated(api, batch.id)
        api.client.files.delete(batch.input_file_id)
        batch = api.wait(batch.id)
        assert counts(batch)["completed"] == 100


def test_an_exception_of_the_engine_is_openais_500(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = InstantEngine.complete

    def fail_for_one_line(self: InstantEngine, request: ChatRequest) -> Completion:
        if "request-1." in request.text:
            raise RuntimeError("out of order")
        return complete(self, request)

    monkeypatch.setattr(InstantEngine, "complete", fail_for_one_line)
    with serving(tmp_path, engine="instant") as api:
        batch = api.wait(submit(api, lines_of(3)).id)
        output, (failure,) = results(api, batch)
        assert batch.status == "completed"
        assert len(output) == 2
        assert failure["custom_id"] == "request-1"
        assert failure["response"]["status_code"] == 500
        assert failure["response"]["body"]["error"]["type"] == "server_error"


def test_temporary_disk_errors_lose_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = Results._write, iter(range(1_000_000))

    def write_or_fail(self: Results, file: Any, data: bytes) -> None:
        if next(calls) in (10, 30, 31, 32):
            file.write(data + b'{"id": "torn')
            raise OSError(28, "No space left on device")
        write(self, file, data)

    monkeypatch.setattr(Results, "_write", write_or_fail)
    timing = Timing(batch_retry_seconds=0.05, time_slice_seconds=0)
    with serving(tmp_path, engine="instant", timing=timing) as api:
        batch = api.wait(submit(api, lines_of(50)).id)
        output, errors = results(api, batch)
        assert (batch.status, custom_ids(output), errors) == ("completed", custom_ids(lines_of(50)), [])


def test_an_error_in_the_last_transaction_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result files have their names already, but the transaction that adds their rows fails."""
    set_ended, calls = batches.set_ended, iter([True, True, False])

    def fail_twice(*arguments: Any, **named: Any) -> None:
        if next(calls):
            raise OSError("disk I/O error")
        set_ended(*arguments, **named)

    monkeypatch.setattr(batches, "set_ended", fail_twice)
    with serving(tmp_path, engine="instant", timing=Timing(batch_retry_seconds=0.05)) as api:
        batch = api.wait(submit(api, lines_of(20)).id)
        output, errors = results(api, batch)
        assert (batch.status, custom_ids(output), errors) == ("completed", custom_ids(lines_of(20)), [])
        assert len(api.client.files.list(purpose="batch_output").data) == 1
        assert api.stats()["requests_executed"] == 20
