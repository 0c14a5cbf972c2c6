"""Parameters that several endpoints take, with the same checks and error messages."""

from __future__ import annotations

import re
from typing import Any

from batch_assets.local_api.wire import errors
from batch_assets.local_api.wire.errors import ApiError
from batch_assets.local_api.wire.parameter_table import (
    Parameter,
    an_object,
    array,
    boolean,
    choice,
    either,
    integer,
    mapping,
    members,
    only,
    only_members,
    string,
)

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
VERBOSITIES = ("low", "medium", "high")
A_STRING_OR_OBJECT = "one of a string or object"
LOGIT_BIAS = Parameter(mapping(integer(-100, 100)), only({}))
PROMPT_CACHE_OPTIONS = Parameter(
    members(
        comparison_response_id=string(),
        mode=choice("implicit", "explicit"),
        prewarm=boolean,
        ttl=choice("30m", "12h"),
    ),
    only_members(prewarm=(False,)),
)
PROMPT_CACHE_RETENTION = Parameter(choice("in_memory", "24h"))
SAFETY_IDENTIFIER = Parameter(string(128))  # [types of the SDK 3.54.0]
TOOLS = Parameter(array(an_object, "an array of objects"), only([]))
TOOL_CHOICE = Parameter(
    either(A_STRING_OR_OBJECT, str=choice("none", "auto", "required"), dict=an_object), only("none", "auto")
)
TOP_LOGPROBS = Parameter(integer(0, 20), only(0))
STOP = either(
    "one of a string or array of strings", str=string(), list=array(string(), "an array of strings", maximum=4)
)
_POLICY = members(required=("mode",), mode=choice("score", "block"))
MODERATION = Parameter(
    members(required=("model",), model=string(), policy=members(input=_POLICY, output=_POLICY)), only()
)

_REASONING_MODEL = re.compile(r"(o[1-9]|gpt-([5-9]|[1-9][0-9]))(?![0-9])", re.ASCII)
_TITLE = "Title: "


def is_reasoning_model(model: str) -> bool:
    """Whether OpenAI's model of this name is a reasoning model, which refuses sampling parameters."""
    return _REASONING_MODEL.match(model) is not None and "-chat" not in model


def given(body: dict[str, Any], name: str, default: object) -> object:
    """A parameter's value. OpenAI treats null like a missing parameter."""
    value = body.get(name)
    return default if value is None else value


def read_integer(text: str) -> int | str:
    """The integer that a form or a query holds as text; the text itself if it is no integer."""
    digits = text.removeprefix("-")
    # Python reads at most 4,300 digits. No client needs more than 20.
    is_integer = len(digits) <= 20 and digits.isascii() and digits.isdigit()
    return int(text) if is_integer else text


def check_metadata(metadata: object) -> dict[str, str] | None:
    """At most 16 pairs, with keys of at most 64 characters, and values that are strings of at most 512."""
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise errors.invalid_type("metadata", "an object", metadata)
    if len(metadata) > 16:
        message = (
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
            f"but got an object with {len(metadata)} properties instead."
        )
        raise ApiError(400, message, param="metadata", code="object_above_max_properties")
    for key, value in metadata.items():
        errors.check_string(f"metadata.{key}", value, maximum_length=512)
        errors.check_string("metadata", key, maximum_length=64)
    return metadata


def metadata(_: str, value: Any) -> None:
    """The check of `metadata` in a table."""
    check_metadata(value)


def split_title(text: str) -> tuple[str | None, str]:
    """Title and text of an article. A first line `Title: …` is the title, and not a part of the text."""
    if not text.startswith(_TITLE):
        return None, text
    first, _, rest = text.partition("\n")
    return first.removeprefix(_TITLE).strip() or None, rest.lstrip("\n")


def read_model(body: dict[str, Any]) -> str:
    """The request's model. Raises ApiError without one."""
    model = body.get("model")
    if not model:
        raise ApiError(400, "you must provide a model parameter")
    return errors.check_string("model", model)


def unrecognized_argument(name: str) -> ApiError:
    """OpenAI's older error for an unknown parameter, of all endpoints but `/v1/responses`."""
    return ApiError(400, f"Unrecognized request argument supplied: {name}")


def read_stop(body: dict[str, Any]) -> list[str]:
    """The sequences at which an answer ends."""
    stop: Any = given(body, "stop", [])
    return [stop] if isinstance(stop, str) else stop


def check_stream(body: dict[str, Any]) -> None:
    """Raises ApiError for a request to stream, and OpenAI's error for options of a stream without one."""
    if body.get("stream"):
        raise errors.streaming_unsupported()
    if body.get("stream_options") is not None:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise ApiError(400, message, param="stream_options")
