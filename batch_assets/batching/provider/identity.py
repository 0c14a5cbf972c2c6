"""Who answers: which API, which account, and what time it is there.

An answer, a price and a batch belong to the API and the account that made them. The local Batch API says by itself that
it is one, so its answers never pass for those of a model.
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
REPORTED_API = "x-batch-assets-api"  # the header in which the local Batch API says what answers behind it
ORGANIZATION = "openai-organization"  # https://developers.openai.com/api/reference/overview: in each response
FINGERPRINT_CHARACTERS = 16
OF_A_GATEWAY = (
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
    organization: as the API names it; None where it does not.
    key_fingerprint: an HMAC of the key, and of the organization and project that are asked for, with the warehouse's
        id, so that equal keys are known and none is stored.
    clock_offset: the API's clock minus ours.
    is_assumed: the API did not answer, so this is only what its address says.
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
    """Ask the API who it is, with one short call. Raises openai.OpenAIError if it, or a gateway, has no answer."""
    try:
        headers: Mapping[str, str] = client.batches.with_raw_response.list(limit=1).headers
    except openai.APIStatusError as error:
        if error.status_code in OF_A_GATEWAY or error.status_code >= HTTPStatus.BAD_GATEWAY:
            raise  # a gateway before the API may have said it, and bears neither its name nor its account
        headers = error.response.headers  # it answers, whatever it says: some servers have no list
    return ApiIdentity(
        name=api_name(client, headers),
        organization=headers.get(ORGANIZATION) or None,
        key_fingerprint=fingerprint(client, warehouse_id),
        clock_offset=_offset(headers.get("date")),
    )


def api_name(client: openai.OpenAI, headers: Mapping[str, str]) -> str:
    """The API behind the client, which has answered with these headers."""
    return headers.get(REPORTED_API) or normalized_url(str(client.base_url))


def normalized_url(url: str) -> str:
    """The URL in lower case up to its path, without user info, query, fragment and final slash."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def fingerprint(client: openai.OpenAI, warehouse_id: str) -> str:
    """Of the key, and of the organization and project that the client asks for: one key may have several.

    Where neither is set, it is that of the key alone.
    """
    account = (client.organization or "", client.project or "")
    known_by = "\0".join((client.api_key, *account)) if any(account) else client.api_key
    return hmac.new(warehouse_id.encode(), known_by.encode(), sha256).hexdigest()[:FINGERPRINT_CHARACTERS]


def _offset(date: str | None) -> timedelta:
    try:
        told = parsedate_to_datetime(date or "")
    except ValueError:
        return timedelta(0)
    return (told if told.tzinfo else told.replace(tzinfo=UTC)) - datetime.now(UTC)
