"""`/v1/chat/completions`: makes OpenAI's chat completion object of a request body.

The same function answers a direct request and a line of a batch, so both get the same error messages. The messages are
OpenAI's as its users report them. Where recorded traffic exists, it is in the tests.
"""

from __future__ import annotations

import time
from typing import Any

from batch_assets.local_api.endpoints.answer_format import chat_format
from batch_assets.local_api.engines.engine import ChatRequest, Completion, Engine
from batch_assets.local_api.wire import errors, ids
from batch_assets.local_api.wire.errors import ApiError
from batch_assets.local_api.wire.parameters import (
    check_ranges,
    given,
    is_reasoning_model,
    read_model,
    split_title,
)

_RANGES = {"temperature": (0, 2), "top_p": (0, 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}
_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
# From OpenAI's OpenAPI document of 2026-08-21, CreateChatCompletionRequest.
_PARAMETERS = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "model",
        "moderation",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)


def answer(engine: Engine, body: object) -> dict[str, Any]:
    """The chat completion for a request body. Raises ApiError for a body that OpenAI would refuse."""
    if not isinstance(body, dict):
        raise errors.invalid_type("body", "an object", body)
    request, choices = read_request(body)
    return completion_object(engine.name, request, engine.complete(request), choices)


def check(body: object) -> None:
    """Raises ApiError for a request body that OpenAI would refuse."""
    if not isinstance(body, dict):
        raise errors.invalid_type("body", "an object", body)
    read_request(body)


def completion_object(engine: str, request: ChatRequest, completion: Completion, choices: int) -> dict[str, Any]:
    """OpenAI's object. Its `n` choices are equal, since an engine is deterministic. The tokens of each are counted."""
    completion_tokens = completion.completion_tokens * choices
    choice: dict[str, Any] = {
        "message": {"role": "assistant", "content": completion.text, "refusal": None, "annotations": []},
        "logprobs": None,
        "finish_reason": completion.finish_reason,
    }
    return {
        "id": ids.new_completion_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [{"index": index, **choice} for index in range(choices)],
        "usage": usage_object(completion.prompt_tokens, completion_tokens),
        "service_tier": "default",
        # Users who keep the object can see later that no OpenAI model wrote the text.
        "system_fingerprint": f"fp_local_{engine}",
    }


def usage_object(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def read_request(body: dict[str, Any]) -> tuple[ChatRequest, int]:
    """The checked request and the number of choices. Raises ApiError."""
    model = read_model(body, _PARAMETERS)
    prompt, text = _read_messages(body)
    max_tokens = _read_max_tokens(body)
    check_ranges(body, _RANGES)
    _refuse_streaming(body)
    answer_format = chat_format(body, prompt)
    if is_reasoning_model(model):
        _check_reasoning_model(body)
    choices = errors.check_integer("n", given(body, "n", 1), minimum=1, maximum=128)
    title, text = split_title(text)
    request = ChatRequest(
        model=model, prompt=prompt, text=text, title=title, max_tokens=max_tokens, answer_format=answer_format
    )
    return request, choices


def _read_messages(body: dict[str, Any]) -> tuple[list[str], str]:
    """The text of each message, and the text of the last user message (or of the last message, without any)."""
    messages = body.get("messages")
    if messages is None:
        raise errors.missing_parameter("messages")
    if not isinstance(messages, list):
        raise errors.invalid_type("messages", "an array of objects", messages)
    if not messages:
        message = (
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."
        )
        raise ApiError(400, message, param="messages", code="empty_array")
    prompt: list[str] = []
    last_user: str | None = None
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise errors.invalid_type(f"messages[{index}]", "an object", message)
        role = message.get("role")
        if role is None:
            raise errors.missing_parameter(f"messages[{index}].role")
        if errors.check_string(f"messages[{index}].role", role) not in _ROLES:
            raise errors.invalid_value(f"messages[{index}].role", role, _ROLES)
        prompt.append(_read_content(message, index))
        if role == "user":
            last_user = prompt[-1]
    return prompt, prompt[-1] if last_user is None else last_user


def _read_content(message: dict[str, Any], index: int) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None:
        # An assistant's message may consist of tool calls or a refusal only.
        if message["role"] == "assistant" and any(
            message.get(name) is not None for name in ("tool_calls", "function_call", "refusal", "audio")
        ):
            return ""
        raise ApiError(
            400,
            "Invalid value for 'content': expected a string, got null.",
            param=f"messages.[{index}].content",
        )
    if not isinstance(content, list):
        param = f"messages[{index}].content"
        raise errors.invalid_type(param, "one of a string or array of objects", content)
    return "".join(_read_part(part, index, number) for number, part in enumerate(content))


def _read_part(part: object, index: int, number: int) -> str:
    param = f"messages[{index}].content[{number}]"
    if not isinstance(part, dict):
        raise errors.invalid_type(param, "an object", part)
    kind = part.get("type")
    if kind is None:
        raise errors.missing_parameter(f"{param}.type")
    if kind == "refusal":
        return errors.check_string(f"{param}.refusal", part.get("refusal"))
    if kind != "text":
        # OpenAI's message for a model that takes text only.
        message = f"Invalid content type. {kind} is only supported by certain models."
        raise ApiError(400, message, param=f"messages.[{index}].content.[{number}].type")
    return errors.check_string(f"{param}.text", part.get("text"))


def _read_max_tokens(body: dict[str, Any]) -> int | None:
    names = [name for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
    if len(names) == 2:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise ApiError(400, message, param="max_tokens", code="invalid_parameter_combination")
    if not names:
        return None
    return errors.check_integer(names[0], body[names[0]], minimum=1)


def _refuse_streaming(body: dict[str, Any]) -> None:
    if body.get("stream"):
        raise errors.streaming_unsupported()


def _check_reasoning_model(body: dict[str, Any]) -> None:
    """Raises OpenAI's errors for parameters that o-series, gpt-5 and later models refuse."""
    if body.get("max_tokens") is not None:
        raise ApiError(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        )
    for name, default in (("temperature", 1), ("top_p", 1), ("presence_penalty", 0), ("frequency_penalty", 0)):
        value = body.get(name)
        if value is not None and value != default:
            raise ApiError(
                400,
                f"Unsupported value: '{name}' does not support {value} with this model. "
                f"Only the default ({default}) value is supported.",
                param=name,
                code="unsupported_value",
            )
