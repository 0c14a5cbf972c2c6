"""What the messages of a request say: texts and images, of chat completions and of responses alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from batch_assets.local_api.engines.answer_format import AnswerFormat
from batch_assets.local_api.engines.engine import ChatRequest
from batch_assets.local_api.engines.images import Image
from batch_assets.local_api.wire.parameters import split_title


class Message(NamedTuple):
    """role: None for an item of a conversation that is no message."""

    role: str | None
    text: str
    images: Sequence[Image] = ()


def chat_request(
    model: str,
    messages: Sequence[Message],
    *,
    max_tokens: int | None,
    answer_format: AnswerFormat | None,
    instructions: str | None = None,
    stop: Sequence[str] = (),
) -> ChatRequest:
    """The request for an engine, which answers the last message of the user (or the last message, without any)."""
    answered = next((message for message in reversed(messages) if message.role == "user"), messages[-1])
    title, text = split_title(answered.text)
    prompt = [message.text for message in messages]
    return ChatRequest(
        model=model,
        prompt=prompt if instructions is None else [instructions, *prompt],
        text=text,
        title=title,
        max_tokens=max_tokens,
        answer_format=answer_format,
        stop=stop,
        images=answered.images,
        other_images=[image for message in messages if message is not answered for image in message.images],
    )
