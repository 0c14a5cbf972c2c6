"""The parameters of `/v1/chat/completions`, and which of them the built-in engine cannot honour."""

from __future__ import annotations

from batch_assets.local_api.wire import parameters
from batch_assets.local_api.wire.parameter_table import (
    Parameter,
    an_object,
    array,
    boolean,
    choice,
    decimal,
    either,
    integer,
    members,
    only,
    string,
    unchecked,
)

# From OpenAI's OpenAPI document of 2026-08-21, CreateChatCompletionRequest, and from the types of the SDK 3.54.0.
PARAMETERS: dict[str, Parameter] = {
    "audio": Parameter(members(required=("voice", "format"), voice=unchecked, format=string()), only()),
    "frequency_penalty": Parameter(decimal(-2, 2)),
    "functions": Parameter(array(an_object, "an array of objects", maximum=128), only([])),
    "function_call": Parameter(
        either(
            parameters.A_STRING_OR_OBJECT, str=choice("none", "auto"), dict=members(required=("name",), name=string())
        ),
        only("none", "auto"),
    ),
    "logit_bias": parameters.LOGIT_BIAS,
    "logprobs": Parameter(boolean, only(False)),
    "max_completion_tokens": Parameter(integer(minimum=1)),
    "max_tokens": Parameter(integer(minimum=1)),
    "messages": Parameter(unchecked),
    "metadata": Parameter(parameters.metadata),
    "modalities": Parameter(array(choice("text", "audio"), "an array of strings"), only([], ["text"])),
    "model": Parameter(unchecked),
    "moderation": parameters.MODERATION,
    "n": Parameter(integer(1, 128)),
    "parallel_tool_calls": Parameter(boolean),
    "prediction": Parameter(an_object, only()),
    "presence_penalty": Parameter(decimal(-2, 2)),
    "prompt_cache_key": Parameter(string()),
    "prompt_cache_options": parameters.PROMPT_CACHE_OPTIONS,
    "prompt_cache_retention": parameters.PROMPT_CACHE_RETENTION,
    "reasoning_effort": Parameter(choice(*parameters.EFFORTS)),
    "response_format": Parameter(unchecked),
    "safety_identifier": parameters.SAFETY_IDENTIFIER,
    "seed": Parameter(integer(-(2**63), 2**63 - 1)),
    "service_tier": Parameter(choice("auto", "default", "flex", "scale", "priority", "fast")),
    "stop": Parameter(parameters.STOP),
    "store": Parameter(boolean),
    "stream": Parameter(boolean),
    "stream_options": Parameter(an_object),
    "temperature": Parameter(decimal(0, 2)),
    "tools": parameters.TOOLS,
    "tool_choice": parameters.TOOL_CHOICE,
    "top_logprobs": parameters.TOP_LOGPROBS,
    "top_p": Parameter(decimal(0, 1)),
    "user": Parameter(string()),
    "verbosity": Parameter(choice(*parameters.VERBOSITIES)),
    # An empty object asks for a search too.
    "web_search_options": Parameter(an_object, only()),
}
