"""`batch-assets serve` as a user runs it: what it prints, also to a file, and how it ends."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from openai import OpenAI

from batch_assets.local_api.serving.discovery import running_url
from batch_assets.local_api.serving.keys import local_api_key
from batch_assets_tests.end_to_end.processes import COMMAND, WAIT_SECONDS, environment, run_command, wait_until
from batch_assets_tests.local_api.support import ENDPOINT, jsonl, lines_of
from batch_assets_tests.local_api_client import LocalApi

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]


@contextmanager
def running_serve(data: Path, log: Path, *arguments: str) -> Iterator[LocalApi]:
    """`batch-assets serve …`, printing to a file, ended by SIGTERM."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "serve", *arguments],
            env=environment(data),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        return running_url(data / "local_api") is not None

    try:
        wait_until(is_ready, log.read_text)
        url = running_url(data / "local_api")
        assert url is not None
        with OpenAI(base_url=url, api_key=local_api_key(data / "local_api"), max_retries=0) as client:
            yield LocalApi(url, client, data / "local_api")
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0
    finally:
        process.kill()
        process.wait(10)


def test_serve_prints_its_address_and_its_events_and_no_secret(tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    options = ("--control", "--webhook", "http://127.0.0.1:9/hooks/XXX", "--fail-share", "1", "--fail-status", "429")
    with running_serve(tmp_path, log, *options) as api:
        file = api.client.files.create(file=("requests.jsonl", jsonl(lines_of(2))), purpose="batch")
        made = api.client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
        batch = api.wait(made.id)
        refused = "webhook batch.completed not delivered: ConnectionRefusedError from http://127.0.0.1:9"
        wait_until(lambda: refused in log.read_text(), log.read_text)
        root = api.url.removesuffix("/v1")
    printed = log.read_text()
    secret = (tmp_path / "local_api" / "webhook_secret").read_text()
    for words in (
        f"The local Batch API listens on {api.url}.",
        f'export OPENAI_BASE_URL={api.url} OPENAI_API_KEY="$(cat {tmp_path}/local_api/key)"',
        f'export OPENAI_WEBHOOK_SECRET="$(cat {tmp_path}/local_api/webhook_secret)"',
        f"Faults are changed by PUT {root}/control/faults",
        "Faults: fail_share=1.0, fail_status=429",
        f"{batch.id}: completed, 0 completed, 2 failed, 0 without an answer",
    ):
        assert words in printed
    for words in (secret, "XXX", "Traceback", "One. Two"):
        assert words not in printed


def test_serve_refuses_invalid_faults_in_a_sentence(tmp_path: Path) -> None:
    done = run_command(tmp_path, "serve", "--fail-share", "2")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "more than 1" in done.stderr
