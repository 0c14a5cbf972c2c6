"""A real HTTP endpoint that receives the messages of apprise's json:// URLs."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "T0ken-of-the-chat-77"


class Endpoint:
    """received: the messages, the oldest first. status: how it answers the next ones."""

    def __init__(self, port: int) -> None:
        self.received: list[dict[str, Any]] = []
        self.status = 200
        self.url = f"json://127.0.0.1:{port}/hooks/{TOKEN}"

    @property
    def texts(self) -> list[str]:
        """Title and body of each message."""
        return [f"{message['title']}\n{message['message']}" for message in self.received]


@contextmanager
def receiving() -> Iterator[Endpoint]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if endpoint.status == 200:
                endpoint.received.append(json.loads(body))
            self.send_response(endpoint.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint = Endpoint(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join()
