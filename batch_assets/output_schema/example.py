"""Makes an answer that fits a schema from the words of a text, for the local Batch API. No model is needed.

The same schema and text have the same answer, in each process and on each machine. The walk covers OpenAI's strict
subset, and of the rest what costs little: `oneOf` as `anyOf`, `allOf` as a union of keywords, `minLength`, `maxLength`,
`uniqueItems`, `prefixItems`, optional properties. The caller judges the answer: other keywords are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import ceil, floor
from typing import Any, NoReturn
from urllib.parse import unquote

from batch_assets.output_schema.example_text import Source

_DEEP = 4  # levels of an answer; below, it takes the shortest way to an end
_MAX_LEVELS = 32
_MAX_VALUES = 20_000
_MAX_ITEMS = 1_000
_MAX_REFERENCES = 100
_MAX_STEPS = 50_000
_ANNOTATIONS = ("title", "description", "default", "examples", "$schema", "$defs", "definitions", "discriminator")
_SCALARS = ("string", "number", "integer", "boolean", "null")
_SPAN = 100  # between the bounds of a number with one bound or none


def example_answer(schema: Mapping[str, Any], text: str) -> Any:
    """An answer as Python's JSON. Raises ValueError, with a sentence, if the walk finds none."""
    return Example(schema).answer(text)


class Example:
    """Writes answers by one schema, which JSON Schema allows. Safe for threads."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._root = schema
        # By the id of a part; each entry also holds its part, so that no other object gets that id.
        self._resolved: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._branches: dict[int, tuple[Any, list[dict[str, Any]]]] = {}
        self._numbers: dict[int, tuple[Any, tuple[int, int, Fraction]]] = {}
        self._fitting: dict[tuple[int, int], bool] = {}

    def answer(self, text: str, *, summary: Callable[[], str] | None = None, attempt: int = 0) -> Any:
        """An answer from the text. Raises ValueError, with a sentence, if there is none.

        summary: makes the text of fields that are named like one; otherwise it is the beginning of the text.
        attempt: another number makes other choices, for a schema with keywords that the walk does not look at.
        """
        try:
            return self._value(self._root, "", 0, Source(text, summary, attempt))
        except RecursionError as error:
            raise ValueError("The schema is nested too deeply.") from error
        except OverflowError as error:
            raise ValueError("A bound of a number is larger than a number can be.") from error

    def _value(self, part: Any, name: str, level: int, source: Source, index: int | None = None) -> Any:
        """index: the place of the value in a list."""
        source.count_value(_MAX_VALUES)
        schema = self._resolve(part)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return source.one_of(schema["enum"], name)
        if branches := self._branches_of(schema):
            return self._value(self._choose(branches, level, source), name, level, source, index)
        match self._kind(schema, level, source):
            case "object":
                return self._object(schema, level, source)
            case "array":
                return self._array(schema, name, level, source)
            case "string":
                return source.string(schema, name, index)
            case "boolean":
                return source.below(2) == 1
            case "integer" | "number" as kind:
                return self._number(schema, kind, source)
        return None

    def _object(self, schema: dict[str, Any], level: int, source: Source) -> dict[str, Any]:
        properties: dict[str, Any] = schema.get("properties", {})
        required = schema.get("required", ())
        wanted = {
            name: part
            for name, part in properties.items()
            if name in required or (level < _DEEP and self._fits(part, _MAX_LEVELS - level))
        }
        others = schema.get("additionalProperties")
        if isinstance(others, dict) and not properties and level < _DEEP:
            wanted = {source.topic(number): others for number in range(2)}
        wanted |= {name: others if others is not None else {} for name in required if name not in properties}
        return {name: self._value(part, name, level + 1, source) for name, part in wanted.items()}

    def _array(self, schema: dict[str, Any], name: str, level: int, source: Source) -> list[Any]:
        prefix, items = schema.get("prefixItems", []), schema.get("items", {})
        count = self._count(schema, items, level, source)
        if count > _MAX_ITEMS:
            raise ValueError(f"The schema asks for a list of {count} items, more than {_MAX_ITEMS}.")
        values: list[Any] = [self._value(part, name, level + 1, source) for part in prefix]
        is_set = schema.get("uniqueItems", False)
        for index in range(count * (5 if is_set else 1)):
            if len(values) >= count:
                break
            value = self._value(items, name, level + 1, source, index)
            if not is_set or value not in values:
                values.append(value)
        return values

    def _number(self, schema: dict[str, Any], kind: str, source: Source) -> int | float:
        if id(schema) not in self._numbers:
            self._numbers[id(schema)] = (schema, _multiples(schema, kind))
        first, last, step = self._numbers[id(schema)][1]
        value = (first + source.below(last - first + 1)) * step
        return int(value) if kind == "integer" else float(value)

    def _count(self, schema: dict[str, Any], items: Any, level: int, source: Source) -> int:
        fewest = int(schema.get("minItems", 0))  # 2.0 counts as an integer
        most = int(schema.get("maxItems", max(fewest, 3)))
        if level >= _DEEP or most <= fewest or not self._fits(items, _MAX_LEVELS - level):
            return fewest
        usual = max(fewest, min(2, most))
        return usual + source.below(min(most - usual, 1) + 1)

    def _kind(self, schema: dict[str, Any], level: int, source: Source) -> str:
        """The type of the value: null for one in eight of those that may be null, and where the answer is deep."""
        kinds = _kinds_of(schema)
        if len(kinds) == 1 and kinds[0] in _SCALARS:
            return kinds[0]
        fitting = [kind for kind in kinds if self._kind_fits(schema, kind, _MAX_LEVELS - level)]
        if not fitting:
            _no_end()
        others = [kind for kind in fitting if kind != "null"]
        scalars = [kind for kind in fitting if kind in _SCALARS]
        if level >= _DEEP and scalars:
            return "null" if "null" in scalars else scalars[0]
        if "null" in fitting and (not others or source.below(8) == 0):
            return "null"
        return others[source.below(len(others))]

    def _choose(self, branches: list[dict[str, Any]], level: int, source: Source) -> dict[str, Any]:
        if level >= _DEEP:
            for levels in range(_MAX_LEVELS - level + 1):
                for branch in branches:
                    if self._fits(branch, levels):
                        return branch
            _no_end()
        fitting = [branch for branch in branches if self._fits(branch, _MAX_LEVELS - level)]
        nulls = [branch for branch in fitting if branch.get("type") == "null"]
        others = [branch for branch in fitting if branch.get("type") != "null"]
        if not fitting:
            _no_end()
        if nulls and (not others or source.below(8) == 0):
            return nulls[0]
        return others[source.below(len(others))]

    def _fits(self, part: Any, levels: int) -> bool:
        """Whether a value with at most so many levels below it exists."""
        if levels < 0 or part is False:
            return False
        schema = self._resolve(part)
        key = (id(schema), levels)
        if key not in self._fitting:
            if "const" in schema or "enum" in schema:
                fits = True
            elif branches := self._branches_of(schema):
                fits = any(self._fits(branch, levels - 1) for branch in branches)
            else:
                fits = any(self._kind_fits(schema, kind, levels) for kind in _kinds_of(schema))
            self._fitting[key] = fits
            if len(self._fitting) > _MAX_STEPS:
                raise ValueError("The schema leads to too many others.")
        return self._fitting[key]

    def _kind_fits(self, schema: dict[str, Any], kind: str, levels: int) -> bool:
        if kind == "object":
            properties = schema.get("properties", {})
            return all(self._fits(properties.get(name, {}), levels - 1) for name in schema.get("required", ()))
        if kind == "array":
            return not schema.get("minItems") or self._fits(schema.get("items", {}), levels - 1)
        return True

    def _branches_of(self, schema: dict[str, Any]) -> list[dict[str, Any]]:
        """The schemas of which one counts, each with the keywords beside them; none without anyOf and oneOf."""
        keyword = next((keyword for keyword in ("anyOf", "oneOf") if keyword in schema), None)
        if keyword is None:
            return []
        if id(schema) not in self._branches:
            beside = {key: value for key, value in schema.items() if key not in (keyword, *_ANNOTATIONS)}
            branches = [self._resolve(branch) for branch in schema[keyword]]
            branches = [_merged(beside, branch) for branch in branches] if beside else branches
            self._branches[id(schema)] = (schema, branches)
        return self._branches[id(schema)][1]

    def _resolve(self, part: Any) -> dict[str, Any]:
        """The part without references and allOf."""
        if id(part) not in self._resolved:
            schema = self._follow(part)
            if "allOf" in schema:
                parts = [self._resolve(one) for one in schema["allOf"]]
                schema = {key: value for key, value in schema.items() if key != "allOf"}
                for one in parts:
                    schema = _merged(schema, one)
            self._resolved[id(part)] = (part, schema)
        return self._resolved[id(part)][1]

    def _follow(self, part: Any) -> dict[str, Any]:
        schema: Any = part
        for _ in range(_MAX_REFERENCES):
            if schema is False:
                raise ValueError("A part of the schema is false, which no value fits.")
            if schema is True:
                return {}
            if "$ref" not in schema:
                resolved: dict[str, Any] = schema
                return resolved
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            target = _pointed_to(self._root, schema["$ref"])
            schema = _merged(beside, target) if beside and isinstance(target, dict) else target
        raise ValueError(f"The reference {part['$ref']!r} leads to itself only.")


def _no_end() -> NoReturn:
    raise ValueError(f"The schema has no answer of at most {_MAX_LEVELS} levels, since it contains itself.")


def _kinds_of(schema: dict[str, Any]) -> list[str]:
    kinds = schema.get("type")
    if kinds is None:
        return ["object" if "properties" in schema else "array" if "items" in schema else "string"]
    return kinds if isinstance(kinds, list) else [kinds]


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both schemas as one: all their properties, and of other keywords those of the second."""
    merged = {**first, **second}
    if "properties" in first and "properties" in second:
        merged["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        merged["required"] = [*first["required"], *second["required"]]
    return merged


def _pointed_to(root: Any, reference: str) -> Any:
    if not reference.startswith("#/") and reference != "#":
        raise ValueError(f"The reference {reference[:100]!r} does not begin with '#/'.")
    found = root
    for step in unquote(reference).split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(key)] if isinstance(found, list) else found[key]
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"The reference {reference[:100]!r} leads to nothing.") from error
    return found


def _multiples(schema: dict[str, Any], kind: str) -> tuple[int, int, Fraction]:
    """The numbers within the bounds: n times a step, from the first n to the last.

    The step is multipleOf, or else makes numbers of few digits.
    """
    multiple = Fraction(str(schema["multipleOf"])) if "multipleOf" in schema else None
    span = _SPAN * max(multiple or 1, 1)
    lows = [Fraction(schema[name]) for name in ("minimum", "exclusiveMinimum") if name in schema]
    highs = [Fraction(schema[name]) for name in ("maximum", "exclusiveMaximum") if name in schema]
    low = max(lows) if lows else Fraction(0) if not highs or min(highs) > 0 else min(highs) - span
    high = min(highs) if highs else low + span
    if kind == "integer":
        step = Fraction(multiple.numerator if multiple else 1)
    else:
        step = (
            multiple or (Fraction(1, 100) if high - low > Fraction(1, 25) else (high - low) / 64) or low or Fraction(1)
        )
    first, last = ceil(low / step), floor(high / step)
    first += "exclusiveMinimum" in schema and first * step <= Fraction(schema["exclusiveMinimum"])
    last -= "exclusiveMaximum" in schema and last * step >= Fraction(schema["exclusiveMaximum"])
    if first > last:
        raise ValueError("The bounds of a number exclude each other.")
    return first, last, step
