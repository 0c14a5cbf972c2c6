"""The list of batches, the page of one batch, and the form that creates one."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from batch_assets.local_api.endpoints import registry
from batch_assets.local_api.http.batch_routes import cancel_batch, create_batch, get_batch, list_batches
from batch_assets.local_api.http.handlers import Api, api_of
from batch_assets.local_api.page import batch_view
from batch_assets.local_api.page.forms import page_query, read_form
from batch_assets.local_api.page.rendering import access_of, render
from batch_assets.local_api.storage import files
from batch_assets.local_api.wire import strict_json
from batch_assets.local_api.wire.errors import ApiError

_MAXIMUM_CHOICES = 100
_MAXIMUM_FIRST_LINE_BYTES = 1024 * 1024
_FILES = {"input_file_id": "Input", "output_file_id": "Output", "error_file_id": "Errors"}


def _batches(request: Request) -> Response:
    page = list_batches(api_of(request), page_query(request))
    running = any(batch_view.is_running(batch) for batch in page["data"])
    return render(request, "batches.html", page=page, running=running, after=request.query_params.get("after"))


def _batch(request: Request) -> Response:
    batch = get_batch(api_of(request), request.path_params["batch_id"])
    return _batch_page(request, batch)


async def _cancel(request: Request) -> Response:
    """To the page of the batch, or the page with the reason why the batch can't be cancelled."""
    api, access, batch_id = api_of(request), access_of(request), request.path_params["batch_id"]
    access.check_form_token((await read_form(request)).get("form_token", ""))

    def cancel() -> Response:
        try:
            cancel_batch(api, batch_id)
        except ApiError as error:
            if error.status != 409:
                raise
            return _batch_page(request, get_batch(api, batch_id), error)
        return RedirectResponse(f"{access.root}/batches/{batch_id}", status_code=303)

    return await run_in_threadpool(cancel)


def _batch_page(request: Request, batch: dict[str, Any], error: ApiError | None = None) -> Response:
    api = api_of(request)
    found = {title: (batch[name], files.find_file(api.store, batch[name] or "")) for name, title in _FILES.items()}
    return render(
        request,
        "batch.html",
        status=200 if error is None else error.status,
        batch=batch,
        files=found,
        log=batch_view.log_of(batch),
        running=batch_view.is_running(batch),
        can_be_cancelled=batch_view.can_be_cancelled(batch),
        error=None if error is None else error.message,
    )


def _new(request: Request) -> Response:
    """`?file=` selects a file, and the endpoint of its first line."""
    file_id = request.query_params.get("file", "")
    return _form(request, file_id, _endpoint_of(api_of(request), file_id))


async def _create(request: Request) -> Response:
    """To the page of the new batch, or the form with the API's error."""
    api, access, form = api_of(request), access_of(request), await read_form(request)
    access.check_form_token(form.get("form_token", ""))
    body = {name: form[name] for name in ("input_file_id", "endpoint") if form.get(name)}

    def create() -> Response:
        try:
            batch = create_batch(api, {**body, "completion_window": "24h"})
        except ApiError as error:
            return _form(request, form.get("input_file_id", ""), form.get("endpoint"), error)
        return RedirectResponse(f"{access.root}/batches/{batch['id']}", status_code=303)

    return await run_in_threadpool(create)


def _form(request: Request, file_id: str, endpoint: str | None, error: ApiError | None = None) -> Response:
    api = api_of(request)
    query = {"purpose": "batch", "limit": str(_MAXIMUM_CHOICES)}
    choices = files.list_files(api.store, query)["data"]
    selected = files.find_file(api.store, file_id)
    if selected is not None and file_id not in [choice["id"] for choice in choices]:
        choices.append(files.file_object(selected))
    return render(
        request,
        "new_batch.html",
        status=200 if error is None else error.status,
        choices=choices,
        endpoints=list(registry.ENDPOINTS),
        file_id=file_id,
        endpoint=endpoint,
        error=None if error is None else error.message,
    )


def _endpoint_of(api: Api, file_id: str) -> str | None:
    """The endpoint that the first line of a file names; None if it is not known."""
    if files.find_file(api.store, file_id) is None:
        return None
    try:
        with files.content_path(api.settings, file_id).open("rb") as file:
            line = strict_json.loads(file.readline(_MAXIMUM_FIRST_LINE_BYTES))
    except (FileNotFoundError, ValueError):
        return None
    endpoint = line.get("url") if isinstance(line, dict) else None
    return endpoint if isinstance(endpoint, str) and endpoint in registry.ENDPOINTS else None


ROUTES = [
    Route("/batches", _batches),
    Route("/batches", _create, methods=["POST"]),
    Route("/batches/new", _new),
    Route("/batches/{batch_id}", _batch),
    Route("/batches/{batch_id}/cancel", _cancel, methods=["POST"]),
]
