"""The images of a day: the URL or the file that each article's image is.

A name of a file is text from outside, so it leads to files of one folder only, which the user sets. The custom_id of a
request has the sha256 of the file, so a changed image is a new request, and a moved one is not. A file that cannot be
used fails the requests with it, and no other; once it can be used, these requests have another custom_id and are sent.
"""

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import duckdb

from batch_assets.batching.ledger.outcomes import IMAGE_MISSING, IMAGE_TOO_LARGE, IMAGE_UNUSABLE
from batch_assets.batching.planning.task import Task, TaskError
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.prices import estimated_input_tokens
from batch_assets.batching.safety.outside_text import as_message

# https://developers.openai.com/api/docs/guides/images-vision: PNG, JPEG, WEBP, GIF that is not animated; 20 MB each.
# By the first bytes: the ending of a name may be wrong.
MAX_IMAGE_BYTES = 20_000_000
FORMATS: Mapping[bytes, str] = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}
MAX_NAME = 200  # characters of a name in a message
URLS = ("https://", "http://", "data:image/")
TOKENS_PER_IMAGE = 1000  # 765 of 1,024 pixels in a square at high detail (the guide above), more at newer models

CREATE_TABLE = """
    -- value: as the source has it. reference: what the custom_id and the body have: a URL, or the sha256 of the file.
    -- path, media_type: of a file. code, message: why no request can be made of it
    CREATE OR REPLACE TEMP TABLE article_image (
        value VARCHAR, reference VARCHAR, path VARCHAR, media_type VARCHAR, code VARCHAR, message VARCHAR
    )
"""
ENTER_IMAGES = f"""
    INSERT INTO article_image (value, reference, path, media_type, code, message)
    SELECT {", ".join(["unnest(?::VARCHAR[])"] * 6)}
"""
FIND_VALUES = """
    SELECT DISTINCT coalesce(extra[$column], '') FROM raw_articles
    WHERE source = $source AND partition_date = CAST($day AS DATE)
"""
ENTER_FAILURES = """
    INSERT INTO failed_request (custom_id, batch_id, code, message, retryable, superseded, failed_at)
    SELECT DISTINCT custom_id, '', article_image.code, message, false, false, $now
    FROM request_index SEMI JOIN request_to_send USING (custom_id)
    JOIN raw_articles ON raw_articles.rowid = row JOIN article_image ON value = coalesce(extra[$column], '')
    WHERE request_index.code IS NOT NULL
"""


class ArticleImage(NamedTuple):
    """An image, as a row of the temp table `article_image`."""

    value: str
    reference: str
    path: str | None = None
    media_type: str | None = None
    code: str | None = None
    message: str | None = None


class NoImageError(Exception):
    """Why a file cannot be used: a code and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def estimated_tokens(task: Task, byte_count: int, requests: int) -> int:
    """Input tokens of request lines: by their bytes or, with images, whose bytes are no measure, by their number."""
    return estimated_input_tokens(byte_count) if task.image is None else requests * TOKENS_PER_IMAGE


def find_images(connection: duckdb.DuckDBPyConnection, task: Task, source: str, day: str, folder: Path | None) -> None:
    """Fill the temp table `article_image` with the images of the day. Reads each file once.

    folder: with the images that are files; None: all are URLs.
    """
    if task.image is None:
        return
    connection.execute(CREATE_TABLE)
    values = connection.execute(FIND_VALUES, {"column": task.image, "source": source, "day": day}).fetchall()
    images = [_image(task, value, folder) for (value,) in values]
    connection.execute(ENTER_IMAGES, [list(column) for column in zip(*images, strict=True)] or [[]] * 6)


def enter_failures(connection: duckdb.DuckDBPyConnection, task: Task) -> None:
    """Enter the requests to send whose image cannot be used into `failed_request`, each with its reason."""
    if task.image is not None:
        connection.execute(ENTER_FAILURES, {"column": task.image, "now": now_utc()})


def encoded(reference: str, path: str, media_type: str) -> bytes:
    """The file as a data URL, in JSON. Raises TaskError if it has changed since `find_images` read it."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != reference:
        raise TaskError(f"The image {as_message(path)} changed while the run read it. Materialize the day again.")
    return b'"data:%s;base64,%s"' % (media_type.encode(), b64encode(content))


def _image(task: Task, value: str, folder: Path | None) -> ArticleImage:
    if value.lower().startswith(URLS):
        return ArticleImage(value, value)
    try:
        path = _path(task, value, folder)
        content = _content(value, path)
    except NoImageError as error:
        return ArticleImage(value, f"{error.code} {value}", code=error.code, message=str(error))
    return ArticleImage(value, hashlib.sha256(content).hexdigest(), str(path), _media_type(content))


def _path(task: Task, value: str, folder: Path | None) -> Path:
    """The file in the folder. Raises NoImageError."""
    if not value.strip():
        raise NoImageError(IMAGE_MISSING, f"The article has no image: its column {task.image} is empty.")
    shown = _shown(value)
    if folder is None:
        raise NoImageError(
            IMAGE_MISSING, f"The image {shown} is no URL, and the task has no `image_folder` in which to find the file."
        )
    try:
        path = (folder / value).resolve()
        is_file = path.is_file()
    except (OSError, ValueError):  # too long, or with a NUL
        is_file = False
    if is_file and not path.is_relative_to(folder.resolve()):
        raise NoImageError(IMAGE_UNUSABLE, f"The image {shown} is not in {folder}. The run reads only files in it.")
    if not is_file:
        raise NoImageError(IMAGE_MISSING, f"The image {shown} is not in {folder}. Add it, and plan the day again.")
    return path


def _content(value: str, path: Path) -> bytes:
    """The bytes of an image that the API takes. Raises NoImageError."""
    shown = _shown(value)
    try:
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES:
            raise NoImageError(
                IMAGE_TOO_LARGE,
                f"The image {shown} has {size:,} bytes; at most {MAX_IMAGE_BYTES:,} may be sent. Shrink it.",
            )
        content = path.read_bytes()
    except OSError as error:
        raise NoImageError(IMAGE_UNUSABLE, f"The image {shown} cannot be read: {error.strerror}.") from error
    if not _media_type(content):
        raise NoImageError(IMAGE_UNUSABLE, f"The image {shown} is no PNG, JPEG, WEBP or GIF, whatever its name says.")
    return content


def _shown(value: str) -> str:
    return as_message(value if len(value) <= MAX_NAME else f"{value[:MAX_NAME]}…")


def _media_type(content: bytes) -> str:
    """The media type by the first bytes; empty if the API takes no such file."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in FORMATS.items() if content.startswith(start)), "")
