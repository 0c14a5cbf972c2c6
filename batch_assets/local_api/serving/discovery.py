"""Finding the local Batch API that serves a directory. Standard library only, and quick.

`server.json` in the directory has the URL of a server, the address of its web page, and its instance id. After a kill
-9 the file is out of date, and another program may have the port. So a client uses the URL only when the server there
returns the same instance id.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from batch_assets.local_api.storage.private import write_private_file

INSTANCE_HEADER = "x-batch-assets-instance"


def discovery_path(directory: Path) -> Path:
    return directory / "server.json"


def lock_path(directory: Path) -> Path:
    return directory / "server.lock"


def running_url(directory: Path, *, timeout_seconds: float = 2.0) -> str | None:
    """The base URL (ending in /v1) of the live server of this directory, or None.

    A server that is busy for longer than the timeout counts as not running.
    """
    found = read_discovery(directory)
    if found is None:
        return None
    url, instance = found["url"], found["instance"]
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_seconds)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        alive = answer.status == 200 and answer.getheader(INSTANCE_HEADER) == instance
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return url if alive else None


def read_discovery(directory: Path) -> dict[str, Any] | None:
    """The contents of `server.json`: url, pid, started_at, instance, page_url; None if it is missing or damaged."""
    try:
        found: dict[str, Any] = json.loads(discovery_path(directory).read_bytes())
        # These raise an exception when a key is missing, or when the URL has no valid port.
        _ = urlsplit(found["url"]).port, found["instance"]
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def page_url(directory: Path, *, with_token: bool) -> str | None:
    """The address of the web page of this directory's server; None if there is no server.

    with_token: so that a browser that opens it is signed in. Only for a terminal: the token is as secret as the key.
    """
    found = read_discovery(directory)
    address = None if found is None else found.get("page_url")
    if not isinstance(address, str):
        return None
    return address if with_token else address.partition("#")[0]


def write_discovery(directory: Path, *, url: str, instance: str, page_url: str) -> None:
    """Write `server.json`, all of it or nothing, for a server that listens. Raises OSError."""
    content = {"url": url, "pid": os.getpid(), "started_at": time.time(), "instance": instance, "page_url": page_url}
    write_private_file(discovery_path(directory), json.dumps(content))


def remove_discovery(directory: Path) -> None:
    discovery_path(directory).unlink(missing_ok=True)
