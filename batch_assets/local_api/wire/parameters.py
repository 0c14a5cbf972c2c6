"""Parameters that several endpoints take, read and checked in the same words."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from batch_assets.local_api.wire import errors
from batch_assets.local_api.wire.errors import ApiError

_REASONING_MODEL = re.compile(r"(o[1-9]|gpt-([5-9]|[1-9][0-9]))(?![0-9])", re.ASCII)
_TITLE = "Title: "


def is_reasoning_model(model: str) -> bool:
    """Whether OpenAI's model of that name thinks first, and refuses sampling parameters therefore."""
    return _REASONING_MODEL.match(model) is not None and "-chat" not in model


def given(body: dict[str, Any], name: str, default: object) -> object:
    """A parameter's value; OpenAI takes null as if it were not there."""
    value = body.get(name)
    return default if value is None else value


def read_integer(text: str) -> int | str:
    """The integer that a form or a query carries as text; the text itself where it is none."""
    digits = text.removeprefix("-")
    # Of more digits than Python cares to read (4,300), or than anybody means, it is none.
    is_integer = len(digits) <= 20 and digits.isascii() and digits.isdigit()
    return int(text) if is_integer else text


def check_ranges(body: dict[str, Any], ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises ApiError for a parameter that is given and is no number in its range, both ends included."""
    for name, (minimum, maximum) in ranges.items():
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise errors.invalid_type(name, "a decimal", value)
        if problem := errors.out_of_range(name, "decimal", value, minimum=minimum, maximum=maximum):
            raise problem


def check_metadata(metadata: object) -> dict[str, str] | None:
    """At most 16 pairs; keys of at most 64 characters, values are strings of at most 512."""
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


def split_title(text: str) -> tuple[str | None, str]:
    """A first line `Title: …` is the title, and not part of the text to summarise."""
    if not text.startswith(_TITLE):
        return None, text
    first, _, rest = text.partition("\n")
    return first.removeprefix(_TITLE).strip() or None, rest.lstrip("\n")


def read_model(body: dict[str, Any], known: Collection[str]) -> str:
    """The request's model; raises ApiError without one, and for a parameter that isn't known."""
    for name in body:
        if name not in known:
            raise ApiError(400, f"Unrecognized request argument supplied: {name}")
    model = body.get("model")
    if not model:
        raise ApiError(400, "you must provide a model parameter")
    return errors.check_string("model", model)
