"""A built-in engine takes a checked chat request, and returns a text or JSON with token counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from batch_assets.local_api.engines import extractive
from batch_assets.local_api.engines.answer_format import AnswerFormat
from batch_assets.local_api.engines.images import Image, describe
from batch_assets.local_api.engines.tokens import count_tokens, cut, first_tokens

_MAXIMUM_SENTENCES = 3
# The limit of a request without one. Every summary is far shorter.
_DEFAULT_MAXIMUM_TOKENS = 16_384
# OpenAI's chat format costs 3 tokens a message, and 3 at the beginning of the answer (openai-cookbook, token counting).
_TOKENS_PER_MESSAGE = 3
_TOKENS_PER_ANSWER = 3
_UNSEEN = "An image. (The engine `instant` looks at no image.)"


@dataclass(frozen=True)
class ChatRequest:
    """A chat request whose form has been checked.

    prompt: the text of every message, for counting tokens.
    text, title: of the article that the user wants summarised.
    max_tokens: the client's limit for the answer, or None.
    answer_format: of the JSON that the client wants; None for text.
    stop: the sequences at which the answer ends. `cut_at_stop` cuts it, and not the engine.
    images: those of the message that the engine answers. Captions of them are the answer, in place of a summary.
    other_images: those of the other messages, for counting tokens.
    """

    model: str
    prompt: Sequence[str]
    text: str
    title: str | None
    max_tokens: int | None
    answer_format: AnswerFormat | None = None
    stop: Sequence[str] = ()
    images: Sequence[Image] = ()
    other_images: Sequence[Image] = ()


@dataclass(frozen=True)
class Completion:
    """An engine's answer. finish_reason is "length" when the limit cut it, otherwise "stop"."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


def cut_at_stop(completion: Completion, stop: Sequence[str]) -> Completion:
    """The answer up to the first of the sequences in it, without that, as a model would have ended there."""
    if not stop:
        return completion
    end = min((place for sequence in stop if sequence and (place := completion.text.find(sequence)) >= 0), default=-1)
    if end < 0:
        return completion
    text = completion.text[:end]
    tokens = min(count_tokens(text), completion.completion_tokens)
    return replace(completion, text=text, finish_reason="stop", completion_tokens=tokens)


class Engine(Protocol):
    """Several threads call it at the same time. An ApiError is the response; another exception becomes OpenAI's 500."""

    name: str

    def complete(self, request: ChatRequest) -> Completion: ...


class ExtractiveEngine:
    """Summaries of a text's own best sentences, and captions of images: no download, and the same answer every time."""

    name = "extractive"

    def complete(self, request: ChatRequest) -> Completion:
        prompt_tokens = _prompt_tokens(request)
        if request.images or request.other_images:
            captions = [describe(image) for image in request.images]
            prompt_tokens += sum(found.tokens for found in captions)
            prompt_tokens += sum(describe(image).tokens for image in request.other_images)
            if captions:
                request = replace(request, text="\n".join(found.caption for found in captions), title=None)
        limit = request.max_tokens or _DEFAULT_MAXIMUM_TOKENS
        finish_reason = "stop"
        if request.answer_format is not None:
            text = _json_answer(request.answer_format, request, lambda: _written(request, _DEFAULT_MAXIMUM_TOKENS))
            tokens = count_tokens(text)
            if tokens > limit:
                text, tokens, finish_reason = first_tokens(text, limit), limit, "length"
            return Completion(text, finish_reason, prompt_tokens, tokens)
        text = _written(request, _DEFAULT_MAXIMUM_TOKENS)
        tokens = count_tokens(text)
        if tokens > limit:
            finish_reason = "length"
            text = _written(request, limit)
            tokens = count_tokens(text)
        return Completion(text, finish_reason, prompt_tokens, tokens)


def _written(request: ChatRequest, max_tokens: int) -> str:
    """The captions of a request with images, otherwise the summary."""
    if request.images:
        return cut(request.text, max_tokens)[0]
    return extractive.summarise(
        request.text, title=request.title, max_tokens=max_tokens, max_sentences=_MAXIMUM_SENTENCES
    )


class InstantEngine:
    """Echoes the first 20 words, so that a benchmark measures everything but the engine. It looks at no image.

    A word counts as a token of the answer. Four characters count as a token of the prompt, and of an answer in JSON.
    """

    name = "instant"

    def complete(self, request: ChatRequest) -> Completion:
        prompt_tokens = sum(map(len, request.prompt)) // 4
        if request.images:
            request = replace(request, text=_UNSEEN, title=None)
        # Cut before it is split, so that a long article costs no more than a short one.
        words = request.text[:1000].split(maxsplit=20)[:20]
        if request.answer_format is not None:
            text = _json_answer(request.answer_format, request, lambda: " ".join(words))
            written = text if request.max_tokens is None else text[: 4 * request.max_tokens]
            finish_reason = "length" if len(written) < len(text) else "stop"
            return Completion(written, finish_reason, prompt_tokens, -(-len(written) // 4))
        kept = words[: request.max_tokens]
        finish_reason = "length" if len(kept) < len(words) else "stop"
        return Completion(" ".join(kept), finish_reason, prompt_tokens, len(kept))


def _json_answer(answer_format: AnswerFormat, request: ChatRequest, summary: Callable[[], str]) -> str:
    text = request.text if request.title is None else f"{request.title}\n{request.text}"
    return answer_format.answer(text, summary)


def _prompt_tokens(request: ChatRequest) -> int:
    tokens = sum(_TOKENS_PER_MESSAGE + count_tokens(text) for text in request.prompt)
    return tokens + _TOKENS_PER_ANSWER
