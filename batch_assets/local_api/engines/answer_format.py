"""Answers in JSON, which the built-in engines make of a text without a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from batch_assets.local_api.wire.errors import ApiError
from batch_assets.output_schema.example import Example
from batch_assets.output_schema.judge import Judge

# A schema may have keywords that the walk does not look at. Another attempt makes other choices.
_ATTEMPTS = 4


class AnswerFormat:
    """JSON that fits a schema. Safe for threads. Raises ValueError for what is no JSON schema.

    schema: as JSON gives it; None for any object.
    """

    def __init__(self, schema: dict[str, Any] | None) -> None:
        self._example = Example(schema) if schema is not None else None
        self._judge = Judge(schema) if schema is not None else None

    def answer(self, text: str, summary: Callable[[], str]) -> str:
        """The answer as text. Raises ApiError if none is found that fits.

        summary: makes the engine's own answer in words.
        """
        if self._example is None or self._judge is None:
            return _written({"summary": summary()})
        why: str | None = None
        for attempt in range(_ATTEMPTS):
            try:
                answer = _written(self._example.answer(text, summary=summary, attempt=attempt))
            except ValueError as error:
                why = str(error)
                break
            why = self._judge.why_invalid(answer)
            if why is None:
                return answer
        message = f"The engine of the local Batch API, which is no model, found no answer that fits the schema. {why}"
        raise ApiError(400, message, code="unsupported_value")


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


ANY_OBJECT = AnswerFormat(None)
