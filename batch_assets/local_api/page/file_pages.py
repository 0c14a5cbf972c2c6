"""The list of files with the form that uploads one, and downloads."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from batch_assets.local_api.http.file_routes import content_response
from batch_assets.local_api.http.handlers import api_of
from batch_assets.local_api.http.uploads import Upload, receive_upload
from batch_assets.local_api.page.forms import page_query
from batch_assets.local_api.page.rendering import access_of, render
from batch_assets.local_api.storage import files
from batch_assets.local_api.wire.errors import ApiError


def _files(request: Request) -> Response:
    return _list_page(request, page_query(request))


async def _upload(request: Request) -> Response:
    """To the form that creates a batch of the file, or the list with the API's error."""
    api, access = api_of(request), access_of(request)

    def create(upload: Upload) -> dict[str, Any]:
        access.check_form_token(upload.fields.get("form_token", ""))
        return files.create_file(api.store, api.settings, upload.path, upload.filename, {"purpose": "batch"})

    try:
        async with receive_upload(request, api.settings.uploads_directory, api.settings.limits.file_bytes) as upload:
            file = await run_in_threadpool(create, upload)
    except ApiError as error:
        return await run_in_threadpool(_list_page, request, page_query(request), error)
    return RedirectResponse(f"{access.root}/batches/new?file={file['id']}", status_code=303)


def _list_page(request: Request, query: dict[str, str], error: ApiError | None = None) -> Response:
    return render(
        request,
        "files.html",
        status=200 if error is None else error.status,
        page=files.list_files(api_of(request).store, query),
        after=query.get("after"),
        error=None if error is None else error.message,
    )


async def _download(request: Request) -> Response:
    """As an attachment of plain text, which no browser shows as a page."""
    return await content_response(api_of(request), request.path_params["file_id"], "text/plain")


ROUTES = [
    Route("/files", _files),
    Route("/files", _upload, methods=["POST"]),
    Route("/files/{file_id}/content", _download),
]
