"""The `messages` of a chat completion request."""

from __future__ import annotations

from typing import Any

from batch_assets.local_api.endpoints.image_parts import chat_image
from batch_assets.local_api.endpoints.messages import Message
from batch_assets.local_api.engines.images import Image
from batch_assets.local_api.wire import errors
from batch_assets.local_api.wire.errors import ApiError

_ROLES = ("system", "assistant", "user", "function", "tool", "developer")


def read_messages(body: dict[str, Any]) -> list[Message]:
    """The messages, at least one. Raises ApiError."""
    messages = body.get("messages")
    if messages is None:
        raise errors.missing_parameter("messages")
    if not isinstance(messages, list):
        raise errors.invalid_type("messages", "an array of objects", messages)
    if error := errors.array_length("messages", len(messages), minimum=1, maximum=None):
        raise error
    return [_read_message(message, f"messages[{index}]", index) for index, message in enumerate(messages)]


def _read_message(message: object, param: str, index: int) -> Message:
    if not isinstance(message, dict):
        raise errors.invalid_type(param, "an object", message)
    role = message.get("role")
    if role is None:
        raise errors.missing_parameter(f"{param}.role")
    if errors.check_string(f"{param}.role", role) not in _ROLES:
        raise errors.invalid_value(f"{param}.role", role, _ROLES)
    content = message.get("content")
    if isinstance(content, str):
        return Message(role, content)
    if content is None:
        # An assistant's message may consist of tool calls or a refusal only.
        if role == "assistant" and any(
            message.get(name) is not None for name in ("tool_calls", "function_call", "refusal", "audio")
        ):
            return Message(role, "")
        raise ApiError(
            400,
            "Invalid value for 'content': expected a string, got null.",
            param=f"messages.[{index}].content",
        )
    if not isinstance(content, list):
        raise errors.invalid_type(f"{param}.content", "one of a string or array of objects", content)
    parts = [_read_part(part, role, index, number) for number, part in enumerate(content)]
    text = "".join(part for part in parts if isinstance(part, str))
    return Message(role, text, [part for part in parts if isinstance(part, Image)])


def _read_part(part: object, role: str, index: int, number: int) -> str | Image:
    param = f"messages[{index}].content[{number}]"
    if not isinstance(part, dict):
        raise errors.invalid_type(param, "an object", part)
    kind = part.get("type")
    if kind is None:
        raise errors.missing_parameter(f"{param}.type")
    if kind == "refusal":
        return errors.check_string(f"{param}.refusal", part.get("refusal"))
    if kind == "text":
        return errors.check_string(f"{param}.text", part.get("text"))
    if kind == "image_url":
        if role != "user":
            param = f"messages[{index}]"
            message = (
                f"Invalid '{param}'. Image URLs are only allowed for messages with role 'user', "
                f"but this message with role '{role}' contains an image URL."
            )
            raise ApiError(400, message, param=param, code="invalid_value")
        return chat_image(part, param)
    # OpenAI's message for a model that takes text only.
    message = f"Invalid content type. {kind} is only supported by certain models."
    raise ApiError(400, message, param=f"messages.[{index}].content.[{number}].type")
