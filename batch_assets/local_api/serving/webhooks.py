"""Webhooks: a POST to one URL when a batch has ended, signed as OpenAI signs (Standard Webhooks).

An event is written in the transaction that ends its batch, and removed when somebody has taken it: so each is
delivered at least once, whatever is killed when, in no certain order. As at OpenAI, it says only which batch ended and
how, a redirect counts as a refusal, and what is refused is tried again, ever more rarely, for 72 hours.
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

from batch_assets.local_api.storage.database import Store
from batch_assets.local_api.storage.private import read_private_file, write_private_file

logger = logging.getLogger(__name__)

SECRET_VARIABLE = "BATCH_ASSETS_SERVE_WEBHOOK_SECRET"  # noqa: S105 (a name)
FIRST_PAUSE_SECONDS = 1.0  # doubled after each refusal
LONGEST_PAUSE_SECONDS = 3600.0
GIVE_UP_SECONDS = 72 * 3600.0
_TIMEOUT_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_STOP_SECONDS = 3.0
_MADE = re.compile(r"whsec_[A-Za-z0-9+/]{43}=")  # a secret of ours
_USER_AGENT = "OpenAI/1.0 (+https://platform.openai.com/docs/webhooks)"  # [recorded]

# Temporary: it lives as long as the connection, so a server without a webhook leaves nothing for a later one to send.
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
    """Where events go, and what they are signed with."""

    url: str
    key: bytes

    @property
    def parts(self) -> SplitResult:
        return urlsplit(self.url)

    @property
    def place(self) -> str:
        """What may be printed: a path may be somebody's secret."""
        return f"{self.parts.scheme}://{self.parts.netloc}"


def make_webhook(url: str, secret: str) -> Webhook:
    """Raises ValueError for a URL or a secret that can't be used; the secret is not repeated."""
    parts = urlsplit(url)
    try:
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.username is None and parts.port != 0
    except ValueError:  # no port
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
    """The secret from the environment, or one that is made once and kept, for its owner's eyes only. Raises OSError."""
    if given := os.environ.get(SECRET_VARIABLE):
        return given
    path = secret_path(directory)
    secret = (read_private_file(path) or "").strip()
    if not _MADE.fullmatch(secret):  # there is none, it was cut, or others could read it
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        write_private_file(path, secret)
    return secret


def signature(key: bytes, webhook_id: str, timestamp: int, body: bytes) -> str:
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def note_ends(store: Store, webhook: Webhook | None) -> None:
    """From now on, each batch that ends leaves an event. Raises sqlite3.Error."""
    if webhook is not None:
        with store.transaction() as connection:
            connection.execute(_TRIGGER)


@contextlib.contextmanager
def delivering(store: Store, webhook: Webhook | None) -> Iterator[None]:
    """Within the block, what `note_ends` notes is announced; what an earlier server could not deliver, too."""
    if webhook is None:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(
        target=_deliver_until, args=(stop, store, webhook), name="local-api-webhooks", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_STOP_SECONDS)  # a receiver that says nothing does not keep us


def _deliver_until(stop: threading.Event, store: Store, webhook: Webhook) -> None:
    while not stop.wait(_LOOK_SECONDS):
        try:
            while not stop.is_set() and (event := _next_due(store)) is not None:
                _settle(store, webhook, event, _post(webhook, event))
        except sqlite3.ProgrammingError:
            return  # the server has stopped and closed the database; the next one tries again
        except Exception:
            logger.exception("Could not look after webhooks; they are tried again.")
            stop.wait(_STOP_SECONDS)


def _next_due(store: Store) -> sqlite3.Row | None:
    with store.read() as connection:
        row: sqlite3.Row | None = connection.execute(
            "SELECT * FROM webhook WHERE due_at <= ? ORDER BY due_at, seq LIMIT 1", (time.time(),)
        ).fetchone()
    return row


def _post(webhook: Webhook, event: sqlite3.Row) -> str | None:
    """Try to deliver: None when it was taken, otherwise why it wasn't."""
    body = json.dumps(
        {
            "id": event["event_id"],
            "object": "event",
            "type": event["type"],
            "created_at": int(event["created_at"]),
            "data": {"id": event["batch_id"]},
        }
    ).encode()
    timestamp = int(time.time())  # of the try: receivers refuse what was signed more than five minutes ago
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
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a name that no host can have
        return type(error).__name__
    finally:
        connection.close()
    return None if 200 <= status <= 299 else f"status {status}"


def _settle(store: Store, webhook: Webhook, event: sqlite3.Row, refusal: str | None) -> None:
    """Remove an event that was taken, or that nobody takes for 72 hours; put off another."""
    now = time.time()
    tries = event["tries"] + 1
    pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(event["tries"], 32), LONGEST_PAUSE_SECONDS)
    done = refusal is None or now + pause > event["created_at"] + GIVE_UP_SECONDS
    with store.transaction() as connection:
        if done:
            connection.execute("DELETE FROM webhook WHERE seq = ?", (event["seq"],))
        else:
            connection.execute(
                "UPDATE webhook SET tries = ?, due_at = ? WHERE seq = ?", (tries, now + pause, event["seq"])
            )
    what = f"{event['batch_id']}: webhook {event['type']}"
    if refusal is None:
        logger.info("%s delivered to %s", what, webhook.place)
    elif done:
        logger.warning("%s given up after %d tries: %s from %s", what, tries, refusal, webhook.place)
    else:
        logger.info("%s not delivered: %s from %s; again in %g s", what, refusal, webhook.place, pause)
