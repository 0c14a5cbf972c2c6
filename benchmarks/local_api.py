"""What the local Batch API itself needs for a full-size batch, with an engine that does nothing.

    python -m benchmarks.local_api

Starts the server as a process of its own, uploads a file of 50,000 requests and 200 MB, runs the batch, and
downloads the results. In the same run and on the same disk, a plain loop writes and syncs the bytes that the
server writes, and reads those that it reads. Memory is the highest resident memory of the server (VmHWM), so this needs
Linux.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from openai import OpenAI
from rich.console import Console
from rich.table import Table

from benchmarks.server import Process, serving_in_process

_CHUNK_BYTES = 1024 * 1024
_ENDED = ("completed", "failed", "expired", "cancelled")
_SENTENCE = "The council approved a new bridge over the river on Monday, which will cost 40 million euros. "


@dataclass(frozen=True)
class Server:
    client: OpenAI
    process: Process


@click.command()
@click.option("--lines", default=50_000, show_default=True, help="Requests in the file.")
@click.option("--megabytes", default=200, show_default=True, help="Size of the file.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where to work; default: temporary.")
def main(lines: int, megabytes: int, folder: Path | None) -> None:
    """Measure the local Batch API with one large batch."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        serving_in_process(Path(name) / "local_api") as (url, process),
        OpenAI(base_url=url, api_key="unused", max_retries=0) as client,
    ):
        _measure(Server(client, process), Path(name), lines, megabytes * 1024 * 1024)


def _measure(server: Server, folder: Path, lines: int, size: int) -> None:
    source, output, copy = folder / "requests.jsonl", folder / "output.jsonl", folder / "copy"
    size = _write_requests(source, lines, size)
    table = Table("step", "seconds", "µs a line", "server's CPU µs a line", "plain loop s", "ratio", "server's peak MB")

    def add(step: str, seconds: float, processor: float, plain: float) -> None:
        each = (f"{figure / lines * 1e6:.1f}" for figure in (seconds, processor))
        table.add_row(
            step,
            f"{seconds:.2f}",
            *each,
            f"{plain:.2f}",
            f"{seconds / plain:.1f}",
            f"{server.process.peak_bytes() / 2**20:.0f}",
        )

    server.client.files.list()
    table.add_row("(started)", "", "", "", "", "", f"{server.process.peak_bytes() / 2**20:.0f}")
    add("upload", *_cost(server, lambda: _upload(server, source)), _seconds(lambda: _copy(source, copy)))
    reading = _seconds(lambda: _read(source))

    file_id = server.client.files.list(limit=1).data[0].id
    batch = server.client.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    validation = _cost(server, lambda: _wait(server, batch.id, ("in_progress", "finalizing", *_ENDED)))
    execution = _cost(server, lambda: _wait(server, batch.id, _ENDED))
    batch = server.client.batches.retrieve(batch.id)
    counts = batch.request_counts
    if batch.status != "completed" or counts is None or counts.completed != lines:
        raise click.ClickException(f"The batch is {batch.status}: {counts}, {batch.errors}")
    download = _cost(server, lambda: _download(server, batch.output_file_id or "", output))

    writing = _seconds(lambda: _copy(output, copy))
    add("validation", *validation, reading)
    add("execution", *execution, reading + writing)
    add("both", validation[0] + execution[0], validation[1] + execution[1], 2 * reading + writing)
    add("download", *download, writing)
    Console().print(table)
    Console().print(
        f"{lines:,} lines, {size / 1e6:.0f} MB of requests, {output.stat().st_size / 1e6:.0f} MB of results"
    )


def _write_requests(path: Path, lines: int, size: int) -> int:
    """A file of equal lines, of at most `size` bytes; returns its size."""

    def line(number: int, text: str) -> bytes:
        messages = [{"role": "system", "content": "Summarise."}, {"role": "user", "content": text}]
        request = {
            "custom_id": f"request-{number:08d}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "gpt-4.1-mini", "messages": messages},
        }
        return json.dumps(request).encode() + b"\n"

    length = max(size // lines - len(line(0, "")), 1)
    text = (_SENTENCE * (length // len(_SENTENCE) + 1))[:length]
    with path.open("wb") as file:
        for number in range(lines):
            file.write(line(number, text))
    return path.stat().st_size


def _upload(server: Server, path: Path) -> None:
    with path.open("rb") as handle:
        server.client.files.create(file=("requests.jsonl", handle), purpose="batch")


def _download(server: Server, file_id: str, path: Path) -> None:
    with server.client.files.with_streaming_response.content(file_id) as answer:
        answer.stream_to_file(path, chunk_size=_CHUNK_BYTES)


def _wait(server: Server, batch_id: str, statuses: Sequence[str]) -> None:
    deadline = time.monotonic() + 600
    while (status := server.client.batches.retrieve(batch_id).status) not in statuses:
        if time.monotonic() > deadline:
            raise click.ClickException(f"The batch is still {status} after ten minutes.")
        time.sleep(0.05)


def _cost(server: Server, work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the server's processor time."""
    before = server.process.cpu_seconds()
    seconds = _seconds(work)
    return seconds, server.process.cpu_seconds() - before


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())


def _read(source: Path) -> None:
    with source.open("rb") as reader:
        while reader.read(_CHUNK_BYTES):
            pass


if __name__ == "__main__":
    main()
