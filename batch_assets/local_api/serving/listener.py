"""The address of a server: the socket that it listens on, and the URL for its clients."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from batch_assets.local_api.storage import disk_errors
from batch_assets.local_api.storage.database import Store, read_setting, write_setting


def listen(directory: Path, store: Store, host: str, port: int) -> socket.socket:
    """A bound socket. Stores its port, so that URLs stay valid when the server starts again. Raises OSError.

    port: 0 takes the stored port if it is free, otherwise any free port.
    """
    with disk_errors.writable(directory), store.read() as connection:
        last = read_setting(connection, "port")
    listener = _bind(host, port) if port else _bind_last_or_any(host, int(last or 0))
    try:
        with disk_errors.writable(directory), store.transaction() as connection:
            write_setting(connection, "port", str(listener.getsockname()[1]))
    except OSError:
        listener.close()
        raise
    return listener


def _bind_last_or_any(host: str, last_port: int) -> socket.socket:
    try:
        return _bind(host, last_port)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        return _bind(host, 0)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name != "nt":  # on Windows it would allow two servers on one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def base_url(host: str, listener: socket.socket) -> str:
    """The URL for programs on this machine, also when the server listens on all interfaces."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{name}:{listener.getsockname()[1]}/v1"
