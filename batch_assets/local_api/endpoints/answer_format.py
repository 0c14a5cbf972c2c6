"""The format that a request wants for its answer: `response_format` of chat completions, `text.format` of responses.

Both are read into an engine's AnswerFormat. The messages are OpenAI's, as its users report them. In a batch, a refused
format fails its line and not the batch, as at OpenAI.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from batch_assets.local_api.engines.answer_format import ANY_OBJECT, AnswerFormat
from batch_assets.local_api.wire import errors, strict_json
from batch_assets.local_api.wire.errors import ApiError
from batch_assets.local_api.wire.parameters import given
from batch_assets.output_schema.strict import strict_problems

_KINDS = ("json_object", "json_schema", "text")
_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_MAX_NAME = 64
_SCHEMA_KEYS = ("name", "description", "schema", "strict")
# A batch has 50,000 lines with one schema. A longer schema is read anew for each line, so that the memory has a bound.
_KEPT_SCHEMAS = 16
_MAX_KEPT_BYTES = 1_000_000


def chat_format(body: Mapping[str, Any], prompt: Sequence[str]) -> AnswerFormat | None:
    """The format of a chat completion; None for text. prompt: the text of every message. Raises ApiError."""
    value = body.get("response_format")
    if value is None:
        return None
    kind = _read_kind(value, "response_format", extra=("json_schema",))
    if kind == "json_object":
        _check_json_is_mentioned(
            prompt,
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
            param="messages",
        )
        return ANY_OBJECT
    if kind == "text":
        return None
    if value.get("json_schema") is None:
        raise errors.missing_parameter("response_format.json_schema")
    param = "response_format.json_schema"
    if not isinstance(value["json_schema"], dict):
        raise errors.invalid_type(param, "an object", value["json_schema"])
    return _read_schema(value["json_schema"], param, refused_param="response_format", code=None)


def responses_format(text: Mapping[str, Any], prompt: Sequence[str]) -> tuple[AnswerFormat | None, dict[str, Any]]:
    """The format of a response, None for text, and what the response object repeats of it. Raises ApiError.

    text: the parameter of that name. prompt: the text of every item of the input, without the instructions.
    """
    value = given(dict(text), "format", {"type": "text"})
    kind = _read_kind(value, "text.format", extra=_SCHEMA_KEYS)
    if kind == "json_object":
        _check_json_is_mentioned(
            prompt,
            "Response input messages must contain the word 'json' in some form to use 'text.format' of type "
            "'json_object'.",
            param="input",
        )
        return ANY_OBJECT, {"type": kind}
    if kind == "text":
        return None, {"type": kind}
    assert isinstance(value, dict)
    fields = {name: value[name] for name in value if name != "type"}
    wanted = _read_schema(fields, "text.format", refused_param="text.format.schema", code="invalid_json_schema")
    echo = {"type": kind, "description": value.get("description"), "name": value["name"], "schema": value["schema"]}
    return wanted, {**echo, "strict": value.get("strict") or False}


def _read_kind(value: object, param: str, *, extra: Sequence[str]) -> str:
    """The type of the format. extra: the parameters beside it, of the type json_schema."""
    if not isinstance(value, dict):
        raise errors.invalid_type(param, "an object", value)
    if value.get("type") is None:
        raise errors.missing_parameter(f"{param}.type")
    kind = errors.check_string(f"{param}.type", value["type"])
    if kind not in _KINDS:
        raise errors.invalid_value(f"{param}.type", kind, _KINDS)
    for name in value:
        if name != "type" and not (kind == "json_schema" and name in extra):
            raise errors.unknown_parameter(f"{param}.{name}")
    return kind


def _check_json_is_mentioned(prompt: Sequence[str], message: str, *, param: str) -> None:
    if not any("json" in text.lower() for text in prompt):
        raise ApiError(400, message, param=param)


def _read_schema(wanted: dict[str, Any], param: str, *, refused_param: str, code: str | None) -> AnswerFormat:
    """refused_param, code: of the error for a schema that is refused, which differ between the two endpoints."""
    for name in wanted:
        if name not in _SCHEMA_KEYS:
            raise errors.unknown_parameter(f"{param}.{name}")
    for name in ("name", "schema"):
        if wanted.get(name) is None:
            raise errors.missing_parameter(f"{param}.{name}")
    name = _check_name(f"{param}.name", wanted["name"])
    if wanted.get("description") is not None:
        errors.check_string(f"{param}.description", wanted["description"])
    strict = given(wanted, "strict", False)
    if not isinstance(strict, bool):
        raise errors.invalid_type(f"{param}.strict", "a boolean", strict)
    schema = wanted["schema"]
    if not isinstance(schema, dict):
        raise errors.invalid_type(f"{param}.schema", "an object", schema)
    try:
        text = strict_json.dumps(schema)
    except RecursionError as error:
        raise ApiError(
            400,
            f"Invalid schema for response_format '{name}': it is nested too deeply.",
            param=refused_param,
            code=code,
        ) from error
    read = _kept if len(text) <= _MAX_KEPT_BYTES else _read
    outcome = read(text, strict)
    if isinstance(outcome, AnswerFormat):
        return outcome
    raise ApiError(400, f"Invalid schema for response_format '{name}': {outcome}", param=refused_param, code=code)


def _check_name(param: str, value: object) -> str:
    name = errors.check_string(param, value, maximum_length=_MAX_NAME)
    if not name:
        message = "empty string. Expected a string with minimum length 1, but got an empty string instead."
        raise ApiError(400, f"Invalid '{param}': {message}", param=param, code="empty_string")
    if not _NAME.fullmatch(name):
        message = "string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."
        raise ApiError(400, f"Invalid '{param}': {message}", param=param, code="invalid_value")
    return name


def _read(text: bytes, strict: bool) -> AnswerFormat | str:
    """The format, or why OpenAI would refuse the schema. text: the schema, in the order of its keys."""
    schema = strict_json.loads(text)
    if strict and (problems := strict_problems(schema)):
        return problems[0]
    try:
        return AnswerFormat(schema)
    except ValueError as error:
        return f"{str(error).splitlines()[0].rstrip('.')}."


_kept = lru_cache(maxsize=_KEPT_SCHEMAS)(_read)
