"""`/v1/chat/completions`: makes OpenAI's chat completion object of a request body.

The same function answers a direct request and a line of a batch, so both get the same error messages. The messages are
OpenAI's as its users report them. Where recorded traffic exists, it is in the tests.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from batch_assets.local_api.endpoints.answer_format import chat_format
from batch_assets.local_api.endpoints.chat_messages import read_messages
from batch_assets.local_api.endpoints.chat_parameters import PARAMETERS
from batch_assets.local_api.endpoints.messages import chat_request
from batch_assets.local_api.engines.engine import ChatRequest, Completion, Engine, cut_at_stop
from batch_assets.local_api.wire import errors, ids
from batch_assets.local_api.wire.errors import ApiError
from batch_assets.local_api.wire.parameter_table import check_parameters, refuse_unsupported
from batch_assets.local_api.wire.parameters import (
    check_stream,
    given,
    is_reasoning_model,
    read_model,
    read_stop,
    unrecognized_argument,
)


def answer(engine: Engine, body: object) -> dict[str, Any]:
    """The chat completion for a request body. Raises ApiError for a body that OpenAI or the engine would refuse."""
    request, choices = read_request(body)
    completion = cut_at_stop(engine.complete(request), request.stop)
    return completion_object(engine.name, request, completion, choices)


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


def read_request(body: object, honoured: Collection[str] = ()) -> tuple[ChatRequest, int]:
    """The checked request and the number of choices. Raises ApiError.

    honoured: see `refuse_unsupported`.
    """
    if not isinstance(body, dict):
        raise errors.invalid_type("body", "an object", body)
    check_parameters(body, PARAMETERS, unrecognized_argument)
    model = read_model(body)
    messages = read_messages(body)
    max_tokens = _read_max_tokens(body)
    check_stream(body)
    refuse_unsupported(body, PARAMETERS, honoured)
    answer_format = chat_format(body, [message.text for message in messages])
    if is_reasoning_model(model):
        _check_reasoning_model(body)
    choices: Any = given(body, "n", 1)
    request = chat_request(model, messages, max_tokens=max_tokens, answer_format=answer_format, stop=read_stop(body))
    return request, choices


def _read_max_tokens(body: dict[str, Any]) -> int | None:
    names = [name for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
    if len(names) == 2:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise ApiError(400, message, param="max_tokens", code="invalid_parameter_combination")
    return body[names[0]] if names else None


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
