"""An engine that is another server: vLLM, Ollama, llama.cpp, anything that speaks OpenAI's HTTP API.

A request goes there as it is, and what comes back is the answer, be it good or bad: only the other
server judges. What this module adds are retries. Trouble is of two kinds:

- The server takes no requests now: it refuses connections, or answers 429, 502 or 503. That says nothing
  about the request, which raises EngineUnavailableError; the batch pauses, and asks again until its window ends.
- It failed at this request: another 5xx, a dropped connection, no answer in time, no JSON. That may be the
  request's own fault, so it is tried a few times only; the last failure is the answer.
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
# Tries for a line of a batch, with pauses in between; a direct request has one, since its client can repeat it.
PATIENT_TRIES = 5
_FIRST_PAUSE_SECONDS = 0.5
_CONNECT_SECONDS = 10.0
_LISTING_SECONDS = 5.0
_UNAVAILABLE_STATUSES = (429, 502, 503)


class EngineUnavailableError(Exception):
    """No answer to this request for now; `error` is for a client that can't wait.

    after_seconds: when to ask again, if the server said so. failures: how often it failed at this request before.
    """

    def __init__(self, error: ApiError, after_seconds: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.after_seconds = after_seconds
        self.failures = 0


class ForwardedError(ApiError):
    """The other server's own error: its status, and its body as it came."""

    def __init__(self, status: int, body: ErrorBody) -> None:
        error = body.get("error")
        message = error.get("message") if isinstance(error, dict) else error
        super().__init__(status, str(message or f"The engine answered with status {status}."))
        self._body = body

    def body(self) -> ErrorBody:
        return self._body


@dataclass(frozen=True)
class _Answer:
    status: int
    retry_after: str | None
    content: bytes


class _AttemptFailedError(Exception):
    """The exchange came to no end; `error` says how."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


class RemoteEngine:
    """Forwards to the server at `url` (such as http://127.0.0.1:8000/v1), from any number of threads.

    key: sent as a bearer token. model: replaces the model of each request.
    timeout_seconds: how long an answer may take.
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
        # Kept alive between requests; as many as there were requests at the same time.
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: dict[http.client.HTTPConnection, threading.Event] = {}

    def forward(self, endpoint: str, body: object, *, stop: threading.Event, tries: int) -> dict[str, Any]:
        """The server's answer to a request body; raises ApiError for any status but 200, and EngineUnavailableError.

        stop: when set, and `abandon` is called, the request ends with EngineUnavailableError.
        """
        payload = self._payload(body)
        for number in range(1, max(tries, 1) + 1):
            try:
                return self._read(self._exchange("POST", endpoint, payload, stop, self._timeout_seconds))
            except EngineUnavailableError as unavailable:
                unavailable.failures = number - 1
                raise
            except _AttemptFailedError as failure:
                if number >= tries:
                    raise failure.error from failure
            if stop.wait(_FIRST_PAUSE_SECONDS * 2 ** (number - 1)):
                break
        raise _stopped()

    def model_ids(self) -> list[str]:
        """What the server says it serves; nothing when it says nothing."""
        try:
            answer = self._exchange("GET", "/v1/models", None, threading.Event(), _LISTING_SECONDS)
            return [str(model["id"]) for model in strict_json.loads(answer.content)["data"]]
        except (EngineUnavailableError, _AttemptFailedError, ValueError, KeyError, TypeError):
            return []

    def abandon(self) -> None:
        """End the requests whose `stop` is set, in the threads that wait for their answers."""
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

    def _read(self, answer: _Answer) -> dict[str, Any]:
        """The body of a 200.

        Raises ApiError if the answer is final, _AttemptFailedError if another attempt may succeed, and
        EngineUnavailableError if the server takes no requests now.
        """
        body: object
        try:
            body = strict_json.loads(answer.content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            if answer.status == 200:
                raise _AttemptFailedError(self._problem(502, "answered with something other than a JSON object"))
            body = self._problem(answer.status, f"answered with status {answer.status}, and without JSON").body()
        if answer.status == 200:
            return body
        error = ForwardedError(answer.status, body)
        if answer.status in _UNAVAILABLE_STATUSES:
            raise EngineUnavailableError(error, _seconds(answer.retry_after))
        if answer.status >= 500:
            raise _AttemptFailedError(error)
        raise error

    def _exchange(
        self, method: str, endpoint: str, payload: bytes | None, stop: threading.Event, timeout_seconds: float
    ) -> _Answer:
        connection = self._connection()
        connection.sock.settimeout(timeout_seconds)
        self._busy[connection] = stop
        try:
            if stop.is_set():
                raise _stopped()
            connection.request(method, self._path + endpoint.removeprefix("/v1"), payload, self._headers)
            response = connection.getresponse()
            answer = _Answer(response.status, response.getheader("Retry-After"), response.read())
        except TimeoutError as error:
            connection.close()
            problem = self._problem(504, f"gave no answer within {timeout_seconds:g} seconds")
            raise _AttemptFailedError(problem) from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if stop.is_set():
                raise _stopped() from error
            raise _AttemptFailedError(self._problem(502, f"dropped the connection ({error})")) from error
        except BaseException:
            connection.close()
            raise
        finally:
            del self._busy[connection]
        if connection.sock is not None:  # None when the server wants it closed
            self._idle.append(connection)
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        """An idle connection that the server has not closed, or a new one. Raises EngineUnavailableError."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            if not _readable(connection.sock):
                return connection
            connection.close()
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=min(_CONNECT_SECONDS, self._timeout_seconds))
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise EngineUnavailableError(self._problem(503, f"can't be reached ({error})")) from error
        return connection

    def _problem(self, status: int, what: str) -> ApiError:
        return ApiError(status, f"The engine at {self.url} {what}.", kind="server_error", code="engine_error")


def _stopped() -> EngineUnavailableError:
    return EngineUnavailableError(
        ApiError(503, "The server stops, or the batch ends, before the engine answered.", kind="server_error")
    )


def _readable(sock: socket.socket) -> bool:
    """Whether there is something to read now, if only the end."""
    with selectors.DefaultSelector() as selector:  # select.select fails beyond 1,024 open files
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header, in seconds or as a date; None when there is none that can be read."""
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
    """The URL as it may be shown: what stands before an @ may be a password."""
    return url.rpartition("@")[2]
