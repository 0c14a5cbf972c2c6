"""Where the UI of `dev` listens, and whether it answers."""

import base64
import errno
import json
import os
import socket
import urllib.request
from dataclasses import dataclass

from batch_assets.cli.dagster_home.home import StartError
from batch_assets.cli.dagster_home.processes import PASSWORD_VARIABLE
from batch_assets.local_api.http.local_names import is_local

USUAL_PORT = 3000
BACKLOG = 100


@dataclass(frozen=True)
class Ui:
    """Where the UI listens, and the password that it asks for."""

    host: str
    listener: socket.socket
    password: str | None

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The address for browsers on this machine, also when the UI listens on every interface."""
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{name}]:{self.port}" if ":" in name else f"http://{name}:{self.port}"

    def is_ready(self) -> bool:
        """Whether the UI answers."""
        try:
            self._fetch("/server_info", None, seconds=2)
        except (OSError, ValueError):
            return False
        return True

    def load_error(self) -> str:
        """Why Dagster could not load our definitions; empty if it could."""
        query = """
            { workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError {
                ... on PythonError { message }
            } } } } }
        """
        try:
            answer = self._fetch("/graphql", json.dumps({"query": query}).encode(), seconds=60)
            entries = json.loads(answer)["data"]["workspaceOrError"]["locationEntries"]
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        return "\n".join((entry["locationOrLoadError"] or {}).get("message", "") for entry in entries).strip()

    def _fetch(self, path: str, body: bytes | None, *, seconds: float) -> bytes:
        """The body of the answer to a GET, or to a POST of JSON. Raises OSError."""
        request = urllib.request.Request(  # noqa: S310 - our own URL
            f"{self.url}{path}", body, {"Content-Type": "application/json"}
        )
        if self.password is not None:
            token = base64.b64encode(f"dev:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310
            content: bytes = answer.read()
        return content


def make_ui(host: str, port: int | None, usual_port: int = USUAL_PORT) -> Ui:
    """Listen on the port; without one, on the usual port or any free one. Raises StartError.

    The password is removed from our environment, so that no child inherits it by accident.
    """
    password = os.environ.pop(PASSWORD_VARIABLE, "")
    if not is_local(host) and not password.strip():
        raise StartError(
            f"The UI on {host} would let other machines start runs, and so spend money and read the articles. Set "
            f"{PASSWORD_VARIABLE} in the environment to a password that it asks for. Use it in a network that you "
            "trust: the traffic is not encrypted."
        )
    return Ui(host, _listen(host, port, usual_port), password if password.strip() else None)


def _listen(host: str, port: int | None, usual_port: int) -> socket.socket:
    """A socket that listens from now on. The webserver starts seconds later, and no other `dev` may take the port."""
    try:
        return _listener(host, usual_port if port is None else port)
    except OSError as error:
        if port is not None or error.errno != errno.EADDRINUSE:
            where = host if port is None else f"{host}, port {port}"
            raise StartError(f"The UI cannot listen on {where}: {error.strerror or error}.") from error
    return _listener(host, 0)


def _listener(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
