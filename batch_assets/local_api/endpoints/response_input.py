"""The `input` of a Responses request: a text, or a list of messages and other items."""

from __future__ import annotations

from typing import Any

from batch_assets.local_api.endpoints.image_parts import response_image
from batch_assets.local_api.endpoints.messages import Message
from batch_assets.local_api.engines.images import Image
from batch_assets.local_api.wire import errors
from batch_assets.local_api.wire.errors import ApiError

_ROLES = ("assistant", "system", "developer", "user")
_TEXT_PARTS = ("input_text", "output_text", "refusal")
# The input may hold these items of earlier responses. They have no text of a message.
_OTHER_ITEMS = ("function_call", "function_call_output", "reasoning")
_NO_INPUT = "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be provided."


def read_input(body: dict[str, Any]) -> list[Message]:
    """The messages, at least one. A text is the user's. Raises ApiError."""
    if "input" not in body:
        raise errors.missing_parameter("input")
    value = body["input"]
    if value in ("", []):
        raise ApiError(400, _NO_INPUT, code="missing_required_parameter")
    if isinstance(value, str):
        return [Message("user", value)]
    if not isinstance(value, list):
        raise errors.invalid_type("input", "one of a string or array of input items", value)
    return [_read_item(item, f"input[{index}]") for index, item in enumerate(value)]


def _read_item(item: object, param: str) -> Message:
    if not isinstance(item, dict):
        raise errors.invalid_type(param, "an object", item)
    kind = errors.check_string(f"{param}.type", item.get("type", "message"))
    if kind in _OTHER_ITEMS:
        return Message(None, "")
    if kind != "message":
        raise errors.invalid_value(f"{param}.type", kind, ("message", *_OTHER_ITEMS))
    for name in ("role", "content"):
        if name not in item:
            raise errors.missing_parameter(f"{param}.{name}")
    role = errors.check_string(f"{param}.role", item["role"])
    if role not in _ROLES:
        raise errors.invalid_value(f"{param}.role", role, _ROLES)
    content = item["content"]
    if isinstance(content, str):
        return Message(role, content)
    if not isinstance(content, list):
        raise errors.invalid_type(f"{param}.content", "one of an array of objects or string", content)
    parts = [_read_part(part, f"{param}.content[{number}]") for number, part in enumerate(content)]
    text = "".join(part for part in parts if isinstance(part, str))
    return Message(role, text, [part for part in parts if isinstance(part, Image)])


def _read_part(part: object, param: str) -> str | Image:
    if not isinstance(part, dict):
        raise errors.invalid_type(param, "an object", part)
    if "type" not in part:
        raise errors.missing_parameter(f"{param}.type")
    kind = errors.check_string(f"{param}.type", part["type"])
    if kind == "input_image":
        return response_image(part, param)
    if kind not in _TEXT_PARTS:
        raise errors.invalid_value(f"{param}.type", kind, (*_TEXT_PARTS, "input_image"))
    name = "refusal" if kind == "refusal" else "text"
    if name not in part:
        raise errors.missing_parameter(f"{param}.{name}")
    return errors.check_string(f"{param}.{name}", part[name])
