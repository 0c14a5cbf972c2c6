"""`/v1/responses`, directly and in batches."""

from __future__ import annotations

from typing import Any, Final

import openai
import pytest

from batch_assets.local_api.endpoints import responses
from batch_assets.local_api.engines import extractive
from batch_assets.local_api.engines.engine import ExtractiveEngine
from batch_assets.local_api.engines.tokens import count_tokens
from batch_assets_tests.local_api.support import ARTICLE, post_json, request_line, results, submit
from batch_assets_tests.local_api_client import LocalApi

PATH: Final = "/v1/responses"


def responses_body(**changes: Any) -> dict[str, Any]:
    body = {"model": "gpt-5-mini", "input": f"Title: A bridge\n\n{ARTICLE}", **changes}
    return {name: value for name, value in body.items() if value is not ...}


def test_a_response_has_the_form_of_openais(local_api: LocalApi) -> None:
    answer = post_json(local_api, PATH, responses_body(instructions="Summarise.", metadata={"a": "b"}))
    assert answer.status == 200
    response = answer.json
    (message,) = response["output"]
    usage = response["usage"]
    text = extractive.summarise(ARTICLE, title="A bridge", max_tokens=16_384)
    assert message == {
        "id": message["id"],
        "type": "message",
        "status": "completed",
        "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": text}],
        "role": "assistant",
    }
    assert response == {
        "id": response["id"],
        "object": "response",
        "created_at": response["created_at"],
        "status": "completed",
        "background": False,
        "completed_at": response["created_at"],
        "error": None,
        "incomplete_details": None,
        "instructions": "Summarise.",
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {"a": "b"},
        "model": "gpt-5-mini",
        "output": [message],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "prompt_cache_retention": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": usage["input_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": count_tokens(text),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["input_tokens"] + usage["output_tokens"],
        },
        "user": None,
    }
    assert usage["input_tokens"] > count_tokens(ARTICLE)


def test_a_response_that_is_cut_is_incomplete() -> None:
    answer = responses.answer(ExtractiveEngine(), responses_body(input=ARTICLE, max_output_tokens=16))
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["output"][0]["status"] == "incomplete"
    assert answer["completed_at"] is None
    assert 0 < answer["usage"]["output_tokens"] <= 16


def test_the_same_article_has_the_same_summary_as_in_a_chat(local_api: LocalApi) -> None:
    client = local_api.client
    response = client.responses.create(model="gpt-5-mini", input=ARTICLE)
    chat = client.chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": ARTICLE}])
    assert response.output_text == chat.choices[0].message.content


def test_only_the_last_user_message_of_a_list_is_summarised() -> None:
    items = [
        {"role": "user", "content": "Ignore this."},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hm."}]},
        {"role": "user", "content": [{"type": "input_text", "text": text} for text in ("Title: T\n\nOne. ", "Two.")]},
        {"role": "developer", "content": "Not this."},
    ]
    request, _ = responses.read_request(responses_body(input=items, instructions="Be brief."))
    assert (request.title, request.text) == ("T", "One. Two.")
    assert request.prompt == ["Be brief.", "Ignore this.", "", "Hm.", "Title: T\n\nOne. Two.", "Not this."]


NO_INPUT = "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be provided."


@pytest.mark.parametrize(
    ("changes", "status", "message", "param", "code"),
    [
        ({"model": ...}, 400, "Missing required parameter: 'model'.", "model", "missing_required_parameter"),
        ({"input": ...}, 400, "Missing required parameter: 'input'.", "input", "missing_required_parameter"),
        ({"input": ""}, 400, NO_INPUT, None, "missing_required_parameter"),
        ({"input": []}, 400, NO_INPUT, None, "missing_required_parameter"),
        ({"colour": 1}, 400, "Unknown parameter: 'colour'.", "colour", "unknown_parameter"),
        (
            {"input": [{"role": "boss", "content": "x"}]},
            400,
            "Invalid value: 'boss'. Supported values are: 'assistant', 'system', 'developer', and 'user'.",
            "input[0].role",
            "invalid_value",
        ),
        (
            {"input": [{"role": "user"}]},
            400,
            "Missing required parameter: 'input[0].content'.",
            "input[0].content",
            "missing_required_parameter",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]},
            400,
            "Invalid value: 'input_file'. Supported values are: 'input_text', 'output_text', 'refusal', and "
            "'input_image'.",
            "input[0].content[0].type",
            "invalid_value",
        ),
        (
            {"max_output_tokens": 1},
            400,
            "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 1 instead.",
            "max_output_tokens",
            "integer_below_min_value",
        ),
        (
            {"temperature": 0.5},
            400,
            "Unsupported parameter: 'temperature' is not supported with this model.",
            "temperature",
            None,
        ),
        (
            {"previous_response_id": "resp_1"},
            400,
            "Previous response with id 'resp_1' not found.",
            "previous_response_id",
            "previous_response_not_found",
        ),
        ({"conversation": {"id": "conv_1"}}, 404, "Conversation with id 'conv_1' not found.", None, None),
        ({"prompt": {"id": "pmpt_1"}}, 404, "Prompt with id 'pmpt_1' not found.", None, None),
        (
            {"model": "no such model"},
            404,
            "The model `no such model` does not exist or you do not have access to it.",
            None,
            "model_not_found",
        ),
        (
            {"stream": True},
            400,
            "Unsupported value: 'stream' does not support true with the local Batch API.",
            "stream",
            "unsupported_value",
        ),
        ({"input": ..., "prompt": {"id": "pmpt_1"}}, 404, "Prompt with id 'pmpt_1' not found.", None, None),
    ],
)
def test_requests_that_are_refused(
    shared_api: LocalApi, changes: dict[str, Any], status: int, message: str, param: str | None, code: str | None
) -> None:
    answer = post_json(shared_api, PATH, responses_body(**changes))
    assert answer.status == status
    assert answer.json["error"] == {"message": message, "type": "invalid_request_error", "param": param, "code": code}


def test_responses_are_not_stored(shared_api: LocalApi) -> None:
    made = shared_api.client.responses.create(model="m", input="One two.")
    for call in (shared_api.client.responses.retrieve, shared_api.client.responses.delete):
        with pytest.raises(openai.NotFoundError, match=f"Response with id '{made.id}' not found"):
            call(made.id)


def test_a_batch_of_responses_has_the_sum_of_their_usage(shared_api: LocalApi) -> None:
    lines = [request_line(f"{n}", url=PATH, body=responses_body(input=f"One. Two {n}. " * n)) for n in range(1, 5)]
    lines.append(request_line("bad", url=PATH, body=responses_body(input=5)))
    batch = shared_api.wait(submit(shared_api, lines, PATH).id)
    output, (failure,) = results(shared_api, batch)
    assert batch.status == "completed"
    assert failure["response"]["status_code"] == 400
    usages = [line["response"]["body"]["usage"] for line in output]
    assert len(usages) == 4
    assert batch.usage is not None
    assert batch.usage.to_dict() == {
        "input_tokens": sum(usage["input_tokens"] for usage in usages),
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": sum(usage["output_tokens"] for usage in usages),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": sum(usage["total_tokens"] for usage in usages),
    }


def test_a_line_without_input_fails_alone_where_it_refers_to_a_stored_object(shared_api: LocalApi) -> None:
    references: dict[str, Any] = {
        "prompt": {"id": "pmpt_1", "variables": {"a": "b"}},
        "conversation": "conv_1",
        "previous_response_id": "resp_1",
    }
    lines = [
        request_line(name, url=PATH, body=responses_body(input=..., **{name: value}))
        for name, value in references.items()
    ]
    lines.append(request_line("good", url=PATH, body=responses_body()))
    output, errors = results(shared_api, shared_api.wait(submit(shared_api, lines, PATH).id))
    assert [line["custom_id"] for line in output] == ["good"]
    messages = {line["custom_id"]: line["response"]["body"]["error"]["message"] for line in errors}
    assert messages == {
        "prompt": "Prompt with id 'pmpt_1' not found.",
        "conversation": "Conversation with id 'conv_1' not found.",
        "previous_response_id": "Previous response with id 'resp_1' not found.",
    }


def test_a_streamed_or_empty_line_fails_a_batch(shared_api: LocalApi) -> None:
    lines = [
        request_line("a", url=PATH, body=responses_body(stream=True)),
        request_line("b", url=PATH, body=responses_body(input=...)),
    ]
    batch = shared_api.wait(submit(shared_api, lines, PATH).id)
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.code, error.param, error.message) for error in batch.errors.data] == [
        ("streaming_unsupported", "body.stream", "Responses: Streaming is not supported in the Batch API."),
        ("invalid_request", "body.input", "Input parameter is required."),
    ]
