"""Whether a page of this server sent a request: the header Origin against the header Host. Standard library only."""

from __future__ import annotations

import re

_NAME = r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
_ORIGIN = re.compile(rf"(?P<scheme>https?)://{_NAME}")
_USUAL_PORTS = {"http": 80, "https": 443}
HOST = re.compile(_NAME)


def is_same_origin(origin: str, host: str) -> bool:
    """Whether an Origin has the name and the port of a Host. False for values that are invalid, and for `null`."""
    sender, receiver = _ORIGIN.fullmatch(origin), HOST.fullmatch(host)
    if sender is None or receiver is None:
        return False
    usual = _USUAL_PORTS[sender["scheme"]]
    return (sender["name"].lower(), int(sender["port"] or usual)) == (
        receiver["name"].lower(),
        int(receiver["port"] or usual),
    )
