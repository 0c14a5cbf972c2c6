"""Decides whether an answer is valid by its schema: strict JSON that fulfils it, and nothing around it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs
import orjson

MAX_MESSAGE = 300


class Judge:
    """Judges answers by one schema. It holds one answer in memory.

    Accepts what JSON Schema of 2020-12 accepts, formats included. References are resolved within the schema only: none
    is fetched. Raises ValueError if this is no schema.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._validator = jsonschema_rs.Draft202012Validator(dict(schema), validate_formats=True, offline=True)

    def why_invalid(self, text: str) -> str | None:
        """Why the answer is invalid, in a sentence; None if it is valid.

        The sentence names the field and the rule. It quotes nothing of the answer, which may be long or hostile.
        """
        try:
            value = orjson.loads(text)
        except ValueError as error:  # also for text that UTF-8 cannot hold
            return f"The answer is not JSON: {error}."
        if self._validator.is_valid(value):
            return None
        try:
            first = next(iter(self._validator.iter_errors(value)))
        except ValueError:  # at 300 levels it has no place for an error
            return "The answer does not fit the schema, and is nested too deeply to say where."
        rule = "/".join(map(str, first.schema_path))
        return f"The answer does not fit the schema at {_place(first.instance_path)}: rule {rule}."[:MAX_MESSAGE]


def _place(path: Sequence[str | int]) -> str:
    return "/".join(("$", *map(str, path)))
