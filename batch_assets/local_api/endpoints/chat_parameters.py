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
    mapping,
    members,
    only,
    only_members,
    string,
    unchecked,
)

_A_STRING_OR_OBJECT = "one of a string or object"

# From OpenAI's OpenAPI document of 2026-08-21, CreateChatCompletionRequest, and from the types of the SDK 3.54.0.
PARAMETERS: dict[str, Parameter] = {
    "audio": Parameter(members(required=("voice", "format"), voice=unchecked, format=string()), only()),
    "frequency_penalty": Parameter(decimal(-2, 2)),
    "functions": Parameter(array(an_object, "an array of objects", maximum=128), only([])),
    "function_call": Parameter(
        either(_A_STRING_OR_OBJECT, str=choice("none", "auto"), dict=members(required=("name",), name=string())),
        only("none", "auto"),
    ),
    "logit_bias": Parameter(mapping(integer(-100, 100)), only({})),
    "logprobs": Parameter(boolean, only(False)),
    "max_completion_tokens": Parameter(integer(minimum=1)),
    "max_tokens": Parameter(integer(minimum=1)),
    "messages": Parameter(unchecked),
    "metadata": Parameter(parameters.metadata),
    "modalities": Parameter(array(choice("text", "audio"), "an array of strings"), only([], ["text"])),
    "model": Parameter(unchecked),
    "moderation": Parameter(parameters.MODERATION, only()),
    "n": Parameter(integer(1, 128)),
    "parallel_tool_calls": Parameter(boolean),
    "prediction": Parameter(an_object, only()),
    "presence_penalty": Parameter(decimal(-2, 2)),
    "prompt_cache_key": Parameter(string()),
    "prompt_cache_options": Parameter(parameters.PROMPT_CACHE_OPTIONS, only_members(prewarm=(False,))),
    "prompt_cache_retention": Parameter(choice("in_memory", "24h")),
    "reasoning_effort": Parameter(choice(*parameters.EFFORTS)),
    "response_format": Parameter(unchecked),
    "safety_identifier": Parameter(string(parameters.MAXIMUM_IDENTIFIER)),
    "seed": Parameter(integer(-(2**63), 2**63 - 1)),
    "service_tier": Parameter(choice("auto", "default", "flex", "scale", "priority", "fast")),
    "stop": Parameter(parameters.STOP),
    "store": Parameter(boolean),
    "stream": Parameter(boolean),
    "stream_options": Parameter(an_object),
    "temperature": Parameter(decimal(0, 2)),
    "tools": Parameter(array(an_object, "an array of objects"), only([])),
    "tool_choice": Parameter(
        either(_A_STRING_OR_OBJECT, str=choice("none", "auto", "required"), dict=an_object), only("none", "auto")
    ),
    "top_logprobs": Parameter(integer(0, 20), only(0)),
    "top_p": Parameter(decimal(0, 1)),
    "user": Parameter(string()),
    "verbosity": Parameter(choice(*parameters.VERBOSITIES)),
    # An empty object asks for a search too.
    "web_search_options": Parameter(an_object, only()),
}
