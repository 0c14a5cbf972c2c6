"""Webhooks: a POST to one URL when a batch has ended, signed as OpenAI signs (Standard Webhooks).

The server stores an event in the transaction that ends its batch, and deletes it when the receiver has taken it. So it
delivers each event at least once, also after a kill, in no certain order. As at OpenAI, an event has only the id and
the final status of the batch, a redirect counts as a refusal, and the server repeats a refused delivery, with longer
and longer pauses, for 72 hours.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import http.client
import json
import logging
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from batch_assets.local_api.settings import Timing
from batch_assets.local_api.storage.database import Store
from batch_assets.local_api.storage.private import read_private_file, write_private_file

logger = logging.getLogger(__name__)

SECRET_VARIABLE = "BATCH_ASSETS_SERVE_WEBHOOK_SECRET"  # noqa: S105 (a name)
_TIMEOUT_SECONDS = 10.0
_CHECK_SECONDS = 0.2  # between two searches for events
_RETRY_SECONDS = 3.0  # after an error that the receiver did not cause, such as a full disk
_OWN_SECRET = re.compile(r"whsec_[A-Za-z0-9+/]{43}=")
_USER_AGENT = "OpenAI/1.0 (+https://platform.openai.com/docs/webhooks)"  # [recorded]

# Temporary: it exists as long as the connection. So a server without a webhook stores no event for a later server.
_TRIGGER = """
CREATE TEMPORARY TRIGGER batch_has_ended AFTER UPDATE OF status ON main.batch
WHEN OLD.status <> NEW.status AND NEW.status IN ('completed', 'failed', 'expired', 'cancelled')
BEGIN
    INSERT INTO webhook (id, event_id, type, batch_id, created_at, due_at)
    VALUES (
        'wh_' || lower(hex(randomblob(16))), 'evt_' || lower(hex(randomblob(16))), 'batch.' || NEW.status, NEW.id,
        coalesce(NEW.completed_at, NEW.failed_at, NEW.expired_at, NEW.cancelled_at), 0
    );
END
"""


@dataclass(frozen=True)
class Webhook:
    """The receiver's URL, and the key of the signatures."""

    url: str
    key: bytes

    @property
    def parts(self) -> SplitResult:
        return urlsplit(self.url)

    @property
    def origin(self) -> str:
        """The part of the URL for the log, without the path, which may be a secret."""
        return f"{self.parts.scheme}://{self.parts.netloc}"


def make_webhook(url: str, secret: str) -> Webhook:
    """Raises ValueError for an invalid URL or secret. The message does not repeat the secret."""
    parts = urlsplit(url)
    try:
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.username is None and parts.port != 0
    except ValueError:  # the port is not a number
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("The webhook must be an http:// or https:// URL without a user name.")
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith("whsec_") or not key:
        raise ValueError(f"{SECRET_VARIABLE} must be whsec_ and a base64 text; without it, one is made.")
    return Webhook(url, key)


def secret_path(directory: Path) -> Path:
    return directory / "webhook_secret"


def provide_secret(directory: Path) -> str:
    """The secret from the environment, or the server's own, which is made once and kept. Raises OSError."""
    if given := os.environ.get(SECRET_VARIABLE):
        return given
    path = secret_path(directory)
    secret = (read_private_file(path) or "").strip()
    if not _OWN_SECRET.fullmatch(secret):  # it is missing or damaged, or other users could read it
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        write_private_file(path, secret)
    return secret


def signature(key: bytes, webhook_id: str, timestamp: int, body: bytes) -> str:
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def store_events(store: Store, webhook: Webhook | None) -> None:
    """From now on, each batch that ends leaves an event in the database. Raises sqlite3.Error."""
    if webhook is not None:
        with store.transaction() as connection:
            connection.execute(_TRIGGER)


@contextlib.contextmanager
def delivering(store: Store, webhook: Webhook | None, timing: Timing) -> Iterator[None]:
    """Within the block, deliver the stored events, also those of an earlier server."""
    if webhook is None:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(
        target=_deliver_until, args=(stop, store, webhook, timing), name="local-api-webhooks", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timing.webhook_stop_seconds)  # the receiver may not answer


def _deliver_until(stop: threading.Event, store: Store, webhook: Webhook, timing: Timing) -> None:
    while not stop.wait(_CHECK_SECONDS):
        try:
            while not stop.is_set() and (event := _next_due(store)) is not None:
                _record_attempt(store, webhook, event, _post(webhook, event), timing)
        except sqlite3.ProgrammingError:
            return  # the server has stopped and closed the database; the next server delivers the event
        except Exception:
            logger.exception("Could not read or store the webhook events. The server tries again.")
            stop.wait(_RETRY_SECONDS)


def _next_due(store: Store) -> sqlite3.Row | None:
    with store.read() as connection:
        row: sqlite3.Row | None = connection.execute(
            "SELECT * FROM webhook WHERE due_at <= ? ORDER BY due_at, seq LIMIT 1", (time.time(),)
        ).fetchone()
    return row


def _post(webhook: Webhook, event: sqlite3.Row) -> str | None:
    """Deliver an event. Returns None when the receiver has taken it, otherwise the reason why it has not."""
    body = json.dumps(
        {
            "id": event["event_id"],
            "object": "event",
            "type": event["type"],
            "created_at": int(event["created_at"]),
            "data": {"id": event["batch_id"]},
        }
    ).encode()
    timestamp = int(time.time())  # of the attempt: receivers refuse signatures of more than five minutes ago
    headers = {
        "content-type": "application/json",
        "user-agent": _USER_AGENT,
        "webhook-id": event["id"],
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(webhook.key, event["id"], timestamp, body),
    }
    parts = webhook.parts
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an invalid host name
        return type(error).__name__
    finally:
        connection.close()
    return None if 200 <= status <= 299 else f"status {status}"


def _record_attempt(store: Store, webhook: Webhook, event: sqlite3.Row, refusal: str | None, timing: Timing) -> None:
    """Delete an event that the receiver has taken, or refused for 72 hours. Repeat any other event later."""
    now = time.time()
    tries = event["tries"] + 1
    pause = min(
        timing.webhook_first_pause_seconds * 2.0 ** min(event["tries"], 32), timing.webhook_longest_pause_seconds
    )
    is_done = refusal is None or now + pause > event["created_at"] + timing.webhook_give_up_seconds
    with store.transaction() as connection:
        if is_done:
            connection.execute("DELETE FROM webhook WHERE seq = ?", (event["seq"],))
        else:
            connection.execute(
                "UPDATE webhook SET tries = ?, due_at = ? WHERE seq = ?", (tries, now + pause, event["seq"])
            )
    subject = f"{event['batch_id']}: webhook {event['type']}"
    if refusal is None:
        logger.info("%s delivered to %s", subject, webhook.origin)
    elif is_done:
        logger.warning("%s given up after %d tries: %s from %s", subject, tries, refusal, webhook.origin)
    else:
        logger.info("%s not delivered: %s from %s; again in %g s", subject, refusal, webhook.origin, pause)
