"""The limit of enqueued tokens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from batch_assets.local_api.batches.quota import enqueued_tokens
from batch_assets.local_api.faults import FaultConfig
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    chat_body,
    counts,
    jsonl,
    lines_of,
    request_line,
    submit,
    submit_file,
    upload,
    wait_until_validated,
)


def test_the_data_of_images_is_no_text(tmp_path: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 4000}"}}
    text = {"type": "text", "text": "One. Two."}
    paths = [tmp_path / "with.jsonl", tmp_path / "without.jsonl"]
    for path, parts in zip(paths, ([text, image], [text]), strict=True):
        path.write_bytes(jsonl([request_line(body=chat_body(messages=[{"role": "user", "content": parts}]))]))
    assert enqueued_tokens(paths[0]) == enqueued_tokens(paths[1]) > 0


def test_batches_beyond_the_enqueued_token_limit_fail(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(jsonl(lines_of(10)))
    tokens = enqueued_tokens(path)
    limit = 2 * tokens + tokens // 2
    with serving(tmp_path / "api", engine="instant", batch_seconds=3600, faults=FaultConfig(token_limit=limit)) as api:
        file_id = upload(api, lines_of(10))
        first, second, third = (wait_until_validated(api, submit_file(api, file_id).id) for _ in range(3))
        other_model = [request_line(n["custom_id"], body={**n["body"], "model": "gpt-5-nano"}) for n in lines_of(10)]
        of_another = wait_until_validated(api, submit(api, other_model).id)
        assert [batch.status for batch in (first, second, of_another)] == ["in_progress"] * 3
        failed = api.wait(third.id)
        assert (failed.status, counts(failed)) == ("failed", {"total": 0, "completed": 0, "failed": 0})
        assert failed.errors is not None
        assert [problem.to_dict() for problem in failed.errors.data or []] == [
            {
                "code": "token_limit_exceeded",
                "message": f"Enqueued token limit reached for gpt-4.1-mini in organization org-local. Limit: {limit:,} "
                "enqueued tokens. Please try again once some in_progress batches have been completed.",
                "param": None,
                "line": None,
            }
        ]
        api.client.batches.cancel(first.id)
        api.wait(first.id)
        assert wait_until_validated(api, submit_file(api, file_id).id).status == "in_progress", (
            "the ended batch frees its tokens"
        )


def test_batches_at_the_same_time_do_not_exceed_the_token_limit(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", batch_seconds=3600, faults=FaultConfig(token_limit=50)) as api:
        file_id = upload(api, lines_of(3))
        made = [submit_file(api, file_id) for _ in range(12)]
        states = Counter(wait_until_validated(api, batch.id).status for batch in made)
        [running, *_] = [batch.id for batch in api.client.batches.list() if batch.status == "in_progress"]
        tokens = enqueued_tokens(tmp_path / "batches" / running / "input.jsonl")
    assert states == {"in_progress": 50 // tokens, "failed": 12 - 50 // tokens}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "The harbour reopened."}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "The harbour reopened."}]}]},
        {"input": "The harbour reopened."},
        {"input": ["The harbour reopened."]},
        {"prompt": "The harbour reopened."},
    ],
)
def test_prompts_are_counted_whatever_their_form(tmp_path: Path, body: dict[str, Any]) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(jsonl([{"custom_id": "a", "body": {"model": "m", "max_tokens": 9, **body}}]))
    assert enqueued_tokens(path) == 4
