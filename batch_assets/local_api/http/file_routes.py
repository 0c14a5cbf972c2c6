"""`/v1/files`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from batch_assets.local_api.http.handlers import Api, api_of, respond, response_to_creation
from batch_assets.local_api.http.responses import JsonResponse
from batch_assets.local_api.http.uploads import receive_upload
from batch_assets.local_api.storage import files
from batch_assets.local_api.wire.errors import ApiError

_CHUNK_BYTES = 256 * 1024


async def _create_file(request: Request) -> Response:
    api = api_of(request)
    maximum_bytes = api.settings.limits.file_bytes
    async with receive_upload(request, api.settings.uploads_directory, maximum_bytes) as upload:
        file = await run_in_threadpool(
            files.create_file, api.store, api.settings, upload.path, upload.filename, upload.fields
        )
    return response_to_creation(api, "upload", file)


async def _list_files(request: Request) -> Response:
    return await respond(files.list_files, api_of(request).store, request.query_params)


async def _get_file(request: Request) -> Response:
    row = await run_in_threadpool(files.get_file, api_of(request).store, request.path_params["file_id"])
    return JsonResponse(files.file_object(row))


async def _delete_file(request: Request) -> Response:
    api = api_of(request)
    return await respond(files.delete_file, api.store, api.settings, request.path_params["file_id"])


async def _get_content(request: Request) -> Response:
    """Chunked octets, as recorded from OpenAI, although OpenAI's specification says a JSON string."""
    return await content_response(api_of(request), request.path_params["file_id"], "application/octet-stream")


async def content_response(api: Api, file_id: str, media_type: str) -> Response:
    """A file's content, for a download. Raises ApiError if there is no such file, or not yet."""
    row = await run_in_threadpool(files.get_file, api.store, file_id)
    not_found = ApiError(404, f"No such File object: {file_id}", param="id")
    output_late = api.settings.fault_injector.faults.output_late
    if row["purpose"] == "batch_output" and time.time() < row["created_at"] + output_late:
        raise not_found
    try:
        # Opened here, so that a deletion from now on does not disturb the download.
        file = files.content_path(api.settings, file_id).open("rb")
    except FileNotFoundError as error:
        raise not_found from error
    disposition = _content_disposition(row["filename"])
    return StreamingResponse(_chunks(file), media_type=media_type, headers={"content-disposition": disposition})


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _content_disposition(filename: str) -> str:
    """The client's file name: quoted if its characters are safe, otherwise percent-encoded (RFC 6266)."""
    name = Path(filename).name
    if name.isascii() and name.isprintable() and not set(name) & set('"\\'):
        return f'attachment; filename="{name}"'
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


ROUTES = [
    Route("/v1/files", _create_file, methods=["POST"]),
    Route("/v1/files", _list_files),
    Route("/v1/files/{file_id}", _get_file),
    Route("/v1/files/{file_id}", _delete_file, methods=["DELETE"]),
    Route("/v1/files/{file_id}/content", _get_content),
]
