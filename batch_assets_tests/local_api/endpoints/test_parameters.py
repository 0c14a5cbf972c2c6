"""Each parameter of OpenAI's is honoured, checked, or refused by the built-in engine: none is ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batch_assets.local_api.endpoints import chat, chat_parameters, completions, response_parameters, responses
from batch_assets.local_api.engines.engine import ExtractiveEngine, InstantEngine
from batch_assets.local_api.engines.tokens import count_tokens
from batch_assets.local_api.wire.errors import ApiError
from batch_assets_tests.local_api.support import chat_body, request_line, results, submit
from batch_assets_tests.local_api_client import LocalApi

FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
RESPONSE = {"model": "gpt-4.1-mini", "input": "One. Two. Three."}
COMPLETION = {"model": "gpt-3.5-turbo-instruct", "prompt": "One. Two. Three."}
NOT_HERE = "with the built-in engine of the local Batch API."


def ask_chat(changes: dict[str, Any]) -> dict[str, Any]:
    return chat.answer(ExtractiveEngine(), chat_body(**changes))


def ask_responses(changes: dict[str, Any]) -> dict[str, Any]:
    return responses.answer(ExtractiveEngine(), {**RESPONSE, **changes})


def ask_completions(changes: dict[str, Any]) -> dict[str, Any]:
    return completions.answer(ExtractiveEngine(), {**COMPLETION, **changes})


Ask = Callable[[dict[str, Any]], dict[str, Any]]


def refusal(ask: Ask, changes: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        ask(changes)
    assert caught.value.status == 400
    assert caught.value.kind == "invalid_request_error"
    return caught.value


@pytest.mark.parametrize(
    ("ask", "name", "value"),
    [
        (ask_chat, "tools", [FUNCTION]),
        (ask_chat, "functions", [{"name": "f"}]),
        (ask_chat, "tool_choice", FUNCTION),
        (ask_chat, "function_call", {"name": "f"}),
        (ask_chat, "audio", {"voice": "alloy", "format": "wav"}),
        (ask_chat, "modalities", ["text", "audio"]),
        (ask_chat, "web_search_options", {}),
        (ask_chat, "prediction", {"type": "content", "content": "x"}),
        (ask_chat, "logit_bias", {"50256": -100}),
        (ask_chat, "moderation", {"model": "omni-moderation-latest"}),
        (ask_responses, "tools", [{"type": "web_search"}]),
        (ask_responses, "tool_choice", {"type": "function", "name": "f"}),
        (ask_responses, "context_management", [{"type": "compaction"}]),
        (ask_responses, "moderation", {"model": "omni-moderation-latest"}),
        (ask_completions, "logit_bias", {"50256": -100}),
    ],
)
def test_a_parameter_that_the_engine_lacks_is_refused(ask: Ask, name: str, value: object) -> None:
    error = refusal(ask, {name: value})
    message = f"Unsupported parameter: '{name}' is not supported {NOT_HERE}"
    assert (error.message, error.param, error.code) == (message, name, "unsupported_parameter")


@pytest.mark.parametrize(
    ("ask", "changes", "param", "shown"),
    [
        (ask_chat, {"logprobs": True}, "logprobs", "true"),
        (ask_chat, {"top_logprobs": 3}, "top_logprobs", "3"),
        (ask_chat, {"tool_choice": "required"}, "tool_choice", "'required'"),
        (ask_chat, {"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm", "true"),
        (ask_responses, {"background": True}, "background", "true"),
        (
            ask_responses,
            {"background_options": {"completion_window": "8h"}},
            "background_options.completion_window",
            "'8h'",
        ),
        (ask_responses, {"top_logprobs": 3}, "top_logprobs", "3"),
        (ask_responses, {"tool_choice": "required"}, "tool_choice", "'required'"),
        (ask_responses, {"include": ["message.output_text.logprobs"]}, "include", "'message.output_text.logprobs'"),
        (ask_responses, {"image": {"context_compression": "enabled"}}, "image.context_compression", "'enabled'"),
        (ask_responses, {"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm", "true"),
        (ask_completions, {"best_of": 2, "n": 2}, "best_of", "2"),
        (ask_completions, {"suffix": "The end."}, "suffix", "'The end.'"),
    ],
)
def test_a_value_that_the_engine_lacks_is_refused(ask: Ask, changes: dict[str, Any], param: str, shown: str) -> None:
    error = refusal(ask, changes)
    message = f"Unsupported value: '{param}' does not support {shown} {NOT_HERE}"
    assert (error.message, error.param, error.code) == (message, param, "unsupported_value")


CACHE = {"mode": "explicit", "ttl": "30m", "prewarm": False}


@pytest.mark.parametrize(
    ("ask", "changes"),
    [
        (ask_chat, {"tools": [], "functions": [], "tool_choice": "none", "function_call": "auto"}),
        (ask_chat, {"stop": [], "logprobs": False, "top_logprobs": 0, "logit_bias": {}, "modalities": ["text"]}),
        (ask_chat, {"stream": False, "n": 3, "parallel_tool_calls": False, "seed": 1, "store": True, "user": "u"}),
        (ask_chat, {"temperature": 0.2, "top_p": 0.9, "presence_penalty": -1, "frequency_penalty": 1}),
        (ask_chat, {"metadata": {"a": "b"}, "service_tier": "flex", "safety_identifier": "s"}),
        (ask_chat, {"verbosity": "low", "reasoning_effort": "none"}),
        (ask_chat, {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "prompt_cache_options": CACHE}),
        (ask_chat, dict.fromkeys(set(chat_parameters.PARAMETERS) - {"messages", "model"})),
        (ask_responses, {"tools": [], "tool_choice": "auto", "background": False, "top_logprobs": 0}),
        (ask_responses, {"include": ["reasoning.encrypted_content"], "store": False, "truncation": "auto"}),
        (ask_responses, {"reasoning": {"effort": "high", "summary": "auto"}, "service_tier": "priority"}),
        (ask_responses, {"text": {"verbosity": "high"}, "max_tool_calls": 3, "context_management": []}),
        (ask_responses, dict.fromkeys(set(response_parameters.PARAMETERS) - {"input", "model"})),
        (ask_completions, {"n": 2, "best_of": 1, "echo": True, "stop": None, "seed": 1, "user": "u"}),
        (ask_completions, dict.fromkeys(set(completions.PARAMETERS) - {"prompt", "model"})),
    ],
)
def test_values_that_change_nothing_or_only_the_sampling_are_accepted(ask: Ask, changes: dict[str, Any]) -> None:
    assert ask(changes)["object"] in ("chat.completion", "response", "text_completion")


@pytest.mark.parametrize(
    ("ask", "changes", "param", "message"),
    [
        (ask_chat, {"logprobs": "yes"}, "logprobs", "expected a boolean, but got a string instead."),
        (ask_chat, {"tools": {}}, "tools", "expected an array of objects, but got an object instead."),
        (ask_chat, {"tools": ["f"]}, "tools[0]", "expected an object, but got a string instead."),
        (ask_chat, {"stop": 5}, "stop", "expected one of a string or array of strings, but got an integer instead."),
        (ask_chat, {"logit_bias": {"5": "x"}}, "logit_bias.5", "expected an integer, but got a string instead."),
        (ask_chat, {"seed": 0.5}, "seed", "expected an integer, but got a decimal instead."),
        (ask_chat, {"user": 5}, "user", "expected a string, but got an integer instead."),
        (ask_chat, {"store": "true"}, "store", "expected a boolean, but got a string instead."),
        (ask_chat, {"stream": 1}, "stream", "expected a boolean, but got an integer instead."),
        (ask_chat, {"metadata": {"a": 1}}, "metadata.a", "expected a string, but got an integer instead."),
        (
            ask_chat,
            {"prompt_cache_options": []},
            "prompt_cache_options",
            "expected an object, but got an array instead.",
        ),
        (ask_responses, {"reasoning": "low"}, "reasoning", "expected an object, but got a string instead."),
        (ask_responses, {"store": 1}, "store", "expected a boolean, but got an integer instead."),
        (
            ask_responses,
            {"conversation": 5},
            "conversation",
            "expected one of a string or object, but got an integer instead.",
        ),
        (ask_completions, {"echo": "x"}, "echo", "expected a boolean, but got a string instead."),
    ],
)
def test_a_value_of_a_wrong_type_is_refused(ask: Ask, changes: dict[str, Any], param: str, message: str) -> None:
    error = refusal(ask, changes)
    assert (error.message, error.code) == (f"Invalid type for '{param}': {message}", "invalid_type")
    assert error.param == param


@pytest.mark.parametrize(
    ("ask", "changes", "param", "choices"),
    [
        (ask_chat, {"verbosity": "x"}, "verbosity", "'low', 'medium', and 'high'"),
        (
            ask_chat,
            {"reasoning_effort": "x"},
            "reasoning_effort",
            "'none', 'minimal', 'low', 'medium', 'high', 'xhigh', and 'max'",
        ),
        (
            ask_chat,
            {"service_tier": "x"},
            "service_tier",
            "'auto', 'default', 'flex', 'scale', 'priority', and 'fast'",
        ),
        (ask_chat, {"prompt_cache_retention": "x"}, "prompt_cache_retention", "'in_memory' and '24h'"),
        (ask_chat, {"prompt_cache_options": {"mode": "x"}}, "prompt_cache_options.mode", "'implicit' and 'explicit'"),
        (ask_chat, {"tool_choice": "x"}, "tool_choice", "'none', 'auto', and 'required'"),
        (ask_chat, {"modalities": ["x"]}, "modalities[0]", "'text' and 'audio'"),
        (ask_responses, {"truncation": "x"}, "truncation", "'auto' and 'disabled'"),
        (ask_responses, {"text": {"verbosity": "x"}}, "text.verbosity", "'low', 'medium', and 'high'"),
        (ask_responses, {"reasoning": {"summary": "x"}}, "reasoning.summary", "'auto', 'concise', and 'detailed'"),
    ],
)
def test_a_value_that_is_no_choice_is_refused(ask: Ask, changes: dict[str, Any], param: str, choices: str) -> None:
    error = refusal(ask, changes)
    assert error.message == f"Invalid value: 'x'. Supported values are: {choices}."
    assert (error.param, error.code) == (param, "invalid_value")


@pytest.mark.parametrize(
    ("ask", "changes", "message", "param", "code"),
    [
        (
            ask_chat,
            {"stop": list("abcde")},
            "Invalid 'stop': array too long. Expected an array with maximum length 4, "
            "but got an array with length 5 instead.",
            "stop",
            "array_above_max_length",
        ),
        (
            ask_chat,
            {"stream_options": {"include_usage": True}},
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            "stream_options",
            None,
        ),
        (
            ask_responses,
            {"text": {"colour": 1}},
            "Unknown parameter: 'text.colour'.",
            "text.colour",
            "unknown_parameter",
        ),
        (
            ask_responses,
            {"prompt": {"version": "1"}},
            "Missing required parameter: 'prompt.id'.",
            "prompt.id",
            "missing_required_parameter",
        ),
    ],
)
def test_other_errors_have_the_words_of_openai(
    ask: Ask, changes: dict[str, Any], message: str, param: str, code: str | None
) -> None:
    error = refusal(ask, changes)
    assert (error.message, error.param, error.code) == (message, param, code)


@pytest.mark.parametrize(
    ("stop", "text"),
    [("Two", "One. "), (["x", "Three", "Two"], "One. "), ([], "One. Two. Three."), ("One", "")],
)
def test_an_answer_ends_before_the_first_stop_sequence(stop: Any, text: str) -> None:
    body = chat_body(messages=[{"role": "user", "content": "One. Two. Three."}], stop=stop)
    (choice,) = chat.answer(InstantEngine(), body)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
    answer = completions.answer(InstantEngine(), {**COMPLETION, "stop": stop, "n": 2})
    assert [choice["text"] for choice in answer["choices"]] == [text, text]
    assert answer["usage"]["completion_tokens"] <= 2 * count_tokens(text), "the rest is not counted"


def test_a_request_with_tools_and_a_choice_of_them_names_the_tools() -> None:
    assert refusal(ask_chat, {"tool_choice": FUNCTION, "tools": [FUNCTION]}).param == "tools"
    assert refusal(ask_responses, {"tool_choice": "required", "tools": [FUNCTION]}).param == "tools"


def test_in_a_batch_only_the_line_with_the_parameter_fails(shared_api: LocalApi) -> None:
    lines = [
        request_line("good"),
        request_line("tools", body=chat_body(tools=[FUNCTION])),
        request_line("wrong", body=chat_body(service_tier="x")),
    ]
    batch = shared_api.wait(submit(shared_api, lines).id)
    output, errors = results(shared_api, batch)
    assert batch.status == "completed"
    assert [line["custom_id"] for line in output] == ["good"]
    assert {line["custom_id"]: line["response"]["status_code"] for line in errors} == {"tools": 400, "wrong": 400}
    failures = {line["custom_id"]: line["response"]["body"]["error"] for line in errors}
    assert failures["tools"] == {
        "message": f"Unsupported parameter: 'tools' is not supported {NOT_HERE}",
        "type": "invalid_request_error",
        "param": "tools",
        "code": "unsupported_parameter",
    }
    assert (failures["wrong"]["param"], failures["wrong"]["code"]) == ("service_tier", "invalid_value")
