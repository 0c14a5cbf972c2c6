"""Batches that end before all their lines are executed."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import openai
import pytest
from openai.types import Batch

from batch_assets.local_api.settings import Timing
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    counts,
    custom_ids,
    lines_of,
    results,
    submit,
    wait_for_progress,
)
from batch_assets_tests.local_api_client import LocalApi


def check_accounts(api: LocalApi, batch: Batch, total: int, code: str) -> tuple[int, int]:
    """Each line is in exactly one file. A line that was not executed has the code, and is in no count."""
    output, errors = results(api, batch)
    assert custom_ids(output + errors) == custom_ids(lines_of(total))
    assert all(line["response"] is None and line["error"]["code"] == code for line in errors)
    assert counts(batch) == {"total": total, "completed": len(output), "failed": 0}
    assert api.stats()["requests_executed"] == len(output)
    return len(output), len(errors)


def test_a_cancelled_batch_keeps_its_results(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.02, concurrency=2) as api:
        batch = submit(api, lines_of(200))
        wait_for_progress(api, batch.id, 10)
        cancelling = api.client.batches.cancel(batch.id)
        assert cancelling.status == "cancelling"
        assert cancelling.cancelling_at is not None
        assert cancelling.output_file_id is None
        assert api.client.batches.cancel(batch.id).status in ("cancelling", "cancelled"), "a second cancel is no error"
        batch = api.wait(batch.id)
        assert batch.status == "cancelled"
        assert batch.cancelled_at is not None
        completed, unexecuted = check_accounts(api, batch, 200, "batch_cancelled")
        assert completed >= 10
        assert unexecuted > 100
        assert api.client.batches.cancel(batch.id).status == "cancelled"


def test_a_batch_can_be_cancelled_right_after_its_creation(tmp_path: Path) -> None:
    """The server waits before it executes the first line. At OpenAI, no batch ends before its client can cancel it."""
    with serving(tmp_path, engine="instant", first_line_seconds=Timing().first_line_seconds) as api:
        batch = submit(api, lines_of(3))
        assert batch.status == "validating"
        assert api.client.batches.cancel(batch.id).status == "cancelling"
        batch = api.wait(batch.id, seconds=2)
        assert batch.status == "cancelled"
        if batch.in_progress_at is not None:  # it was validated before the cancel
            assert check_accounts(api, batch, 3, "batch_cancelled") == (0, 3)
        assert api.wait(submit(api, lines_of(3)).id, seconds=2).status == "completed", "the next one is not affected"


def test_an_invalid_batch_fails_without_a_pause(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", first_line_seconds=60) as api:
        assert api.wait(submit(api, [b"{}"]).id, seconds=2).status == "failed"


@pytest.mark.parametrize("pause", [0.0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08])
def test_a_batch_can_be_cancelled_at_any_moment(tmp_path: Path, pause: float) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.002) as api:
        batch = submit(api, lines_of(100))
        time.sleep(pause)
        with contextlib.suppress(openai.ConflictError):  # it may have ended by then
            api.client.batches.cancel(batch.id)
        batch = api.wait(batch.id)
        if batch.status == "completed":
            assert counts(batch)["completed"] == 100
        elif batch.in_progress_at is None:
            assert (batch.status, results(api, batch)) == ("cancelled", ([], []))
        else:
            check_accounts(api, batch, 100, "batch_cancelled")


def test_a_batch_whose_next_line_is_not_due_is_cancelled_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, batch_seconds=60) as api:
        batch = submit(api, lines_of(3))
        time.sleep(0.1)
        api.client.batches.cancel(batch.id)
        assert api.wait(batch.id, seconds=2).status == "cancelled"


@pytest.mark.parametrize("status", ["completed", "failed", "expired"])
def test_a_batch_that_has_ended_cannot_be_cancelled(tmp_path: Path, status: str) -> None:
    window = 0.0 if status == "expired" else 60.0
    lines = [b"{}"] if status == "failed" else lines_of(1)
    with serving(tmp_path, completion_window_seconds=window) as api:
        batch = api.wait(submit(api, lines).id)
        assert batch.status == status
        with pytest.raises(openai.ConflictError) as refusal:
            api.client.batches.cancel(batch.id)
        assert refusal.value.body == {
            "message": f"Cannot cancel a batch with status '{status}'.",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
        assert api.client.batches.retrieve(batch.id) == batch


def test_an_expired_batch_keeps_its_results(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", latency_seconds=0.05, concurrency=1, completion_window_seconds=0.4) as api:
        batch = api.wait(submit(api, lines_of(30)).id)
        assert batch.status == "expired"
        assert batch.expired_at is not None
        assert batch.completed_at is None
        completed, unexecuted = check_accounts(api, batch, 30, "batch_expired")
        assert completed > 0
        assert unexecuted > 0
        assert batch.usage is not None
        assert batch.usage.total_tokens > 0
