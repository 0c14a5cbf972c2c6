"""What answers a chat request: an engine takes a checked request and returns text with token counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from batch_assets.local_api.engines import extractive
from batch_assets.local_api.engines.tokens import count_tokens

_MAXIMUM_SENTENCES = 3
# What a summary may take when the request sets no limit; a model's own limit is far above any summary.
_UNLIMITED_TOKENS = 16_384
# OpenAI's chat format costs 3 tokens a message, and 3 that open the answer (openai-cookbook, token counting).
_TOKENS_PER_MESSAGE = 3
_TOKENS_PER_ANSWER = 3


@dataclass(frozen=True)
class ChatRequest:
    """A chat request whose form has been checked.

    prompt: the text of every message, for counting tokens.
    text, title: what the user asks to have summarised.
    max_tokens: the limit the client set, or None.
    """

    model: str
    prompt: Sequence[str]
    text: str
    title: str | None
    max_tokens: int | None


@dataclass(frozen=True)
class Completion:
    """An engine's answer; finish_reason is "length" when the limit cut it, otherwise "stop"."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Engine(Protocol):
    """Called from several threads at the same time. What it raises becomes OpenAI's 500."""

    name: str

    def complete(self, request: ChatRequest) -> Completion: ...


class ExtractiveEngine:
    """Summaries made of a text's own best sentences: nothing to download, the same answer every time."""

    name = "extractive"

    def complete(self, request: ChatRequest) -> Completion:
        limit = request.max_tokens or _UNLIMITED_TOKENS
        finish_reason = "stop"
        summary = self._summarise(request, _UNLIMITED_TOKENS)
        tokens = count_tokens(summary)
        if tokens > limit:
            finish_reason = "length"
            summary = self._summarise(request, limit)
            tokens = count_tokens(summary)
        return Completion(summary, finish_reason, _prompt_tokens(request), tokens)

    def _summarise(self, request: ChatRequest, max_tokens: int) -> str:
        return extractive.summarise(
            request.text, title=request.title, max_tokens=max_tokens, max_sentences=_MAXIMUM_SENTENCES
        )


class InstantEngine:
    """Echoes the first 20 words without any work, so that a benchmark measures everything else.

    A word counts as a token of the answer, four characters as one of the prompt.
    """

    name = "instant"

    def complete(self, request: ChatRequest) -> Completion:
        # Cut before it is split: a long article costs no more than a short one.
        words = request.text[:1000].split(maxsplit=20)[:20]
        kept = words[: request.max_tokens]
        finish_reason = "length" if len(kept) < len(words) else "stop"
        return Completion(" ".join(kept), finish_reason, sum(map(len, request.prompt)) // 4, len(kept))


def _prompt_tokens(request: ChatRequest) -> int:
    tokens = sum(_TOKENS_PER_MESSAGE + count_tokens(text) for text in request.prompt)
    return tokens + _TOKENS_PER_ANSWER
