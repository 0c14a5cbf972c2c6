"""What a server says of itself: enough to follow a day, and nothing of what clients sent."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import openai
import pytest

from batch_assets.local_api import events
from batch_assets.local_api.drills import Drills
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import lines_of, submit, upload


@pytest.fixture(autouse=True)
def _listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="batch_assets.local_api")


def test_a_line_for_each_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(tmp_path, engine="instant", drills=Drills(cut_upload=1)) as api:
        with pytest.raises(openai.APIConnectionError):
            upload(api, lines_of(1))
        batch = api.wait(submit(api, lines_of(3)).id)
        bad = api.wait(submit(api, [{"no": "request"}]).id)
        lost = api.client.files.list().data[-1]
        size = api.client.files.retrieve(batch.input_file_id).bytes
    said = caplog.messages
    for line in (
        "Drills: cut_upload=1",
        f"{lost.id}: drill cut_upload",
        f"{batch.input_file_id}: uploaded, {size} bytes",
        f"{batch.id}: created from {batch.input_file_id}",
        f"{batch.id}: in progress, 3 requests",
        f"{batch.id}: completed, 3 completed, 0 failed, 0 without an answer",
        f"{bad.id}: failed, missing_required_parameter",
    ):
        assert said.count(line) == 1, line
    assert "gpt-4.1-mini" not in caplog.text
    assert "request-0" not in caplog.text


def test_now_and_then_a_line_for_all_that_is_in_progress(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_REPORT_SECONDS", 0.02)
    with serving(tmp_path, engine="instant", batch_seconds=3600) as api:
        for batch in [submit(api, lines_of(3)) for _ in range(2)]:
            while api.client.batches.retrieve(batch.id).request_counts.completed < 1:  # type: ignore[union-attr]
                time.sleep(0.01)
        deadline = time.monotonic() + 20
        while "2 batches in progress: 2 of 6 requests done" not in caplog.messages:
            assert time.monotonic() < deadline, caplog.messages
            time.sleep(0.01)
    assert caplog.messages.count("2 batches in progress: 2 of 6 requests done") == 1, "only what is new"
