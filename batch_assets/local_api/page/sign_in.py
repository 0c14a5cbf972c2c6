"""The page that a browser without the cookie gets."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from batch_assets.local_api.page.access import check_sender
from batch_assets.local_api.page.forms import read_form
from batch_assets.local_api.page.rendering import access_of, render

_OLD_ADDRESS = (
    "This address is no longer valid: the server has started again. Open the address that it printed then, or enter "
    "the key."
)
_WRONG_KEY = "Incorrect API key provided."


def _form(request: Request) -> Response:
    """With a token behind `#`, the page's script posts it at once."""
    access = access_of(request)
    if access.has_session(request):  # a server without a key
        return RedirectResponse(f"{access.root}/batches", status_code=303)
    return render(request, "sign_in.html", error=None)


async def _sign_in(request: Request) -> Response:
    check_sender(request)
    access = access_of(request)
    form = await read_form(request)
    token, key = form.get("token", ""), form.get("key", "").strip()
    if access.accepts(token) or access.accepts(key):
        return access.response_with_session()
    return render(request, "sign_in.html", status=403, error=_OLD_ADDRESS if token else _WRONG_KEY)


ROUTES = [Route("/", _form), Route("/sign-in", _sign_in, methods=["POST"])]
