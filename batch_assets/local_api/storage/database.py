"""The server's database: one SQLite file in WAL mode, one connection, short transactions.

Rows of deleted files stay, so that a listing can continue after a file that was deleted.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE file (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT, -- order of creation, and of listings
    id         TEXT NOT NULL UNIQUE,
    filename   TEXT NOT NULL,
    purpose    TEXT NOT NULL,
    bytes      INTEGER NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL,
    deleted_at REAL
);
CREATE TABLE batch (
    seq               INTEGER PRIMARY KEY AUTOINCREMENT,
    id                TEXT NOT NULL UNIQUE,
    status            TEXT NOT NULL,
    endpoint          TEXT NOT NULL,
    input_file_id     TEXT NOT NULL,
    completion_window TEXT NOT NULL,
    metadata          TEXT,               -- JSON object
    output_expires_after_seconds INTEGER,
    model             TEXT,
    errors            TEXT,               -- JSON array of {code, message, param, line}
    output_file_id    TEXT,
    error_file_id     TEXT,
    usage             TEXT,               -- JSON object, once the batch has ended
    total             INTEGER NOT NULL DEFAULT 0,
    completed         INTEGER NOT NULL DEFAULT 0,
    failed            INTEGER NOT NULL DEFAULT 0,
    created_at        REAL NOT NULL,
    expires_at        REAL NOT NULL,
    in_progress_at    REAL,
    finalizing_at     REAL,
    completed_at      REAL,
    failed_at         REAL,
    expired_at        REAL,
    cancelling_at     REAL,
    cancelled_at      REAL
);
CREATE INDEX batch_status ON batch (status);
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
PRAGMA user_version = 1;
"""

# Version → its changes to the version before.
_ADDITIONS = {
    2: """
CREATE TABLE IF NOT EXISTS webhook (      -- an event that the receiver has not taken yet
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL,             -- the same for each attempt
    event_id   TEXT NOT NULL,
    type       TEXT NOT NULL,
    batch_id   TEXT NOT NULL,
    created_at REAL NOT NULL,
    tries      INTEGER NOT NULL DEFAULT 0,
    due_at     REAL NOT NULL              -- no attempt before this time
);
PRAGMA user_version = 2;
""",
}


class OtherVersionError(RuntimeError):
    """Another version of this project wrote the database, and this version can't read it."""


class Store:
    """Owns the connection, for one transaction at a time. Safe for threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its other files the same mode
        # Transactions begin and end explicitly (isolation_level=None). sqlite3's implicit transactions would begin with
        # a read, and could fail to get the write lock later.
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode = WAL")
        # Everything in a response must survive a power cut, not only a crash of this process.
        self._connection.execute("PRAGMA synchronous = FULL")
        self._create_schema(path)

    def _create_schema(self, path: Path) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise OtherVersionError(
                f"{path} was written by another version of the local Batch API (schema {version}, "
                f"this one reads {_SCHEMA_VERSION}). Use another directory, or delete this one."
            )
        steps = [_SCHEMA] if version == 0 else []
        steps += [addition for number, addition in _ADDITIONS.items() if number > version]
        for step in steps:
            self._connection.executescript(f"BEGIN IMMEDIATE; {step} COMMIT;")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            yield self._connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commits all changes to the disk at the end of the block, or none after an exception."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # A commit that fails on a full disk may have ended the transaction.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def add_to_counter(connection: sqlite3.Connection, name: str, amount: int) -> None:
    connection.execute(
        "INSERT INTO counter (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (name, amount),
    )


def read_counter(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT value FROM counter WHERE name = ?", (name,)).fetchone()
    return row["value"] if row else 0


def read_setting(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
    return row["value"] if row else None


def write_setting(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute(
        "INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )
