"""`/v1/completions`, OpenAI's older endpoint: makes the completion object of a prompt without roles.

A request may have several prompts, and each has `n` choices. The engine takes a prompt as an article.
"""

from __future__ import annotations

import time
from typing import Any

from batch_assets.local_api.endpoints.chat import usage_object
from batch_assets.local_api.endpoints.messages import Message, chat_request
from batch_assets.local_api.engines.engine import Engine, cut_at_stop
from batch_assets.local_api.wire import errors, ids, parameters
from batch_assets.local_api.wire.errors import ApiError
from batch_assets.local_api.wire.parameter_table import (
    ENGINE,
    Parameter,
    an_object,
    array,
    boolean,
    check_parameters,
    decimal,
    either,
    integer,
    only,
    refuse_unsupported,
    string,
    unchecked,
)

_DEFAULT_MAXIMUM_TOKENS = 16  # OpenAI's
_MAXIMUM_PROMPTS = 2048  # ours, as for embeddings

# From the official SDK 3.54.0, types/completion_create_params.py.
PARAMETERS: dict[str, Parameter] = {
    "best_of": Parameter(integer(1, 20), only(1)),
    "echo": Parameter(boolean),
    "frequency_penalty": Parameter(decimal(-2, 2)),
    "logit_bias": parameters.LOGIT_BIAS,
    "logprobs": Parameter(integer(0, 5), only()),
    "max_tokens": Parameter(integer(minimum=1)),
    "model": Parameter(unchecked),
    "n": Parameter(integer(1, 128)),
    "presence_penalty": Parameter(decimal(-2, 2)),
    "prompt": Parameter(unchecked),
    "seed": Parameter(integer()),
    "stop": Parameter(parameters.STOP),
    "stream": Parameter(boolean),
    "stream_options": Parameter(an_object),
    "suffix": Parameter(string(), only("")),
    "temperature": Parameter(decimal(0, 2)),
    "top_p": Parameter(decimal(0, 1)),
    "user": Parameter(string()),
}
_PROMPTS = either(
    "one of a string or array of strings",
    str=string(),
    list=array(string(), "an array of strings", minimum=1, maximum=_MAXIMUM_PROMPTS),
)


def answer(engine: Engine, body: object) -> dict[str, Any]:
    """The completion for a request body. Raises ApiError for a body that OpenAI or the engine would refuse."""
    if not isinstance(body, dict):
        raise errors.invalid_type("body", "an object", body)
    check_parameters(body, PARAMETERS, parameters.unrecognized_argument)
    model = parameters.read_model(body)
    parameters.check_stream(body)
    refuse_unsupported(body, PARAMETERS)
    limit: Any = parameters.given(body, "max_tokens", _DEFAULT_MAXIMUM_TOKENS)
    choices_each: Any = parameters.given(body, "n", 1)
    stop = parameters.read_stop(body)
    choices: list[dict[str, Any]] = []
    prompt_tokens = completion_tokens = 0
    for prompt in _read_prompts(body):
        request = chat_request(model, [Message("user", prompt)], max_tokens=limit, answer_format=None, stop=stop)
        completion = cut_at_stop(engine.complete(request), request.stop)
        prompt_tokens += completion.prompt_tokens
        completion_tokens += completion.completion_tokens * choices_each
        text = prompt + completion.text if body.get("echo") else completion.text
        choice = {"text": text, "logprobs": None, "finish_reason": completion.finish_reason}
        choices += [{"index": len(choices) + number, **choice} for number in range(choices_each)]
    return {
        "id": ids.new_text_completion_id(),
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": usage_object(prompt_tokens, completion_tokens),
        "system_fingerprint": f"fp_local_{engine.name}",
    }


def _read_prompts(body: dict[str, Any]) -> list[str]:
    """The prompts. Raises ApiError, also for prompts of token ids: the engine has no tokenizer."""
    value = body.get("prompt")
    if value is None:
        raise errors.missing_parameter("prompt")
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        message = f"Unsupported parameter: 'prompt' of token ids is not supported with {ENGINE}."
        raise ApiError(400, message, param="prompt", code="unsupported_parameter")
    _PROMPTS("prompt", value)
    return value if isinstance(value, list) else [value]
