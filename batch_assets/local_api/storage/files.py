"""File objects: rows in the database, contents on disk under their generated ids.

The server inserts a row when the content is complete and on the disk, and deletes the row before the content. So a row
never names a missing or incomplete content. `sweep` removes contents without a row, which a crash may leave.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batch_assets.local_api.settings import Settings
from batch_assets.local_api.storage.database import Store
from batch_assets.local_api.wire import errors, ids, strict_json
from batch_assets.local_api.wire.errors import ApiError
from batch_assets.local_api.wire.listing import list_object, read_page
from batch_assets.local_api.wire.parameters import read_integer

logger = logging.getLogger(__name__)

PURPOSES = ("fine-tune", "assistants", "batch", "user_data", "vision", "evals")
_MAXIMUM_FIRST_LINE_BYTES = 16 * 1024 * 1024
_MINIMUM_EXPIRY_SECONDS = 3600
_MAXIMUM_EXPIRY_SECONDS = 30 * 24 * 3600

_VISIBLE = "deleted_at IS NULL AND (expires_at IS NULL OR expires_at > :now)"


def file_object(row: sqlite3.Row) -> dict[str, Any]:
    """OpenAI's file object. Its `status` is `processed` at once, as in recorded traffic."""
    return {
        "id": row["id"],
        "object": "file",
        "bytes": row["bytes"],
        "created_at": int(row["created_at"]),
        "expires_at": None if row["expires_at"] is None else int(row["expires_at"]),
        "filename": row["filename"],
        "purpose": row["purpose"],
        "status": "processed",
        "status_details": None,
    }


def content_path(settings: Settings, file_id: str) -> Path:
    if not ids.is_file_id(file_id):
        raise ValueError(f"not a file id of this server: {file_id!r}")
    return settings.files_directory / file_id


def expiry_seconds(param: str, value: object) -> int:
    """The seconds of an `expires_after` object: {"anchor": "created_at", "seconds": 3600..2592000}."""
    if not isinstance(value, dict):
        raise errors.invalid_type(param, "an object", value)
    for key in ("anchor", "seconds"):
        if key not in value:
            raise errors.missing_parameter(f"{param}.{key}")
    for key in value:
        if key not in ("anchor", "seconds"):
            raise errors.unknown_parameter(f"{param}.{key}")
    anchor = errors.check_string(f"{param}.anchor", value["anchor"])
    if anchor != "created_at":
        raise errors.invalid_value(f"{param}.anchor", anchor, ["created_at"])
    return errors.check_integer(
        f"{param}.seconds",
        value["seconds"],
        minimum=_MINIMUM_EXPIRY_SECONDS,
        maximum=_MAXIMUM_EXPIRY_SECONDS,
    )


def create_file(
    store: Store, settings: Settings, upload: Path, filename: str, fields: Mapping[str, str]
) -> dict[str, Any]:
    """Make a file object of a complete upload, which is moved. Raises ApiError, and then leaves the upload."""
    purpose = fields.get("purpose")
    if purpose is None:
        raise errors.missing_parameter("purpose")
    if purpose not in PURPOSES:
        raise ApiError(400, f"'{purpose}' is not one of {list(PURPOSES)} - 'purpose'")
    for name in fields:
        if name not in ("purpose", "expires_after[anchor]", "expires_after[seconds]"):
            raise errors.unknown_parameter(name)
    seconds: float | None = _expiry_of_upload(fields)
    if purpose == "batch":
        _check_batch_format(upload, filename)
        seconds = seconds or settings.timing.batch_file_expiry_seconds
    file_id = ids.new_file_id()
    size = upload.stat().st_size
    sync_file(upload)
    upload.rename(content_path(settings, file_id))
    sync_directory(settings.files_directory)
    with store.transaction() as connection:
        file = insert_file(connection, file_id, filename, purpose, size, seconds)
    logger.info("%s: uploaded, %s bytes", file_id, f"{size:,}")
    return file


def _expiry_of_upload(fields: Mapping[str, str]) -> int | None:
    value: dict[str, object] = {}
    for key in ("anchor", "seconds"):
        text = fields.get(f"expires_after[{key}]")
        if text is not None:
            value[key] = read_integer(text) if key == "seconds" else text
    return expiry_seconds("expires_after", value) if value else None


def _check_batch_format(upload: Path, filename: str) -> None:
    """Raises ApiError for another suffix, an empty file, or a first line that isn't JSON, as OpenAI does at upload.

    OpenAI accepts a name without a suffix. Validation of the batch checks all other lines.
    """
    is_good = Path(filename).suffix.lower() in ("", ".jsonl")
    if is_good:
        with upload.open("rb") as file:
            line = file.readline(_MAXIMUM_FIRST_LINE_BYTES)
        try:
            strict_json.loads(line)
        except ValueError:
            # Only the beginning of a longer line is read, to save memory.
            is_good = len(line) == _MAXIMUM_FIRST_LINE_BYTES and line.startswith(b"{")
    if not is_good:
        raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl")


def insert_file(
    connection: sqlite3.Connection,
    file_id: str,
    filename: str,
    purpose: str,
    size_bytes: int,
    expires_after_seconds: float | None,
) -> dict[str, Any]:
    """Insert the row of a content that is in its place already, within the caller's transaction."""
    now = time.time()
    expires_at = None if expires_after_seconds is None else now + expires_after_seconds
    row = connection.execute(
        "INSERT INTO file (id, filename, purpose, bytes, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?) RETURNING *",
        (file_id, filename, purpose, size_bytes, now, expires_at),
    ).fetchone()
    return file_object(row)


def find_file(store: Store, file_id: str) -> sqlite3.Row | None:
    """The row of a file that exists and has not expired."""
    if not ids.is_file_id(file_id):
        return None
    with store.read() as connection:
        row: sqlite3.Row | None = connection.execute(
            f"SELECT * FROM file WHERE id = :id AND {_VISIBLE}",  # noqa: S608 (a constant)
            {"id": file_id, "now": time.time()},
        ).fetchone()
    return row


def get_file(store: Store, file_id: str) -> sqlite3.Row:
    row = find_file(store, file_id)
    if row is None:
        raise ApiError(404, f"No such File object: {file_id}", param="id")
    return row


def list_files(store: Store, query: Mapping[str, str]) -> dict[str, Any]:
    page = read_page(query, default_limit=10_000, maximum_limit=10_000)
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise errors.invalid_value("order", order, ["asc", "desc"])
    direction, beyond = ("ASC", ">") if order == "asc" else ("DESC", "<")
    with store.read() as connection:
        seq = None
        if page.after is not None:
            found = None
            if ids.is_file_id(page.after):  # a deleted file too, so that a listing can continue after it
                found = connection.execute("SELECT seq FROM file WHERE id = ?", (page.after,)).fetchone()
            if found is None:
                raise ApiError(400, f"No such File object: {page.after}", param="after")
            seq = found["seq"]
        rows = connection.execute(
            f"SELECT * FROM file WHERE {_VISIBLE} "  # noqa: S608 (constants)
            f"AND (:purpose IS NULL OR purpose = :purpose) AND (:seq IS NULL OR seq {beyond} :seq) "
            f"ORDER BY seq {direction} LIMIT :limit",
            {"now": time.time(), "purpose": query.get("purpose"), "seq": seq, "limit": page.limit + 1},
        ).fetchall()
    return list_object([file_object(row) for row in rows], page.limit)


def delete_file(store: Store, settings: Settings, file_id: str) -> dict[str, Any]:
    get_file(store, file_id)
    with store.transaction() as connection:
        connection.execute("UPDATE file SET deleted_at = ? WHERE id = ?", (time.time(), file_id))
    content_path(settings, file_id).unlink(missing_ok=True)
    return {"id": file_id, "object": "file", "deleted": True}


def sweep(store: Store, settings: Settings) -> None:
    """Remove contents without a visible row: of expired files, and those that a crash left.

    Only safe when no client uploads and no batch runs: at the start of the server.
    """
    with store.read() as connection:
        rows = connection.execute(
            f"SELECT id FROM file WHERE {_VISIBLE}",  # noqa: S608 (a constant)
            {"now": time.time()},
        ).fetchall()
    known = {row["id"] for row in rows}
    for path in settings.files_directory.iterdir():
        if path.name not in known:
            path.unlink()
    for path in settings.uploads_directory.iterdir():
        path.unlink()


def remove_expired(store: Store, settings: Settings) -> None:
    """Remove the contents of files that have expired. Safe at any time."""
    now = time.time()
    with store.transaction() as connection:
        rows = connection.execute(
            "UPDATE file SET deleted_at = :now WHERE deleted_at IS NULL AND expires_at <= :now RETURNING id",
            {"now": now},
        ).fetchall()
    for row in rows:
        content_path(settings, row["id"]).unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a content a second name, which stays when the first is removed; a copy if the file system has no links."""
    try:
        os.link(source, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:
        shutil.copyfile(source, target)
        sync_file(target)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Sync renames and new names in a directory to the disk. Windows has no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
