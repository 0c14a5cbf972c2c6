"""The parameters of `/v1/responses`, and which of them the built-in engine cannot honour."""

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
    only_members,
    string,
    unchecked,
    without,
)

_LOGPROBS = "message.output_text.logprobs"
# The others are about calls of tools, of which there are none, and about reasoning, which the engine has not: they
# change nothing.
_INCLUDABLE = (
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    _LOGPROBS,
)
_SUMMARY = choice("auto", "concise", "detailed")

# From the official SDK 3.54.0, types/responses/response_create_params.py.
PARAMETERS: dict[str, Parameter] = {
    "access_programs": Parameter(members(cyber=choice("standard", "daybreak_blue", "daybreak_red"))),
    "background": Parameter(boolean, only(False)),
    "background_options": Parameter(
        members(completion_window=choice("soonest", "2h", "8h"), continuation_id=string()),
        only_members(completion_window=("soonest",)),
    ),
    "context_management": Parameter(
        array(
            members(required=("type",), type=choice("compaction"), compact_threshold=integer()), "an array of objects"
        ),
        only([]),
    ),
    "conversation": Parameter(
        either(parameters.A_STRING_OR_OBJECT, str=string(), dict=members(required=("id",), id=string())),
    ),
    "image": Parameter(
        members(context_compression=choice("auto", "enabled", "disabled")),
        only_members(context_compression=("auto", "disabled")),
    ),
    "include": Parameter(array(choice(*_INCLUDABLE), "an array of strings"), without(_LOGPROBS)),
    "input": Parameter(unchecked),
    "instructions": Parameter(string()),
    "max_output_tokens": Parameter(integer(minimum=16)),
    "max_tool_calls": Parameter(integer(minimum=1)),
    "metadata": Parameter(parameters.metadata),
    "model": Parameter(unchecked),
    "moderation": parameters.MODERATION,
    "parallel_tool_calls": Parameter(boolean),
    "previous_response_id": Parameter(string()),
    "prompt": Parameter(members(required=("id",), id=string(), variables=an_object, version=string())),
    "prompt_cache_key": Parameter(string()),
    "prompt_cache_options": parameters.PROMPT_CACHE_OPTIONS,
    "prompt_cache_retention": parameters.PROMPT_CACHE_RETENTION,
    "reasoning": Parameter(
        members(
            context=choice("auto", "current_turn", "all_turns"),
            effort=choice(*parameters.EFFORTS),
            generate_summary=_SUMMARY,
            mode=string(),
            summary=_SUMMARY,
        )
    ),
    "safety_identifier": parameters.SAFETY_IDENTIFIER,
    "service_tier": Parameter(choice("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")),
    "store": Parameter(boolean),
    "stream": Parameter(boolean),
    "stream_options": Parameter(an_object),
    "temperature": Parameter(decimal(0, 2)),
    "text": Parameter(members(format=unchecked, verbosity=choice(*parameters.VERBOSITIES))),
    "tools": parameters.TOOLS,
    "tool_choice": parameters.TOOL_CHOICE,
    "top_logprobs": parameters.TOP_LOGPROBS,
    "top_p": Parameter(decimal(0, 1)),
    # Without a limit of the context, nothing is ever truncated.
    "truncation": Parameter(choice("auto", "disabled")),
    "user": Parameter(string()),
}
