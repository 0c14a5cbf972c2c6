"""An engine that is another server: vLLM, Ollama, llama.cpp, or any other with OpenAI's HTTP API.

A request goes to the other server unchanged, and the other server's response comes back unchanged, an error too. This
module adds retries. There are two kinds of errors:

- The server takes no requests now: it refuses connections, or responds with 429, 502 or 503. The request is not the
  cause. It raises EngineUnavailableError, and the batch pauses, and asks again until its window ends.
- The server failed at this request: another 5xx, a closed connection, no response in time, no JSON. The request may be
  the cause, so there are only a few attempts. The last error is the response.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import selectors
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from batch_assets.local_api.wire import errors, strict_json
from batch_assets.local_api.wire.errors import ApiError, ErrorBody

KEY_VARIABLE = "BATCH_ASSETS_SERVE_ENGINE_KEY"
_FIRST_PAUSE_SECONDS = 0.5
_CONNECT_SECONDS = 10.0
_LISTING_SECONDS = 5.0
_UNAVAILABLE_STATUSES = (429, 502, 503)


class EngineUnavailableError(Exception):
    """The engine takes no requests now.

    response_error: the response to a client that can't wait.
    retry_after_seconds: when to ask again, if the server said so.
    failed_attempts: how often the server failed at this request before.
    """

    def __init__(self, response_error: ApiError, retry_after_seconds: float | None = None) -> None:
        super().__init__(response_error.message)
        self.response_error = response_error
        self.retry_after_seconds = retry_after_seconds
        self.failed_attempts = 0


class ForwardedError(ApiError):
    """The other server's own error: its status, and its body unchanged."""

    def __init__(self, status: int, body: ErrorBody) -> None:
        error = body.get("error")
        message = error.get("message") if isinstance(error, dict) else error
        super().__init__(status, str(message or f"The engine answered with status {status}."))
        self._body = body

    def body(self) -> ErrorBody:
        return self._body


@dataclass(frozen=True)
class _Response:
    status: int
    retry_after: str | None
    content: bytes


class _AttemptFailedError(Exception):
    """The server failed at the request. response_error: the response, if this was the last attempt."""

    def __init__(self, response_error: ApiError) -> None:
        super().__init__(response_error.message)
        self.response_error = response_error


class RemoteEngine:
    """Forwards to the server at `url` (such as http://127.0.0.1:8000/v1). Safe for threads.

    key: sent as a bearer token. model: replaces the model of each request.
    timeout_seconds: how long a response may take.
    """

    name = "remote"

    def __init__(
        self, url: str, *, key: str | None = None, model: str | None = None, timeout_seconds: float = 600.0
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"The engine's URL {_without_login(url)!r} should look like http://127.0.0.1:8000/v1.")
        if "@" in parts.netloc:
            raise ValueError(f"The engine's key belongs into {KEY_VARIABLE}, not into its URL.")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ValueError(f"The key in {KEY_VARIABLE} has characters that no HTTP header can carry.")
        self.url = url.rstrip("/") if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/v1"
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._path = urlsplit(self.url).path
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._model = model
        self._timeout_seconds = timeout_seconds
        # Kept open between requests: as many as there were requests at the same time.
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: dict[http.client.HTTPConnection, threading.Event] = {}

    def forward(self, endpoint: str, body: object, *, stop: threading.Event, attempts: int) -> dict[str, Any]:
        """The body of the server's response. Raises ApiError for any status but 200, and EngineUnavailableError.

        stop: when it is set, and `abandon` is called, the request ends with EngineUnavailableError.
        """
        payload = self._payload(body)
        for number in range(1, max(attempts, 1) + 1):
            try:
                return self._read(self._exchange("POST", endpoint, payload, stop, self._timeout_seconds))
            except EngineUnavailableError as error:
                error.failed_attempts = number - 1
                raise
            except _AttemptFailedError as error:
                if number >= attempts:
                    raise error.response_error from error
            if stop.wait(_FIRST_PAUSE_SECONDS * 2 ** (number - 1)):
                break
        raise _stopped()

    def model_ids(self) -> list[str]:
        """The models that the server lists; none when it gives no list."""
        try:
            response = self._exchange("GET", "/v1/models", None, threading.Event(), _LISTING_SECONDS)
            return [str(model["id"]) for model in strict_json.loads(response.content)["data"]]
        except (EngineUnavailableError, _AttemptFailedError, ValueError, KeyError, TypeError):
            return []

    def abandon(self) -> None:
        """End the requests whose `stop` is set. Their threads wait for responses now."""
        for connection, stop in list(self._busy.items()):
            if stop.is_set() and (sock := connection.sock) is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _payload(self, body: object) -> bytes:
        if isinstance(body, dict):
            if body.get("stream"):
                raise errors.streaming_unsupported()
            if self._model is not None:
                body = {**body, "model": self._model}
        return strict_json.dumps(body)

    def _read(self, response: _Response) -> dict[str, Any]:
        """The body of a 200.

        Raises ApiError if the response is final, _AttemptFailedError if another attempt may succeed, and
        EngineUnavailableError if the server takes no requests now.
        """
        body: object
        try:
            body = strict_json.loads(response.content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            if response.status == 200:
                raise _AttemptFailedError(self._error(502, "answered with something other than a JSON object"))
            body = self._error(response.status, f"answered with status {response.status}, and without JSON").body()
        if response.status == 200:
            return body
        error = ForwardedError(response.status, body)
        if response.status in _UNAVAILABLE_STATUSES:
            raise EngineUnavailableError(error, _seconds(response.retry_after))
        if response.status >= 500:
            raise _AttemptFailedError(error)
        raise error

    def _exchange(
        self, method: str, endpoint: str, payload: bytes | None, stop: threading.Event, timeout_seconds: float
    ) -> _Response:
        connection = self._connection()
        connection.sock.settimeout(timeout_seconds)
        self._busy[connection] = stop
        try:
            if stop.is_set():
                raise _stopped()
            connection.request(method, self._path + endpoint.removeprefix("/v1"), payload, self._headers)
            received = connection.getresponse()
            response = _Response(received.status, received.getheader("Retry-After"), received.read())
        except TimeoutError as error:
            connection.close()
            timeout = self._error(504, f"gave no answer within {timeout_seconds:g} seconds")
            raise _AttemptFailedError(timeout) from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if stop.is_set():
                raise _stopped() from error
            raise _AttemptFailedError(self._error(502, f"dropped the connection ({error})")) from error
        except BaseException:
            connection.close()
            raise
        finally:
            del self._busy[connection]
        if connection.sock is not None:  # None when the server wants it closed
            self._idle.append(connection)
        return response

    def _connection(self) -> http.client.HTTPConnection:
        """An idle connection that the server has not closed, or a new one. Raises EngineUnavailableError."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            if not _is_readable(connection.sock):
                return connection
            connection.close()
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=min(_CONNECT_SECONDS, self._timeout_seconds))
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise EngineUnavailableError(self._error(503, f"can't be reached ({error})")) from error
        return connection

    def _error(self, status: int, what: str) -> ApiError:
        return ApiError(status, f"The engine at {self.url} {what}.", kind="server_error", code="engine_error")


def _stopped() -> EngineUnavailableError:
    return EngineUnavailableError(
        ApiError(503, "The server stops, or the batch ends, before the engine answered.", kind="server_error")
    )


def _is_readable(sock: socket.socket) -> bool:
    """Whether there is data to read now, or the other side has closed."""
    with selectors.DefaultSelector() as selector:  # select.select fails beyond 1,024 open files
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def _seconds(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header, which may be a date; None without a valid one."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def _without_login(url: str) -> str:
    """The URL without the part before an @, which may be a password."""
    return url.rpartition("@")[2]
