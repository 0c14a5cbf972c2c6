"""Which host names mean this machine. Standard library only."""

from __future__ import annotations

import ipaddress


def is_local(name: str) -> bool:
    """Whether a host name or an address (IPv6: with or without brackets) means this machine. DNS is not asked."""
    name = name.lower().removesuffix(".").removeprefix("[").removesuffix("]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
