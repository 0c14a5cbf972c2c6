"""An HTTP proxy in front of the local Batch API that injects the planned faults, on real sockets."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from batch_assets.batching.provider.identity import REPORTED_API

Body = bytes
FORWARDED = ("Content-Type", "Date", REPORTED_API)  # headers of the API's answers, by which a run identifies it
Rewrite = Callable[[Body], Body]


@dataclass
class Fault:
    """What happens to the first `times` requests of a method whose path ends in, or contains, `path`.

    `forward`: whether the request reaches the API. The client then gets the status `status`, no answer (`cut`), half of
    the answer (`truncate`), or the API's answer after `rewrite` has changed it, or after `delay_seconds`.
    """

    method: str
    path: str
    times: int = 1
    forward: bool = True
    cut: bool = False
    truncate: bool = False
    status: int | None = None
    error: dict[str, Any] | None = None
    rewrite: Rewrite | None = None
    delay_seconds: float = 0.0
    fake_batch_errors: list[dict[str, Any]] | None = (
        None  # answer with a batch that the API does not have, which fails with these
    )
    seen: int = 0

    def takes(self, method: str, path: str) -> bool:
        if method != self.method or self.path not in path.split("?")[0] or self.seen >= self.times:
            return False
        self.seen += 1
        return True


@dataclass
class Proxy:
    """A running proxy; `down`: it answers nothing.

    `batch_ids`: batches whose creation it has forwarded. `vanished`: batches that it hides. `fakes`: batches that only
    the proxy has.
    """

    url: str
    faults: list[Fault] = field(default_factory=list)
    down: bool = False
    batch_ids: list[str] = field(default_factory=list)
    vanished: set[str] = field(default_factory=set)
    fakes: dict[str, dict[str, Any]] = field(default_factory=dict)
    vanish_first_batch: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fake_batch(self, request: Body, errors: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch that OpenAI accepts, and fails before it runs a request."""
        now = int(time.time())
        batch = {
            "id": f"batch_fake{len(self.fakes)}",
            "object": "batch",
            "status": "failed",
            "created_at": now,
            "failed_at": now,
            "completion_window": "24h",
            **json.loads(request),
            "errors": {"object": "list", "data": errors},
        }
        self.fakes[batch["id"]] = batch
        return batch

    def edit(self, path: str, status: int, answer: Body) -> tuple[int, Body]:
        """The API's answer about batches, with the fakes and without the vanished ones."""
        where = path.split("?")[0].removeprefix("/v1")
        name = where.removeprefix("/batches/")
        if name in self.fakes:
            return 200, json.dumps(self.fakes[name]).encode()
        if name in self.vanished:
            return 404, b'{"error": {"message": "No batch found with that id.", "type": "invalid_request_error"}}'
        if where == "/batches" and status == 200:
            listed = json.loads(answer)
            if listed.get("object") == "list":
                kept = [batch for batch in listed["data"] if batch["id"] not in self.vanished]
                listed["data"] = [*reversed(self.fakes.values()), *kept] if "after=" not in path else kept
                return status, json.dumps(listed).encode()
            self.batch_ids.append(listed["id"])
            if self.vanish_first_batch and len(self.batch_ids) == 1:
                self.vanished.add(listed["id"])
        return status, answer

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self.lock:
            return next((fault for fault in self.faults if fault.takes(method, path)), None)


@contextmanager
def proxying(api_url: str) -> Iterator[Proxy]:
    """A proxy for the API at `api_url` (ending in /v1), on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}/v1")
    server.RequestHandlerClass = _handler(proxy, api_url.removesuffix("/v1"))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def kept_headers(headers: Message) -> dict[str, str]:
    return {name: headers[name] for name in FORWARDED if name in headers}


def _handler(proxy: Proxy, upstream: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if proxy.down:
                return self.hang_up()
            fault = proxy.fault_for(self.command, self.path) or Fault("", "")
            status, answer = 200, b"{}"
            headers = {"Content-Type": "application/json"}
            if fault.fake_batch_errors is not None:
                answer = json.dumps(proxy.fake_batch(body, fault.fake_batch_errors)).encode()
            elif fault.forward:
                status, answer, headers = self.forward(body)
                status, answer = proxy.edit(self.path, status, answer)
            time.sleep(fault.delay_seconds)
            if fault.cut:
                return self.hang_up()
            if fault.status is not None:
                status, headers = fault.status, {"Content-Type": "application/json"}
                answer = json.dumps({"error": fault.error or {"message": "Injected.", "code": None}}).encode()
            elif fault.rewrite is not None:
                answer = fault.rewrite(answer)
            return self.send(status, answer, headers, truncate=fault.truncate)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 - names of http.server

        def forward(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
            request = urllib.request.Request(upstream + self.path, data=body or None, method=self.command)
            for name in ("Content-Type", "Authorization", "Accept"):
                if self.headers.get(name):
                    request.add_header(name, self.headers[name])
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return answer.status, answer.read(), kept_headers(answer.headers)
            except urllib.error.HTTPError as error:
                return error.code, error.read(), kept_headers(error.headers)

        def send(self, status: int, answer: bytes, headers: Mapping[str, str], *, truncate: bool) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if not truncate:
                self.send_header("Content-Length", str(len(answer)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(answer[: len(answer) // 2] if truncate else answer)

        def hang_up(self) -> None:
            self.close_connection = True
            self.connection.close()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    return Handler
