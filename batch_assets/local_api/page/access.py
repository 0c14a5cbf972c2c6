"""Who may open the web page: a browser that has shown the page's token or a key of the API, and only its own pages.

A browser sends no key. So the command that starts the server prints an address with a token behind `#`, which browsers
send to no server. A script of the sign-in page posts the token, and the server sets a cookie.

Browsers send a cookie to all ports of a host, so also to the server of another user of this machine; but only to paths
below the cookie's path. So all pages are below a random path, which other users can't know. The API itself does not
accept the cookie.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from batch_assets.local_api.http.same_origin import is_same_origin
from batch_assets.local_api.wire.errors import ApiError

PREFIX = "/ui"
COOKIE = "batch_assets_page"
_READING = ("GET", "HEAD")


def _random() -> str:
    return secrets.token_hex(32)


@dataclass(frozen=True)
class PageAccess:
    """The page's secrets, all of them new at each start of the server.

    keys: of the API; none when every user of this machine may use the server.
    token: in the printed address. folder: in the path of all pages. session: in the cookie. form_token: in each form.
    """

    keys: Sequence[str]
    token: str = field(default_factory=_random, repr=False)
    folder: str = field(default_factory=lambda: secrets.token_hex(8))
    session: str = field(default_factory=_random, repr=False)
    form_token: str = field(default_factory=_random, repr=False)

    @property
    def root(self) -> str:
        """The path above all pages that need the cookie."""
        return f"{PREFIX}/{self.folder}"

    @property
    def address(self) -> str:
        """The path to open in a browser: with the token, if the server has a key."""
        return f"{PREFIX}/#{self.token}" if self.keys else f"{PREFIX}/"

    def accepts(self, given: str) -> bool:
        """Whether a text is the token, or a key."""
        return any(_equal(given, right) for right in (self.token, *self.keys))

    def has_session(self, request: Request) -> bool:
        return not self.keys or _equal(request.cookies.get(COOKIE, ""), self.session)

    def response_with_session(self) -> Response:
        """To the list of batches, with a cookie that no script can read. The browser deletes it when it is closed."""
        response = RedirectResponse(f"{self.root}/batches", status_code=303)
        response.set_cookie(COOKIE, self.session, path=f"{self.root}/", httponly=True, samesite="strict")
        return response

    def check_form_token(self, given: str) -> None:
        """Raises a 403."""
        if not _equal(given, self.form_token):
            raise ApiError(403, "This form is of an earlier start of the server. Load the page again.")


class SessionMiddleware:
    """ASGI middleware for all pages below the random folder."""

    def __init__(self, app: ASGIApp, access: PageAccess) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        check_sender(request)
        folder = request.path_params["folder"]
        if _equal(folder, self._access.folder) and self._access.has_session(request):
            await self._app(scope, receive, send)
        elif request.method in _READING:
            await RedirectResponse(f"{PREFIX}/", status_code=303)(scope, receive, send)
        else:
            raise ApiError(403, "You are signed out, since the server has started again. Open its address again.")


def is_page(path: str) -> bool:
    """Whether a path is the web page's: of a page, its scripts, or the form to sign in."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def check_sender(request: Request) -> None:
    """Raises a 403 unless a page of this server sent the request, or it opens a page (a link, the address bar).

    Browsers set the headers Origin and Sec-Fetch-Site, and pages can't change them. The API is less strict: it accepts
    pages of all ports of this machine, since they need the key. A browser adds the cookie without asking any page.
    """
    origins = request.headers.getlist("origin")
    sites = request.headers.getlist("sec-fetch-site")
    if request.method in _READING:
        is_own = all(site in ("same-origin", "none") for site in sites) or _opens_a_page(request)
    else:
        hosts = request.headers.getlist("host")
        is_own = (
            len(origins) == len(hosts) == 1
            and is_same_origin(origins[0], hosts[0])
            and all(site == "same-origin" for site in sites)
        )
    if not is_own:
        raise ApiError(403, "Only the pages of this server may send this request.")


def _opens_a_page(request: Request) -> bool:
    """Whether the browser shows the response as a page of its own, not in a frame of another page."""
    return request.headers.get("sec-fetch-mode") == "navigate" and request.headers.get("sec-fetch-dest") == "document"


def _equal(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(errors="surrogateescape"), right.encode(errors="surrogateescape"))
