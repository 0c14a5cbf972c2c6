"""HTML pages of templates. Every text is escaped, made printable and shortened, whatever it is."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import HTMLResponse

from batch_assets.local_api.http.handlers import api_of
from batch_assets.local_api.page import batch_view
from batch_assets.local_api.page.access import PREFIX, PageAccess
from batch_assets.local_api.wire.errors import ApiError, shorten
from batch_assets.local_api.wire.printable import printable

if TYPE_CHECKING:
    import jinja2

_TEMPLATES = Path(__file__).parent / "templates"
_ERROR_TITLES = {403: "Refused", 404: "Not found", 409: "Not possible now", 500: "Server error", 507: "Disk full"}


def access_of(request: Request) -> PageAccess:
    access: PageAccess = request.app.state.access
    return access


def render(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page. Each template may use `root`, the path of all pages (None without the session), and the other values."""
    access = access_of(request)
    page = _environment().get_template(template)
    content = page.render(
        root=access.root if access.has_session(request) else None,
        prefix=PREFIX,
        static=f"{PREFIX}/static",
        api_name=api_of(request).settings.api_name,
        form_token=access.form_token,
        **values,
    )
    return HTMLResponse(content, status_code=status)


def error_page(request: Request, error: ApiError) -> HTMLResponse:
    """A page with nothing but the error's sentence."""
    title = _ERROR_TITLES.get(error.status, "Invalid request")
    return render(request, "error.html", status=error.status, title=title, error=error.message)


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2  # a server whose page no user opens does not need it in memory
    from markupsafe import Markup

    def shown(value: object) -> object:
        is_text = isinstance(value, str) and not isinstance(value, Markup)
        return printable(shorten(str(value))) if is_text else value

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"utc": _utc, "iso": _iso, "number": _number, "size": _size, "words": _words}
    environment.filters |= {"progress": batch_view.progress, "ended_at": batch_view.ended_at}
    return environment


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _number(value: int) -> str:
    return f"{value:,}"


def _size(count: int) -> str:
    """Bytes as `812 bytes`, `1.2 kB`, `34 MB`."""
    if count < 1000:
        return f"{count} byte{'' if count == 1 else 's'}"
    size, unit = (count / 1e6, "MB") if count >= 999_500 else (count / 1e3, "kB")
    return f"{size:.1f} {unit}" if size < 10 else f"{size:,.0f} {unit}"


def _words(name: str) -> str:
    """`in_progress` as words."""
    return name.replace("_", " ")
