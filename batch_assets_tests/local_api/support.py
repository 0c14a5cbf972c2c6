"""What the tests of the local Batch API share: request files, raw HTTP, and servers that can be killed."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from openai import OpenAI
from openai.types import Batch

from batch_assets.local_api.serving.discovery import running_url
from batch_assets_tests.local_api_client import LocalApi

Endpoint = Literal["/v1/chat/completions", "/v1/embeddings", "/v1/responses"]
ENDPOINT: Final = "/v1/chat/completions"


def request_line(custom_id: object = "a", **changes: Any) -> dict[str, Any]:
    """A good line of a request file, with `body` or other keys replaced; a value of ... leaves the key out."""
    body = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": f"One. Two {custom_id}. Three."}]}
    line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body, **changes}
    return {name: value for name, value in line.items() if value is not ...}


def body_of(**changes: Any) -> dict[str, Any]:
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
    """The lines of a result file; none when the batch has no such file."""
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


def assert_no_work_is_left(api: LocalApi) -> None:
    """A batch's work folder goes a moment after the batch has ended."""
    deadline = time.monotonic() + 2
    while list((api.directory / "batches").iterdir()):
        assert time.monotonic() < deadline, "a work folder stays behind"
        time.sleep(0.01)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


def http_request(
    api: LocalApi, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """A request without the SDK, for what the SDK would not send; `path` begins with /."""
    parts = urlsplit(api.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def post_json(api: LocalApi, path: str, value: Any) -> Answer:
    return http_request(api, "POST", path, json.dumps(value).encode(), {"content-type": "application/json"})


@dataclass(frozen=True)
class ServerProcess:
    """A server in a process of its own, which a test may kill."""

    api: LocalApi
    process: subprocess.Popen[bytes]

    def peak_kb(self) -> int:
        """The most memory that it ever held; Linux only."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


@contextmanager
def server_process(directory: Path, *, prelude: str = "", **options: Any) -> Iterator[ServerProcess]:
    """Start a server, and kill it at the end unless it has ended before; `prelude` is run in it first."""
    options.setdefault("without_key", True)
    program = (
        f"{prelude}\nfrom pathlib import Path; from batch_assets.local_api.faults import FaultConfig; "
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
