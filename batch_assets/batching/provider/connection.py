"""Errors without an answer of the API: nothing listens at an address of this machine, or the network fails.

The first one is definite: nothing was sent, and a retry cannot help until the user has started the server.
"""

from collections.abc import Iterator
from ipaddress import ip_address

import openai

WHAT_TO_START = "Start the server there (`batch-assets serve` starts the local Batch API), or change OPENAI_BASE_URL."


def refused_address(error: BaseException) -> str | None:
    """The address of this machine at which nothing listens; None for any other error."""
    if not isinstance(error, openai.APIConnectionError):
        return None
    url = error.request.url
    if not _is_this_machine(url.host) or not any(isinstance(one, ConnectionRefusedError) for one in causes_of(error)):
        return None
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}" + (f":{url.port}" if url.port else "")


def why_no_connection(error: openai.APIConnectionError) -> str:
    """The reason, which the client's own message lacks: without a full stop."""
    address = refused_address(error)
    if address is not None:
        return f"nothing listens at {address}"
    *_, first = (error, *causes_of(error))
    message = str(error).rstrip(".")
    return message if first is error or not str(first) else f"{message} ({str(first).rstrip('.')})"


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The errors that caused it, the first one last."""
    seen = {id(error)}
    cause = error.__cause__ or error.__context__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_this_machine(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
