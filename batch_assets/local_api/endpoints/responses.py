"""`/v1/responses`: makes OpenAI's response object of a request body. The server stores no response.

The same function answers a direct request and a line of a batch. A reference to a stored object (a previous response, a
conversation, a prompt) is an error: OpenAI's for an object that was deleted.
"""

from __future__ import annotations

import time
from typing import Any

from batch_assets.local_api.endpoints.answer_format import responses_format
from batch_assets.local_api.endpoints.messages import chat_request
from batch_assets.local_api.endpoints.response_input import read_input
from batch_assets.local_api.endpoints.response_parameters import PARAMETERS
from batch_assets.local_api.engines.engine import ChatRequest, Completion, Engine
from batch_assets.local_api.wire import errors, ids
from batch_assets.local_api.wire.errors import ApiError
from batch_assets.local_api.wire.parameter_table import check_parameters, refuse_unsupported
from batch_assets.local_api.wire.parameters import check_stream, given, is_reasoning_model


def answer(engine: Engine, body: object) -> dict[str, Any]:
    """The response for a request body. Raises ApiError for a body that OpenAI would refuse."""
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


def read_request(body: object) -> tuple[ChatRequest, dict[str, Any]]:
    """The checked request, and the parameters that the response object repeats. Raises ApiError."""
    if not isinstance(body, dict):
        raise errors.invalid_type("body", "an object", body)
    check_parameters(body, PARAMETERS, errors.unknown_parameter)
    model = body.get("model")
    if not model:
        raise errors.missing_parameter("model")
    errors.check_string("model", model)
    _refuse_references(body)
    check_stream(body)
    refuse_unsupported(body, PARAMETERS)
    if is_reasoning_model(model):
        _check_reasoning_model(body)
    echo = _echo(body)
    messages = read_input(body)
    text_options: Any = given(body, "text", {})
    answer_format, echo["text"]["format"] = responses_format(text_options, [message.text for message in messages])
    request = chat_request(
        model,
        messages,
        max_tokens=body.get("max_output_tokens"),
        answer_format=answer_format,
        instructions=body.get("instructions"),
    )
    return request, echo


def _refuse_references(body: dict[str, Any]) -> None:
    """Raises OpenAI's errors for references to stored objects."""
    if (previous := body.get("previous_response_id")) is not None:
        message = f"Previous response with id '{previous}' not found."
        raise ApiError(400, message, param="previous_response_id", code="previous_response_not_found")
    for name in ("conversation", "prompt"):
        value = body.get(name)
        if value is not None:
            wanted = value["id"] if isinstance(value, dict) else value
            raise ApiError(404, f"{name.title()} with id '{wanted}' not found.")


def _check_reasoning_model(body: dict[str, Any]) -> None:
    """Raises OpenAI's errors for parameters that o-series, gpt-5 and later models refuse."""
    for name in ("temperature", "top_p"):
        if body.get(name) not in (None, 1):
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            raise ApiError(400, message, param=name)


def _echo(body: dict[str, Any]) -> dict[str, Any]:
    """The parameters that the response object repeats, with OpenAI's defaults."""
    reasoning: Any = given(body, "reasoning", {})
    text: Any = given(body, "text", {})
    return {
        "instructions": body.get("instructions"),
        "max_tool_calls": body.get("max_tool_calls"),
        "metadata": given(body, "metadata", {}),
        "parallel_tool_calls": given(body, "parallel_tool_calls", True),
        "prompt_cache_key": body.get("prompt_cache_key"),
        "prompt_cache_retention": body.get("prompt_cache_retention"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": body.get("safety_identifier"),
        "temperature": given(body, "temperature", 1.0),
        "text": {"verbosity": given(text, "verbosity", "medium")},
        "tool_choice": given(body, "tool_choice", "auto"),
        "top_logprobs": 0,
        "top_p": given(body, "top_p", 1.0),
        "truncation": given(body, "truncation", "disabled"),
        "user": body.get("user"),
    }
