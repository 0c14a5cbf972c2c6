"""Helpers of the tests of the local Batch API: request files, HTTP without the SDK, servers that a test can kill."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from openai import OpenAI
from openai.types import Batch

from batch_assets.local_api.serving.discovery import running_url
from batch_assets_tests.local_api_client import LocalApi

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/moderations", "/v1/responses"]
ENDPOINT: Final = "/v1/chat/completions"
ARTICLE = (
    "The council approved the new bridge on Monday. It will cost 40 million euros. "
    "Work on the bridge begins in spring. Residents had asked for the bridge for ten years. "
    "The mayor thanked everybody. Lunch was served afterwards."
)


def request_line(custom_id: object = "a", **changes: Any) -> dict[str, Any]:
    """A valid line of a request file, with `body` or other keys replaced. A value of ... leaves the key out."""
    body = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": f"One. Two {custom_id}. Three."}]}
    line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body, **changes}
    return {name: value for name, value in line.items() if value is not ...}


def chat_body(**changes: Any) -> dict[str, Any]:
    """A valid body of a chat completion request, with keys replaced or, by a value of ..., left out."""
    body = {**request_line()["body"], **changes}
    return {name: value for name, value in body.items() if value is not ...}


def jsonl(lines: Iterable[dict[str, Any] | bytes]) -> bytes:
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


def lines_of(count: int) -> list[dict[str, Any]]:
    return [request_line(f"request-{number}") for number in range(count)]


def upload(api: LocalApi, lines: Iterable[dict[str, Any] | bytes]) -> str:
    return api.client.files.create(file=("requests.jsonl", jsonl(lines)), purpose="batch").id


def submit(api: LocalApi, lines: Iterable[dict[str, Any] | bytes], endpoint: Endpoint = ENDPOINT) -> Batch:
    return submit_file(api, upload(api, lines), endpoint)


def submit_file(api: LocalApi, file_id: str, endpoint: Endpoint = ENDPOINT) -> Batch:
    return api.client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h")


def read_lines(api: LocalApi, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a result file; none if the batch has no such file."""
    if not file_id:
        return []
    content = api.client.files.content(file_id).content
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def results(api: LocalApi, batch: Batch) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Output lines and error lines."""
    return read_lines(api, batch.output_file_id), read_lines(api, batch.error_file_id)


def custom_ids(lines: Iterable[dict[str, Any]]) -> list[str]:
    return sorted(line["custom_id"] for line in lines)


def counts(batch: Batch) -> dict[str, Any]:
    """total, completed, failed."""
    assert batch.request_counts is not None
    return batch.request_counts.to_dict()


def wait_until(condition: Callable[[], object], *, seconds: float = 20.0) -> None:
    """Fails the test when it takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} seconds"
        time.sleep(0.005)


def wait_until_validated(api: LocalApi, batch_id: str) -> Batch:
    wait_until(lambda: api.client.batches.retrieve(batch_id).status != "validating")
    return api.client.batches.retrieve(batch_id)


def wait_for_progress(api: LocalApi, batch_id: str, completed: int) -> Batch:
    """The batch once so many of its lines are completed."""
    wait_until(lambda: counts(api.client.batches.retrieve(batch_id))["completed"] >= completed)
    return api.client.batches.retrieve(batch_id)


def assert_no_work_folder_is_left(api: LocalApi) -> None:
    """The server removes a batch's work folder a moment after the batch has ended."""
    wait_until(lambda: not list((api.directory / "batches").iterdir()), seconds=2)


@dataclass(frozen=True)
class HttpResponse:
    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


def http_request(
    api: LocalApi, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> HttpResponse:
    """A request without the SDK, for requests that the SDK would not send. path: begins with /."""
    parts = urlsplit(api.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return HttpResponse(response.status, response.headers, response.read())
    finally:
        connection.close()


def post_json(api: LocalApi, path: str, value: Any) -> HttpResponse:
    return http_request(api, "POST", path, json.dumps(value).encode(), {"content-type": "application/json"})


@dataclass(frozen=True)
class ServerProcess:
    """A server in a process of its own, which a test can kill."""

    api: LocalApi
    process: subprocess.Popen[bytes]

    def peak_kb(self) -> int:
        """The most memory that it has used; Linux only."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def server_process(directory: Path, *, prelude: str = "", **options: Any) -> Iterator[ServerProcess]:
    """Start a server, and kill it at the end of the block. prelude: a program that the process runs before."""
    options.setdefault("without_key", True)
    program = (
        f"{prelude}\nfrom pathlib import Path; from batch_assets.local_api.faults import FaultConfig; "
        "from batch_assets.local_api.settings import Limits, Timing; "
        "from batch_assets.local_api.serving.server import serve; "
        f"serve(Path({str(directory)!r}), **{options!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONWARNINGS": "error"})
    try:
        deadline = time.monotonic() + 20
        while (url := running_url(directory)) is None:
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.02)
        with OpenAI(base_url=url, api_key="unused", max_retries=0) as client:
            yield ServerProcess(LocalApi(url, client, directory), process)
    finally:
        process.kill()
        process.wait(10)
