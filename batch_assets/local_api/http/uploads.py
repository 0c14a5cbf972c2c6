"""Multipart bodies, parsed while they arrive. The file goes to the disk piece by piece, so that it needs no memory.

Starlette's `request.form()` limits fields, but not the size of a file, and it writes the file to the system's temporary
folder. The server would have to copy it to its own folder: a third more CPU time, and twice the space on the disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from batch_assets.local_api.wire import errors, ids
from batch_assets.local_api.wire.errors import ApiError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAXIMUM_FIELD_BYTES = 64 * 1024
_MAXIMUM_FIELDS = 32
_WRITE_BYTES = 1024 * 1024


@dataclass
class Upload:
    """The contents of a multipart request. The file is at `path`, written but not yet synced."""

    path: Path
    filename: str = "upload"
    fields: dict[str, str] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def receive_upload(request: Request, directory: Path, maximum_bytes: int) -> AsyncIterator[Upload]:
    """Receive a request with a part `file`. At the end of the block, a file that is still at its path is removed.

    Raises ApiError when the body is malformed, or has no file, or a file of more than `maximum_bytes`.
    """
    upload = Upload(directory / ids.new_file_id())
    try:
        with upload.path.open("xb") as file:
            await _receive(request, upload, file, maximum_bytes)
        yield upload
    finally:
        upload.path.unlink(missing_ok=True)


async def _receive(request: Request, upload: Upload, file: BinaryIO, maximum_bytes: int) -> None:
    reader = _Reader(upload, maximum_bytes)
    content_type, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if content_type != b"multipart/form-data" or not boundary:
        raise ApiError(400, "Expected a multipart/form-data body with a boundary.")
    failure: OSError | None = None
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        async for chunk in request.stream():
            parser.write(chunk)
            if len(reader.pending) >= _WRITE_BYTES:
                data = reader.take()
                failure = failure or await run_in_threadpool(_write, file, data)
    except FormParserError as error:
        raise ApiError(400, f"Could not parse multipart form: {error}") from error
    failure = failure or await run_in_threadpool(_write, file, reader.take())
    if failure is not None:
        raise failure
    if not reader.ended:
        raise ApiError(400, "Could not parse multipart form: the body ends before its last boundary.")
    if not reader.has_file:
        raise errors.missing_parameter("file")
    if reader.file_bytes > maximum_bytes:
        raise ApiError(400, "File is too large.")


def _write(file: BinaryIO, data: bytearray) -> OSError | None:
    """Returns the error of a full disk, and does not raise it: a client reads no response before it has sent all."""
    try:
        file.write(data)
    except OSError as error:
        return error
    return None


class _Reader:
    """Collects the parts of a body: fields in memory, the file's bytes in `pending` until `take`.

    A file that is too large is read to its end too, but not stored: a client that still sends would see a broken
    connection instead of the response.
    """

    def __init__(self, upload: Upload, maximum_bytes: int) -> None:
        self.pending = bytearray()
        self.file_bytes = 0
        self.has_file = False
        self.ended = False
        self._upload = upload
        self._maximum_bytes = maximum_bytes
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._name = ""
        self._value = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._part_begin,
            # The parser limits the size of a header and their number.
            "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def take(self) -> bytearray:
        data, self.pending = self.pending, bytearray()
        return data

    def _part_begin(self) -> None:
        self._disposition = b""
        self._value = bytearray()

    def _header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise ApiError(400, "Could not parse multipart form: a part has no name.")
        self._name = _text(options[b"name"])
        if self._name == "file":
            if self.has_file:
                raise ApiError(400, "Could not parse multipart form: more than one part 'file'.")
            self.has_file = True
            self._upload.filename = _text(options.get(b"filename", b"")) or "upload"
        elif len(self._upload.fields) >= _MAXIMUM_FIELDS:
            raise _fields_too_large()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name != "file":
            self._value += data[start:end]
            if len(self._value) > _MAXIMUM_FIELD_BYTES:
                raise _fields_too_large()
            return
        self.file_bytes += end - start
        if self.file_bytes <= self._maximum_bytes:
            self.pending += memoryview(data)[start:end]

    def _part_end(self) -> None:
        if self._name != "file":
            self._upload.fields[self._name] = _text(bytes(self._value))

    def _end(self) -> None:
        self.ended = True


def _fields_too_large() -> ApiError:
    return ApiError(400, "Could not parse multipart form: too much data besides the file.")


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
