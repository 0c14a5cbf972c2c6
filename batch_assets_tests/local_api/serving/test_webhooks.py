"""Webhooks: OpenAI's own client accepts them; at least one for each batch that ends, also after a kill."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from batch_assets.local_api.serving import webhooks
from batch_assets.local_api.serving.server import serve
from batch_assets.local_api.settings import Timing
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    http_request,
    lines_of,
    server_process,
    submit,
    wait_until,
    wait_until_validated,
)

pytestmark = pytest.mark.end_to_end  # processes, and waiting for them

SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
SHORT_PAUSES = Timing(webhook_first_pause_seconds=0.05)
CLIENT = openai.OpenAI(api_key="unused", base_url="http://127.0.0.1:9/v1")


@dataclass(frozen=True)
class Delivery:
    path: str
    headers: dict[str, str]
    body: bytes

    def unwrap(self, secret: str = SECRET) -> dict[str, Any]:
        """The event, after OpenAI's client has checked the signature."""
        return CLIENT.webhooks.unwrap(self.body, self.headers, secret=secret).to_dict()


@dataclass
class Receiver:
    """Responds with the statuses, one after the other, and then with 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)

    def wait(self, number: int) -> list[Delivery]:
        wait_until(lambda: len(self.deliveries) >= number)
        return self.deliveries


@contextmanager
def receiving(*statuses: int, port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver(statuses=list(statuses))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = receiver.statuses.pop(0) if receiver.statuses else 200
            self.send_response(status)
            if 300 <= status <= 399:
                self.send_header("location", receiver.url + "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()
            receiver.deliveries.append(Delivery(self.path, dict(self.headers.items()), body))

        def log_message(self, format: str, *args: object) -> None:
            """No lines on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _known_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(webhooks.SECRET_VARIABLE, SECRET)


def undelivered(directory: Path) -> int:
    with sqlite3.connect(directory / "local_api.sqlite3") as connection:
        (number,) = connection.execute("SELECT count(*) FROM webhook").fetchone()
    connection.close()
    return int(number)


def wait_until_delivered(directory: Path) -> None:
    wait_until(lambda: not undelivered(directory))


def test_each_end_of_a_batch_is_delivered(tmp_path: Path) -> None:
    options = {"engine": "instant", "latency_seconds": 0.01, "control": True}
    with (
        receiving() as receiver,
        serving(tmp_path, webhook=receiver.url + "/hook?a=b", timing=SHORT_PAUSES, **options) as api,
    ):
        ended = {
            "batch.completed": submit(api, lines_of(2)).id,
            "batch.failed": submit(api, [{"no": "request"}]).id,
            "batch.cancelled": submit(api, lines_of(400)).id,
        }
        api.client.batches.cancel(ended["batch.cancelled"])
        receiver.wait(3)
        http_request(api, "PUT", "/control/faults", b'{"expire_share": 1}')
        ended["batch.expired"] = submit(api, lines_of(2)).id
        deliveries = receiver.wait(4)
    events = [delivery.unwrap() for delivery in deliveries]
    assert {event["type"]: event["data"] for event in events} == {
        kind: {"id": batch_id} for kind, batch_id in ended.items()
    }
    for delivery, event in zip(deliveries, events, strict=True):
        assert json.loads(delivery.body) == event
        assert list(json.loads(delivery.body)) == ["id", "object", "type", "created_at", "data"]
        assert event["object"] == "event"
        assert event["id"].startswith("evt_")
        assert abs(event["created_at"] - time.time()) < 60
        assert delivery.headers["webhook-id"].startswith("wh_")
        assert delivery.headers["user-agent"] == "OpenAI/1.0 (+https://platform.openai.com/docs/webhooks)"
        assert delivery.headers["content-type"] == "application/json"
    assert deliveries[0].path == "/hook?a=b"
    assert len({event["id"] for event in events}) == len({d.headers["webhook-id"] for d in deliveries}) == 4


def test_another_secret_or_body_makes_the_signature_invalid(tmp_path: Path) -> None:
    with receiving() as receiver, serving(tmp_path, engine="instant", webhook=receiver.url, timing=SHORT_PAUSES) as api:
        submit(api, lines_of(1))
        [delivery] = receiver.wait(1)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        delivery.unwrap("whsec_" + "QUFB" * 8)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        Delivery("/", delivery.headers, delivery.body.replace(b"completed", b"cancelled")).unwrap()


@pytest.mark.parametrize("status", [500, 302, 404])
def test_only_refused_deliveries_are_repeated(tmp_path: Path, status: int) -> None:
    with (
        receiving(status, status) as receiver,
        serving(tmp_path, engine="instant", webhook=receiver.url, timing=SHORT_PAUSES) as api,
    ):
        submit(api, lines_of(1))
        receiver.wait(3)
        wait_until_delivered(tmp_path)
        submit(api, lines_of(1))
        deliveries = receiver.wait(4)
        wait_until_delivered(tmp_path)
    assert len(deliveries) == 4
    assert {delivery.path for delivery in deliveries} == {"/"}, "a redirect is not followed"
    first, second, third, other = (delivery.headers["webhook-id"] for delivery in deliveries)
    assert first == second == third != other
    assert deliveries[0].unwrap() == deliveries[2].unwrap()


def test_an_event_that_was_not_delivered_before_a_kill_is_delivered_after_it(tmp_path: Path) -> None:
    with receiving() as receiver:
        port = int(receiver.url.split(":")[2])
    options: dict[str, Any] = {"engine": "instant", "webhook": f"http://127.0.0.1:{port}/", "timing": SHORT_PAUSES}
    with server_process(tmp_path, **options) as server:
        batch = server.api.wait(submit(server.api, lines_of(3)).id)
        server.kill()
    assert undelivered(tmp_path) == 1
    with serving(tmp_path, engine="instant"):
        pass
    assert undelivered(tmp_path) == 1, "a server without a webhook keeps the event"
    with receiving(port=port) as receiver, serving(tmp_path, **options):
        [delivery] = receiver.wait(1)
        wait_until_delivered(tmp_path)
    assert delivery.unwrap()["data"] == {"id": batch.id}


def test_the_end_of_a_batch_after_a_kill_is_delivered_once(tmp_path: Path) -> None:
    with receiving() as receiver:
        options: dict[str, Any] = {"engine": "instant", "webhook": receiver.url, "timing": SHORT_PAUSES}
        with server_process(tmp_path, latency_seconds=0.05, **options) as server:
            batch = submit(server.api, lines_of(40))
            wait_until_validated(server.api, batch.id)
            server.kill()
        with serving(tmp_path, **options) as api:
            assert api.wait(batch.id).status == "completed"
            [delivery] = receiver.wait(1)
            wait_until_delivered(tmp_path)
    assert len(receiver.deliveries) == 1
    assert delivery.unwrap()["data"] == {"id": batch.id}


def test_a_silent_receiver_does_not_keep_the_server_from_stopping(tmp_path: Path) -> None:
    timing = Timing(webhook_stop_seconds=0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serving(tmp_path, engine="instant", webhook=url, timing=timing) as api:
            api.wait(submit(api, lines_of(1)).id)
            silent.settimeout(10)
            connection, _ = silent.accept()
        with connection:
            assert undelivered(tmp_path) == 1


def test_an_event_is_deleted_after_72_hours(tmp_path: Path) -> None:
    with receiving(500) as receiver, serving(tmp_path, engine="instant", webhook=receiver.url, timing=SHORT_PAUSES):
        with sqlite3.connect(tmp_path / "local_api.sqlite3", timeout=10) as connection:
            connection.execute(
                "INSERT INTO webhook (id, event_id, type, batch_id, created_at, due_at) "
                "VALUES ('wh_old', 'evt_old', 'batch.completed', 'batch_old', ?, 0)",
                (time.time() - SHORT_PAUSES.webhook_give_up_seconds,),
            )
        connection.close()
        receiver.wait(1)
        wait_until_delivered(tmp_path)
    assert len(receiver.deliveries) == 1


def test_without_a_webhook_no_event_is_stored(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant") as api:
        api.wait(submit(api, lines_of(1)).id)
    assert undelivered(tmp_path) == 0


def test_a_secret_is_made_once_and_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(webhooks.SECRET_VARIABLE)
    secrets = set()
    for _ in range(2):
        with (
            receiving() as receiver,
            serving(tmp_path, engine="instant", webhook=receiver.url, timing=SHORT_PAUSES) as api,
        ):
            submit(api, lines_of(1))
            [delivery] = receiver.wait(1)
        secret = webhooks.secret_path(tmp_path).read_text()
        delivery.unwrap(secret)
        secrets.add(secret)
    assert len(secrets) == 1
    assert os.name == "nt" or webhooks.secret_path(tmp_path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "url", ["ftp://host/", "file:///etc/passwd", "host", "http://", "http://u:p@host/", "http://host:x/", "http://h/ /"]
)
def test_only_http_urls_are_accepted(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="http:// or https:// URL") as refusal:
        serve(tmp_path, webhook=url)
    assert "u:p" not in str(refusal.value)


@pytest.mark.parametrize("secret", ["hunter2", "whsec_", "whsec_%%%", "whsec_é"])
def test_a_secret_of_another_form_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv(webhooks.SECRET_VARIABLE, secret)
    with pytest.raises(ValueError, match="must be whsec_ and a base64 text") as refusal:
        serve(tmp_path, webhook="http://127.0.0.1:9/")
    assert "hunter2" not in str(refusal.value)


def test_a_database_of_the_first_version_is_migrated(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant") as api:
        batch_id = submit(api, lines_of(1)).id
        api.wait(batch_id)
    with sqlite3.connect(tmp_path / "local_api.sqlite3") as connection:
        connection.executescript("DROP TABLE webhook; PRAGMA user_version = 1;")
    connection.close()
    with receiving() as receiver, serving(tmp_path, engine="instant", webhook=receiver.url, timing=SHORT_PAUSES) as api:
        assert api.client.batches.retrieve(batch_id).status == "completed"
        submit(api, lines_of(1))
        receiver.wait(1)
