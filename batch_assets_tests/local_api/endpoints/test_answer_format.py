"""Answers in JSON: `response_format` and `text.format`, directly, with the official SDK, and in batches."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from pydantic import BaseModel, ConfigDict, Field

from batch_assets.local_api.endpoints import answer_format, chat, responses
from batch_assets.local_api.engines import extractive
from batch_assets.local_api.engines.engine import Engine, ExtractiveEngine, InstantEngine
from batch_assets.local_api.wire.errors import ApiError
from batch_assets.output_schema.judge import Judge
from batch_assets_tests.local_api.support import (
    ARTICLE,
    ENDPOINT,
    chat_body,
    custom_ids,
    http_request,
    post_json,
    request_line,
    results,
    submit,
)
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.strict_schemas import strict_schemas

RESPONSES = "/v1/responses"
FACTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "summary": {"type": "string"},
        "importance": {"type": "integer", "minimum": 0, "maximum": 10},
        "topics": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["title", "summary", "importance", "topics"],
    "additionalProperties": False,
}
FORBIDDEN = {**FACTS, "properties": {**FACTS["properties"], "title": {"type": "string", "minLength": 3}}}
WHY = "Invalid schema for response_format 'facts': In context=('properties', 'title'), 'minLength' is not permitted."


def chat_format(**changes: Any) -> dict[str, Any]:
    fields = {"name": "facts", "strict": True, "schema": FACTS, **changes}
    return {"type": "json_schema", "json_schema": {name: value for name, value in fields.items() if value is not ...}}


def text_format(**changes: Any) -> dict[str, Any]:
    fields = {"type": "json_schema", "name": "facts", "strict": True, "schema": FACTS, **changes}
    return {name: value for name, value in fields.items() if value is not ...}


def asked(response_format: Any, **changes: Any) -> dict[str, Any]:
    content = f"Title: A bridge\n\n{ARTICLE}"
    return chat_body(messages=[{"role": "user", "content": content}], response_format=response_format, **changes)


def asked_response(wanted: Any, **changes: Any) -> dict[str, Any]:
    return {"model": "gpt-5-mini", "input": f"Title: A bridge\n\n{ARTICLE}", "text": {"format": wanted}, **changes}


@pytest.mark.parametrize("engine", [ExtractiveEngine(), InstantEngine()])
def test_an_answer_fits_its_schema(engine: Engine) -> None:
    answer = chat.answer(engine, asked(chat_format()))
    assert answer["choices"][0]["finish_reason"] == "stop"
    text = answer["choices"][0]["message"]["content"]
    assert Judge(FACTS).why_invalid(text) is None
    assert json.loads(text)["title"] == "A bridge"
    assert answer["usage"]["completion_tokens"] > 20
    response = responses.answer(engine, asked_response(text_format()))
    assert response["output"][0]["content"][0]["text"] == text
    assert response["status"] == "completed"


def test_the_extractive_engine_writes_its_summary_into_the_field_of_that_name() -> None:
    answer = chat.answer(ExtractiveEngine(), asked(chat_format()))
    summary = json.loads(answer["choices"][0]["message"]["content"])["summary"]
    assert summary == extractive.summarise(ARTICLE, title="A bridge", max_tokens=16_384)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(strict_schemas())
def test_each_strict_schema_is_answered(schema: dict[str, Any]) -> None:
    text = chat.answer(InstantEngine(), asked(chat_format(schema=schema)))["choices"][0]["message"]["content"]
    assert Judge(schema).why_invalid(text) is None


@pytest.mark.parametrize("engine", [ExtractiveEngine(), InstantEngine()])
def test_a_limit_cuts_the_json(engine: Engine) -> None:
    whole = chat.answer(engine, asked(chat_format()))["choices"][0]["message"]["content"]
    answer = chat.answer(engine, asked(chat_format(), max_completion_tokens=16))
    (choice,) = answer["choices"]
    cut = choice["message"]["content"]
    assert (choice["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 16)
    assert 0 < len(cut) < len(whole)
    assert whole.startswith(cut)
    response = responses.answer(engine, asked_response(text_format(), max_output_tokens=16))
    assert response["output"][0]["content"][0]["text"] == cut
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_any_object() -> None:
    body = asked({"type": "json_object"})
    with pytest.raises(ApiError) as refusal:
        chat.answer(InstantEngine(), body)
    assert refusal.value.param == "messages"
    assert refusal.value.message == (
        "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
    )
    body["messages"].insert(0, {"role": "system", "content": "Answer in JSON."})
    text = chat.answer(InstantEngine(), body)["choices"][0]["message"]["content"]
    assert json.loads(text) == {"summary": " ".join(ARTICLE.split()[:20])}

    with pytest.raises(ApiError) as refusal:
        responses.answer(InstantEngine(), asked_response({"type": "json_object"}, instructions="Answer in JSON."))
    assert (refusal.value.param, refusal.value.code) == ("input", None)
    assert refusal.value.message == (
        "Response input messages must contain the word 'json' in some form to use 'text.format' of type 'json_object'."
    )
    response = responses.answer(InstantEngine(), asked_response({"type": "json_object"}, input="As json: One."))
    assert json.loads(response["output"][0]["content"][0]["text"]) == {"summary": "As json: One."}
    assert response["text"]["format"] == {"type": "json_object"}


def test_a_response_repeats_its_format() -> None:
    format_of = {
        name: responses.answer(InstantEngine(), asked_response(wanted))["text"]["format"]
        for name, wanted in {
            "strict": text_format(description="Facts."),
            "loose": text_format(strict=...),
            "text": {"type": "text"},
            "none": None,
        }.items()
    }
    assert format_of["strict"] == text_format(description="Facts.")
    assert format_of["loose"] == text_format(strict=False, description=None)
    assert format_of["text"] == format_of["none"] == {"type": "text"}


NO_ANSWER = "The engine of the local Batch API, which is no model, found no answer that fits the schema."
NAME_PATTERN = "string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."


@pytest.mark.parametrize(
    ("changes", "message", "param", "code"),
    [
        ({"name": ...}, "Missing required parameter: '{at}.name'.", "name", "missing_required_parameter"),
        ({"schema": ...}, "Missing required parameter: '{at}.schema'.", "schema", "missing_required_parameter"),
        (
            {"name": 1},
            "Invalid type for '{at}.name': expected a string, but got an integer instead.",
            "name",
            "invalid_type",
        ),
        ({"name": "my facts"}, f"Invalid '{{at}}.name': {NAME_PATTERN}", "name", "invalid_value"),
        ({"name": "faits_é"}, f"Invalid '{{at}}.name': {NAME_PATTERN}", "name", "invalid_value"),
        ({"name": "facts\n"}, f"Invalid '{{at}}.name': {NAME_PATTERN}", "name", "invalid_value"),
        (
            {"name": ""},
            "Invalid '{at}.name': empty string. Expected a string with minimum length 1, but got an empty string "
            "instead.",
            "name",
            "empty_string",
        ),
        (
            {"name": "x" * 65},
            "Invalid '{at}.name': string too long. Expected a string with maximum length 64, but got a string with "
            "length 65 instead.",
            "name",
            "string_above_max_length",
        ),
        (
            {"strict": "yes"},
            "Invalid type for '{at}.strict': expected a boolean, but got a string instead.",
            "strict",
            "invalid_type",
        ),
        (
            {"schema": [FACTS]},
            "Invalid type for '{at}.schema': expected an object, but got an array instead.",
            "schema",
            "invalid_type",
        ),
        (
            {"description": 1},
            "Invalid type for '{at}.description': expected a string, but got an integer instead.",
            "description",
            "invalid_type",
        ),
        ({"colour": 1}, "Unknown parameter: '{at}.colour'.", "colour", "unknown_parameter"),
    ],
)
def test_formats_that_are_refused(
    shared_api: LocalApi, changes: dict[str, Any], message: str, param: str, code: str
) -> None:
    for at, path, body in (
        ("response_format.json_schema", ENDPOINT, asked(chat_format(**changes))),
        ("text.format", RESPONSES, asked_response(text_format(**changes))),
    ):
        answer = post_json(shared_api, path, body)
        error = {
            "message": message.format(at=at),
            "type": "invalid_request_error",
            "param": f"{at}.{param}",
            "code": code,
        }
        assert (answer.status, answer.json["error"]) == (400, error)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("json", "Invalid type for '{at}': expected an object, but got a string instead."),
        ({}, "Missing required parameter: '{at}.type'."),
        ({"type": 1}, "Invalid type for '{at}.type': expected a string, but got an integer instead."),
        (
            {"type": "json"},
            "Invalid value: 'json'. Supported values are: 'json_object', 'json_schema', and 'text'.",
        ),
        ({"type": "json_object", "strict": True}, "Unknown parameter: '{at}.strict'."),
    ],
)
def test_types_of_formats_that_are_refused(shared_api: LocalApi, wanted: Any, message: str) -> None:
    for at, path, body in (
        ("response_format", ENDPOINT, asked(wanted)),
        ("text.format", RESPONSES, asked_response(wanted)),
    ):
        answer = post_json(shared_api, path, body)
        assert (answer.status, answer.json["error"]["message"]) == (400, message.format(at=at))


def test_the_other_endpoints_form_is_refused(shared_api: LocalApi) -> None:
    for path, body, param in (
        (ENDPOINT, asked({"type": "json_schema"}), "response_format.json_schema"),
        (ENDPOINT, asked({**chat_format(), "strict": True}), "response_format.strict"),
        (RESPONSES, asked_response(chat_format()), "text.format.json_schema"),
    ):
        answer = post_json(shared_api, path, body)
        assert (answer.status, answer.json["error"]["param"]) == (400, param)


def test_a_schema_outside_the_strict_subset_is_refused(shared_api: LocalApi) -> None:
    error = {"message": WHY, "type": "invalid_request_error", "param": "response_format", "code": None}
    answer = post_json(shared_api, ENDPOINT, asked(chat_format(schema=FORBIDDEN)))
    assert (answer.status, answer.json["error"]) == (400, error)
    answer = post_json(shared_api, RESPONSES, asked_response(text_format(schema=FORBIDDEN)))
    assert (answer.status, answer.json["error"]) == (
        400,
        {**error, "param": "text.format.schema", "code": "invalid_json_schema"},
    )


@pytest.mark.parametrize("strict", [False, None, ...])
def test_without_strict_other_schemas_are_accepted(shared_api: LocalApi, strict: Any) -> None:
    answer = post_json(shared_api, ENDPOINT, asked(chat_format(schema=FORBIDDEN, strict=strict)))
    assert Judge(FORBIDDEN).why_invalid(answer.json["choices"][0]["message"]["content"]) is None


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strin"}, "Invalid schema for response_format 'facts': \"strin\" is not valid under any of the"),
        (
            {"$ref": "http://127.0.0.1:1/x"},
            "Invalid schema for response_format 'facts': Resource 'http://127.0.0.1:1/x'",
        ),
        ({"$ref": "file:///etc/passwd"}, "Invalid schema for response_format 'facts': Resource 'file:///etc/passwd'"),
        ({"properties": {"\ud800": {}}}, "Invalid schema for response_format 'facts': "),
        ({"not": {}}, NO_ANSWER),
        ({"type": "array", "minItems": 10**6}, NO_ANSWER),
        (
            {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
            f"{NO_ANSWER} The schema has no answer of at most 32 levels",
        ),
    ],
)
def test_a_schema_without_an_answer_gets_a_sentence(shared_api: LocalApi, schema: dict[str, Any], message: str) -> None:
    answer = post_json(shared_api, ENDPOINT, asked(chat_format(schema=schema, strict=False)))
    assert answer.status == 400
    assert answer.json["error"]["message"].startswith(message)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("depth", [200, 320, 450, 900, 30_000])
def test_a_deep_schema_brings_nothing_down(shared_api: LocalApi, depth: int, strict: bool) -> None:
    body = json.dumps(asked(chat_format(schema={"at": 1}, strict=strict)))
    deep = '{"type":"array","items":' * depth + '{"type":"string"}' + "}" * depth
    answer = http_request(shared_api, "POST", ENDPOINT, body.replace('{"at": 1}', deep).encode())
    assert answer.status == (200 if depth == 200 and not strict else 400)


def test_a_schema_is_read_once_for_a_batch(shared_api: LocalApi) -> None:
    answer_format._kept.cache_clear()
    lines = [request_line(f"{number}", body=asked(chat_format())) for number in range(50)]
    lines.append(request_line("other", body=asked(chat_format(schema=FORBIDDEN))))
    batch = shared_api.wait(submit(shared_api, lines).id)
    output, (error,) = results(shared_api, batch)
    assert (batch.status, len(output)) == ("completed", 50)
    for line in output:
        assert Judge(FACTS).why_invalid(line["response"]["body"]["choices"][0]["message"]["content"]) is None
    assert error["error"] is None
    assert error["response"]["status_code"] == 400
    assert error["response"]["body"]["error"]["message"] == WHY
    assert answer_format._kept.cache_info().misses <= 2 + 4  # the server's threads may begin at the same time


def test_a_batch_of_which_each_schema_is_refused_completes_without_output(shared_api: LocalApi) -> None:
    wanted = text_format(schema=FORBIDDEN)
    lines = [request_line(f"{number}", url=RESPONSES, body=asked_response(wanted)) for number in range(3)]
    batch = shared_api.wait(submit(shared_api, lines, "/v1/responses").id)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    output, errors = results(shared_api, batch)
    assert (output, custom_ids(errors)) == ([], ["0", "1", "2"])
    assert {line["response"]["body"]["error"]["code"] for line in errors} == {"invalid_json_schema"}


class Tone(Enum):
    CALM = "calm"
    LOUD = "loud"


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    role: str | None
    reports_to: Person | None


class Report(BaseModel):
    """A report."""

    title: str
    tone: Tone
    kind: Literal["news", "opinion"]
    importance: int = Field(ge=0, le=10)
    share: float
    people: list[Person]
    editor: Person = Field(description="Who wrote it.")


def test_the_sdk_parses_answers_into_a_model(local_api: LocalApi) -> None:
    completion = local_api.client.chat.completions.parse(
        model="gpt-5-mini", messages=[{"role": "user", "content": ARTICLE}], response_format=Report
    )
    parsed = completion.choices[0].message.parsed
    assert isinstance(parsed, Report)
    assert parsed.people
    response = local_api.client.responses.parse(model="gpt-5-mini", input=ARTICLE, text_format=Report)
    assert response.output_parsed == parsed
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"
