"""The `input` of a Responses request: a text, or a list of messages and other items."""

from __future__ import annotations

from typing import Any

from batch_assets.local_api.wire import errors
from batch_assets.local_api.wire.errors import ApiError

_ROLES = ("assistant", "system", "developer", "user")
_TEXT_PARTS = ("input_text", "output_text", "refusal")
# The input may hold these items of earlier responses. They have no text of a message.
_OTHER_ITEMS = ("function_call", "function_call_output", "reasoning")
_NO_INPUT = "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be provided."


def read_input(body: dict[str, Any]) -> tuple[list[str], str]:
    """The text of each message, and the text of the last user message (or of the last message, without any)."""
    if "input" not in body:
        raise errors.missing_parameter("input")
    value = body["input"]
    if value in ("", []):
        raise ApiError(400, _NO_INPUT, code="missing_required_parameter")
    if isinstance(value, str):
        return [value], value
    if not isinstance(value, list):
        raise errors.invalid_type("input", "one of a string or array of input items", value)
    prompt: list[str] = []
    last_user: str | None = None
    for index, item in enumerate(value):
        role, text = _read_item(item, f"input[{index}]")
        prompt.append(text)
        if role == "user":
            last_user = text
    return prompt, prompt[-1] if last_user is None else last_user


def _read_item(item: object, param: str) -> tuple[str | None, str]:
    """Role and text of a message. Other items of a conversation have no role and no text."""
    if not isinstance(item, dict):
        raise errors.invalid_type(param, "an object", item)
    kind = errors.check_string(f"{param}.type", item.get("type", "message"))
    if kind in _OTHER_ITEMS:
        return None, ""
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
        return role, content
    if not isinstance(content, list):
        raise errors.invalid_type(f"{param}.content", "one of an array of objects or string", content)
    return role, "".join(_read_part(part, f"{param}.content[{number}]") for number, part in enumerate(content))


def _read_part(part: object, param: str) -> str:
    if not isinstance(part, dict):
        raise errors.invalid_type(param, "an object", part)
    if "type" not in part:
        raise errors.missing_parameter(f"{param}.type")
    kind = errors.check_string(f"{param}.type", part["type"])
    if kind not in _TEXT_PARTS:
        raise errors.invalid_value(f"{param}.type", kind, _TEXT_PARTS)
    name = "refusal" if kind == "refusal" else "text"
    if name not in part:
        raise errors.missing_parameter(f"{param}.{name}")
    return errors.check_string(f"{param}.{name}", part[name])
