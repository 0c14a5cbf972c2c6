"""`/v1/responses`: makes OpenAI's response object of a request body. The server stores no response.

The same function answers a direct request and a line of a batch. A reference to a stored object (a previous response, a
conversation, a prompt) is an error: OpenAI's for an object that was deleted.
"""

from __future__ import annotations

import time
from typing import Any

from batch_assets.local_api.endpoints.answer_format import responses_format
from batch_assets.local_api.endpoints.response_input import read_input
from batch_assets.local_api.engines.engine import ChatRequest, Completion, Engine
from batch_assets.local_api.wire import errors, ids
from batch_assets.local_api.wire.errors import ApiError
from batch_assets.local_api.wire.parameters import (
    check_metadata,
    check_ranges,
    given,
    is_reasoning_model,
    split_title,
)

# From the official SDK 3.54.0, types/responses/response_create_params.py.
_PARAMETERS = frozenset(
    {
        "access_programs",
        "background",
        "background_options",
        "context_management",
        "conversation",
        "image",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "model",
        "moderation",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
    }
)
_RANGES = {"temperature": (0, 2), "top_p": (0, 1)}
_MINIMUM_OUTPUT_TOKENS = 16
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_SUMMARIES = ("auto", "concise", "detailed")
_VERBOSITIES = ("low", "medium", "high")


def answer(engine: Engine, body: object) -> dict[str, Any]:
    """The response for a request body. Raises ApiError for a body that OpenAI would refuse."""
    if not isinstance(body, dict):
        raise errors.invalid_type("body", "an object", body)
    request, echo = read_request(body)
    return response_object(request, echo, engine.complete(request))


def response_object(request: ChatRequest, echo: dict[str, Any], completion: Completion) -> dict[str, Any]:
    """OpenAI's object. echo: the parameters of the request that it repeats. With a text that was cut: `incomplete`."""
    cut = completion.finish_reason == "length"
    status = "incomplete" if cut else "completed"
    now = int(time.time())
    text = {"type": "output_text", "annotations": [], "logprobs": [], "text": completion.text}
    message = {
        "id": ids.new_message_id(),
        "type": "message",
        "status": status,
        "content": [text],
        "role": "assistant",
    }
    return {
        "id": ids.new_response_id(),
        "object": "response",
        "created_at": now,
        "status": status,
        "background": False,
        "completed_at": None if cut else now,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "max_output_tokens": request.max_tokens,
        "model": request.model,
        "output": [message],
        "previous_response_id": None,
        "service_tier": "default",
        "tools": [],
        **echo,
        "usage": {
            "input_tokens": completion.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": completion.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": completion.prompt_tokens + completion.completion_tokens,
        },
    }


def read_request(body: dict[str, Any]) -> tuple[ChatRequest, dict[str, Any]]:
    """The checked request, and the parameters that the response object repeats. Raises ApiError."""
    for name in body:
        if name not in _PARAMETERS:
            raise errors.unknown_parameter(name)
    model = body.get("model")
    if not model:
        raise errors.missing_parameter("model")
    errors.check_string("model", model)
    _refuse_references(body)
    _refuse_unsupported(body)
    check_ranges(body, _RANGES)
    if is_reasoning_model(model):
        _check_reasoning_model(body)
    limit = body.get("max_output_tokens")
    if limit is not None:
        limit = errors.check_integer("max_output_tokens", limit, minimum=_MINIMUM_OUTPUT_TOKENS)
    echo = _read_echo(body)
    prompt, text = read_input(body)
    text_options: dict[str, Any] = given(body, "text", {})  # type: ignore[assignment] # an object: checked before
    answer_format, echo["text"]["format"] = responses_format(text_options, prompt)
    if echo["instructions"] is not None:
        prompt = [echo["instructions"], *prompt]
    title, text = split_title(text)
    request = ChatRequest(
        model=model, prompt=prompt, text=text, title=title, max_tokens=limit, answer_format=answer_format
    )
    return request, echo


def _refuse_references(body: dict[str, Any]) -> None:
    """Raises OpenAI's errors for references to stored objects."""
    if (previous := body.get("previous_response_id")) is not None:
        errors.check_string("previous_response_id", previous)
        message = f"Previous response with id '{previous}' not found."
        raise ApiError(400, message, param="previous_response_id", code="previous_response_not_found")
    for name in ("conversation", "prompt"):
        value = body.get(name)
        if value is not None:
            wanted = value.get("id") if isinstance(value, dict) else value
            raise ApiError(404, f"{name.title()} with id '{wanted}' not found.")


def _refuse_unsupported(body: dict[str, Any]) -> None:
    """Ours: an unsupported option is refused and not ignored, so that no client expects its effect."""
    for name in ("stream", "background", "tools"):
        if body.get(name):
            message = (
                f"Unsupported value: '{name}' does not support a value other than the default with the local Batch "
                "API, whose engine writes at once, and calls no tools."
            )
            raise ApiError(400, message, param=name, code="unsupported_value")


def _check_reasoning_model(body: dict[str, Any]) -> None:
    """Raises OpenAI's errors for parameters that o-series, gpt-5 and later models refuse."""
    for name in ("temperature", "top_p"):
        if body.get(name) not in (None, 1):
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            raise ApiError(400, message, param=name)


def _read_echo(body: dict[str, Any]) -> dict[str, Any]:
    """The parameters that the response object repeats, with OpenAI's defaults."""
    reasoning = given(body, "reasoning", {})
    if not isinstance(reasoning, dict):
        raise errors.invalid_type("reasoning", "an object", reasoning)
    text = given(body, "text", {})
    if not isinstance(text, dict):
        raise errors.invalid_type("text", "an object", text)
    tool_calls = body.get("max_tool_calls")
    if tool_calls is not None:
        errors.check_integer("max_tool_calls", tool_calls, minimum=1)
    parallel = given(body, "parallel_tool_calls", True)
    if not isinstance(parallel, bool):
        raise errors.invalid_type("parallel_tool_calls", "a boolean", parallel)
    return {
        "instructions": _string_or_none(body, "instructions"),
        "max_tool_calls": tool_calls,
        "metadata": check_metadata(body.get("metadata")) or {},
        "parallel_tool_calls": parallel,
        "prompt_cache_key": _string_or_none(body, "prompt_cache_key"),
        "prompt_cache_retention": _one_of(body, "prompt_cache_retention", ("in_memory", "24h")),
        "reasoning": {
            "effort": _one_of(reasoning, "effort", _EFFORTS, within="reasoning."),
            "summary": _one_of(reasoning, "summary", _SUMMARIES, within="reasoning."),
        },
        "safety_identifier": _string_or_none(body, "safety_identifier"),
        "temperature": given(body, "temperature", 1.0),
        "text": {
            "verbosity": _one_of(text, "verbosity", _VERBOSITIES, within="text.") or "medium",
        },
        "tool_choice": _one_of(body, "tool_choice", ("none", "auto")) or "auto",
        "top_logprobs": errors.check_integer("top_logprobs", given(body, "top_logprobs", 0), minimum=0, maximum=20),
        "top_p": given(body, "top_p", 1.0),
        "truncation": _one_of(body, "truncation", ("auto", "disabled")) or "disabled",
        "user": _string_or_none(body, "user"),
    }


def _string_or_none(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    return None if value is None else errors.check_string(name, value)


def _one_of(body: dict[str, Any], name: str, supported: tuple[str, ...], *, within: str = "") -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if errors.check_string(within + name, value) not in supported:
        raise errors.invalid_value(within + name, value, supported)
    return str(value)
