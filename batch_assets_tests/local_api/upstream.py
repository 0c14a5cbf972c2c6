"""Another server with OpenAI's HTTP API, like one of vLLM or llama.cpp, which a test can let fail."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@dataclass
class Reply:
    """A response: `body` as JSON, or unchanged if it is bytes. Without a reply, the server closes the connection."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    after_seconds: float = 0.0


@dataclass
class ReceivedRequest:
    path: str
    headers: dict[str, str]
    body: Any
    client: tuple[str, int]


def completion(content: str = "A summary.", usage: dict[str, int] | None = USAGE) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    body = {"id": "chatcmpl-up", "object": "chat.completion", "created": 1, "model": "upstream", "choices": choices}
    return body if usage is None else {**body, "usage": usage}


@dataclass
class Upstream:
    """`reply` gets the body of a request, and the number of requests before it."""

    reply: Callable[[Any, int], Reply | None]
    received: list[ReceivedRequest] = field(default_factory=list)
    maximum_in_flight: int = 0
    url: str = ""
    _in_flight: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        content = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        body = json.loads(content) if content else None
        with self._lock:
            number = len(self.received)
            self.received.append(ReceivedRequest(handler.path, dict(handler.headers), body, handler.client_address))
            self._in_flight += 1
            self.maximum_in_flight = max(self.maximum_in_flight, self._in_flight)
        try:
            reply = self.reply(body, number)
            if reply is not None:
                time.sleep(reply.after_seconds)
        finally:
            with self._lock:
                self._in_flight -= 1
        if reply is None:
            handler.close_connection = True
            return
        data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        handler.send_response(reply.status)
        for name, value in {"content-length": str(len(data)), **reply.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


@contextmanager
def upstream(reply: Callable[[Any, int], Reply | None], port: int = 0) -> Iterator[Upstream]:
    up = Upstream(reply)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet for a response, since several small ones would wait for each other

        def do_POST(self) -> None:
            up._answer(self)

        do_GET = do_POST  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Some tests close the connection."""

    with Server(("127.0.0.1", port), Handler) as server:
        up.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="upstream")
        thread.start()
        try:
            yield up
        finally:
            server.shutdown()
            thread.join(10)


def good_reply(_body: Any, _number: int) -> Reply:
    return Reply(body=completion())


def first(*replies: Reply | None) -> Callable[[Any, int], Reply | None]:
    """These replies, one after the other, and then good ones."""
    return lambda body, number: replies[number] if number < len(replies) else good_reply(body, number)


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
