"""Identifies the API: its name, the account of the key, and its clock.

An answer, a price and a batch belong to one API and one account. The local Batch API names itself in a header, so its
answers never count as those of a model.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha256
from http import HTTPStatus
from urllib.parse import urlsplit

import openai

BUILT_IN_ENGINE = "local"  # the local Batch API with its built-in engine: no model answers, and nothing is billed
REPORTED_API = "x-batch-assets-api"  # the header in which the local Batch API names itself and its engine
ORGANIZATION = "openai-organization"  # https://developers.openai.com/api/reference/overview: in each response
FINGERPRINT_CHARACTERS = 16
GATEWAY_STATUSES = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
)


@dataclass(frozen=True)
class ApiIdentity:
    """The API behind a client, and the account of its key.

    name: `local` for the built-in engine of the local Batch API, `local+NAME` for another engine behind it, otherwise
        the base URL, without user info and query.
    organization: as the API names it; None if it names none.
    key_fingerprint: an HMAC of the key, and of the client's organization and project, with the warehouse's id. Equal
        keys have equal fingerprints, and no key is stored.
    clock_offset: the API's clock minus the clock of this machine.
    is_assumed: the API did not answer, so only its address is known.
    """

    name: str
    organization: str | None = None
    key_fingerprint: str | None = None
    clock_offset: timedelta = timedelta(0)
    is_assumed: bool = False

    @property
    def is_built_in_engine(self) -> bool:
        return self.name == BUILT_IN_ENGINE

    def now(self) -> datetime:
        """The time by the API's clock: UTC, without zone."""
        return (datetime.now(UTC) + self.clock_offset).replace(tzinfo=None)


def identify(client: openai.OpenAI, warehouse_id: str) -> ApiIdentity:
    """Identify the API by one short call. Raises openai.OpenAIError if the API, or a gateway before it, fails."""
    try:
        headers: Mapping[str, str] = client.batches.with_raw_response.list(limit=1).headers
    except openai.APIStatusError as error:
        if error.status_code in GATEWAY_STATUSES or error.status_code >= HTTPStatus.BAD_GATEWAY:
            raise  # it may be the answer of a gateway before the API, without the API's name and account
        headers = error.response.headers  # any other error is the API's own: some servers have no list
    return ApiIdentity(
        name=api_name(client, headers),
        organization=headers.get(ORGANIZATION) or None,
        key_fingerprint=fingerprint(client, warehouse_id),
        clock_offset=_clock_offset(headers.get("date")),
    )


def api_name(client: openai.OpenAI, headers: Mapping[str, str]) -> str:
    """The name of the client's API, which has answered with these headers."""
    return headers.get(REPORTED_API) or normalized_url(str(client.base_url))


def normalized_url(url: str) -> str:
    """The URL in lower case up to its path, without user info, query, fragment and final slash."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def fingerprint(client: openai.OpenAI, warehouse_id: str) -> str:
    """A fingerprint of the key, and of the client's organization and project: one key may have several.

    If neither is set, it is the fingerprint of the key alone.
    """
    account = (client.organization or "", client.project or "")
    identity = "\0".join((client.api_key, *account)) if any(account) else client.api_key
    return hmac.new(warehouse_id.encode(), identity.encode(), sha256).hexdigest()[:FINGERPRINT_CHARACTERS]


def _clock_offset(date: str | None) -> timedelta:
    try:
        api_time = parsedate_to_datetime(date or "")
    except ValueError:
        return timedelta(0)
    return (api_time if api_time.tzinfo else api_time.replace(tzinfo=UTC)) - datetime.now(UTC)
