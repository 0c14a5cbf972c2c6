"""Checks that a schema is in the subset that OpenAI accepts with `strict: true`, before anything is sent.

The rules are those of OpenAI's guide "Structured model outputs". The sentences are those of its API where users have
quoted them; a comment marks the few that are ours. Nothing is fetched, and no schema can exhaust the stack or the
memory: the walk has a stack of its own, ends after 200,000 parts, and does not follow references.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import unquote

MAX_PROBLEMS = 100
MAX_LEVELS = 10
MAX_PROPERTIES = 5_000
MAX_ENUM_VALUES = 1_000
MAX_CHARACTERS = 120_000  # of the names of properties and definitions, and of the values of enum and const
LONG_ENUM_VALUES = 250
MAX_LONG_ENUM_CHARACTERS = 15_000
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")

_MAX_PARTS = 200_000  # a schema with shared parts, as YAML's aliases make it, may be far larger than its text
_MAX_CONTEXT = 500  # characters
_KINDS = ("string", "number", "integer", "boolean", "object", "array", "null")
_DEFINITIONS = ("$defs", "definitions")
_TEXTS = ("title", "description", "$schema", "pattern", "format")
_NUMBERS = ("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_COUNTS = ("minItems", "maxItems")
_STRUCTURE = ("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref")
_KEYWORDS = frozenset((*_STRUCTURE, *_TEXTS, *_NUMBERS, *_COUNTS))
_NOT_AT_THE_ROOT = ("oneOf", "anyOf", "enum", "not")  # refused by one sentence for all of them
_AT_THE_ROOT = _KEYWORDS - {"$ref"} | {*_DEFINITIONS, *_NOT_AT_THE_ROOT}
_ADVICE = "Consider reducing the number of enums, or opt out of structured outputs by setting 'strict: false'."

_Place = tuple[Any, ...] | None  # (the place of the parent, step, step): paths of a deep schema share their beginning


class _Node(NamedTuple):
    """A part of the schema. level: how many arrays and objects of an answer it is below the root."""

    schema: object
    place: _Place
    level: int


def strict_problems(schema: object) -> list[str]:
    """What OpenAI would refuse: a sentence for each mistake, at most 100; none for a schema of the strict subset.

    schema: as JSON or YAML gives it. Never raises. OpenAI's error has `Invalid schema for response_format 'NAME': `
    before such a sentence, and only the first one.
    """
    return list(islice(_problems(schema), MAX_PROBLEMS))


def strict_warnings(schema: object) -> list[str]:
    """What OpenAI may refuse, since reports differ: a sentence each. The words are ours. Never raises."""
    warnings = []
    if levels(schema) == MAX_LEVELS:
        warnings.append(f"The schema has {MAX_LEVELS} levels of nesting, the most that OpenAI accepts.")
    for node in _nodes(schema):
        branches = [_definition(branch, schema) for branch in _list(_dict(node.schema).get("anyOf"))]
        firsts = [_shown(next(iter(branch["properties"]))) for branch in branches if _dict(branch.get("properties"))]
        if len(set(firsts)) < len(firsts):
            text = "objects of anyOf have the same first key: OpenAI has refused this for some models."
            warnings.append(_in_context(node.place, text))
    return warnings[:MAX_PROBLEMS]


def levels(schema: object) -> int:
    """The levels of nesting below the root: properties and items count, anyOf and references do not."""
    return max(node.level for node in _nodes(schema))


def _problems(schema: object) -> Iterator[str]:
    yield from _root_problems(schema)
    parts = properties = enum_values = characters = deepest = 0
    for node in _nodes(schema):
        parts += _size(node)
        deepest = max(deepest, node.level)
        for text in _node_problems(node, schema):
            yield _in_context(node.place, text)
        if isinstance(node.schema, dict):
            names = _dict(node.schema.get("properties"))
            properties += len(names)
            enum_values += len(_list(node.schema.get("enum")))
            characters += _length(names) + _length([node.schema.get("const")]) + _length(_list(node.schema.get("enum")))
    if parts >= _MAX_PARTS:
        yield f"The schema has more than {_MAX_PARTS} parts."  # ours
    characters += sum(_length(_dict(_dict(schema).get(name))) for name in _DEFINITIONS)
    if deepest > MAX_LEVELS:
        yield f"{deepest} levels of nesting exceeds limit of {MAX_LEVELS}."
    if properties > MAX_PROPERTIES:
        yield f"{properties} parameters exceeds limit of {MAX_PROPERTIES}."
    if enum_values > MAX_ENUM_VALUES:
        where = "in total within a single schema when using structured outputs"
        yield f"Expected at most {MAX_ENUM_VALUES} enum values {where}, but received {enum_values}. {_ADVICE}"
    if characters > MAX_CHARACTERS:  # ours
        where = "across property names, definition names, enum values and const values"
        yield f"Expected at most {MAX_CHARACTERS} total characters {where}, but received {characters}."


def _nodes(schema: object) -> Iterator[_Node]:
    """The schema and its parts, each before its own parts, in the order of the text."""
    stack = [_Node(schema, None, 0)]
    allowed = _MAX_PARTS
    while stack and allowed > 0:
        node = stack.pop()
        yield node
        allowed -= _size(node)
        if allowed > 0:
            stack.extend(reversed(list(_parts(node))))


def _size(node: _Node) -> int:
    """The node, and the parts and values that it holds itself."""
    schema = _dict(node.schema)
    return 1 + len(schema) + sum(len(value) for value in schema.values() if isinstance(value, dict | list))


def _parts(node: _Node) -> Iterator[_Node]:
    schema = _dict(node.schema)
    for name, part in _dict(schema.get("properties")).items():
        yield _Node(part, (node.place, "properties", name), node.level + 1)
    if "items" in schema:
        yield _Node(schema["items"], (node.place, "items"), node.level + 1)
    for index, part in enumerate(_list(schema.get("anyOf"))):
        yield _Node(part, (node.place, "anyOf", str(index)), node.level)
    for keyword in _DEFINITIONS if node.place is None else ():
        for name, part in _dict(schema.get(keyword)).items():
            yield _Node(part, (None, keyword, name), 0)


def _root_problems(schema: object) -> Iterator[str]:
    if not isinstance(schema, dict):
        yield f"{_shown(schema)} is not of type 'object', 'boolean'."
        return
    kind = schema.get("type")
    if kind != "object":
        shown = kind if isinstance(kind, str) and len(kind) < 80 else _shown(kind)
        yield f"""schema must be a JSON Schema of 'type: "object"', got 'type: "{shown}"'."""
    if any(keyword in schema for keyword in _NOT_AT_THE_ROOT):
        yield "schema must have type 'object' and not have 'oneOf'/'anyOf'/'allOf'/'enum'/'not' at the top level."


def _node_problems(node: _Node, root: object) -> Iterator[str]:
    """The mistakes of a node itself, without its parts."""
    schema, is_root = node.schema, node.place is None
    if not isinstance(schema, dict):
        if not is_root:
            is_schema = isinstance(schema, bool)
            yield (
                "schema must have a 'type' key."
                if is_schema
                else f"{_shown(schema)} is not of type 'object', 'boolean'."
            )
        return
    if "$ref" in schema and not is_root:
        others = [key for key in schema if key != "$ref"]
        if others:
            yield f"$ref cannot have keywords {{{', '.join(map(_shown, others[:10]))}}}."
        if text := _reference_problem(schema["$ref"], root):
            yield text
        return
    for keyword in schema:
        if keyword not in (_AT_THE_ROOT if is_root else _KEYWORDS):
            yield f"{_shown(keyword)} is not permitted."
    yield from _malformed_values(schema, is_root)
    kinds = _kinds(schema)
    if "type" not in schema and "anyOf" not in schema and not is_root:
        yield "schema must have a 'type' key."  # also for a part with an enum or a const only
    if "object" in kinds:
        yield from _object_problems(schema)
    if "array" in kinds and "items" not in schema:
        yield "array schema missing items."
    yield from _enum_problems(schema, kinds)
    if isinstance(schema.get("format"), str) and schema["format"] not in FORMATS:
        yield f"{_shown(schema['format'])} is not a valid format."


def _object_problems(schema: dict[Any, Any]) -> Iterator[str]:
    if schema.get("additionalProperties") is not False:
        yield "'additionalProperties' is required to be supplied and to be false."
    if "properties" not in schema:
        yield "object schema missing properties."
        return
    properties, required = _dict(schema["properties"]), schema.get("required")
    missing = "'required' is required to be supplied and to be an array including every key in properties."
    supplied = set(map(_shown_name, _list(required)))
    if not isinstance(required, list) and not properties:
        yield missing
    for name in properties:
        if not isinstance(name, str):
            yield f"the property name {_shown(name)} is not of type 'string'."  # ours; YAML has such names
        elif name not in supplied:
            yield f"{missing} Missing {_shown(name)}."
    for name in _list(required):
        if not isinstance(name, str) or name not in properties:
            yield f"{missing} Extra required key {_shown(name)} supplied."


def _enum_problems(schema: dict[Any, Any], kinds: list[str]) -> Iterator[str]:
    values = _list(schema.get("enum"))
    if schema.get("enum") == []:
        yield "[] should be non-empty."
    if len({_kind(value) for value in values} - {"null"}) > 1:
        yield "enum values must be of the same type."
    constants = [("const", schema["const"])] if "const" in schema else []
    for name, value in (*(("enum", value) for value in values), *constants):
        if kinds and not any(_has_kind(value, kind) for kind in kinds):
            kind = _shown(kinds[0]) if len(kinds) == 1 else f"[{', '.join(map(_shown, kinds))}]"
            yield f"{name} value {_shown(value)} does not validate against {{'type': {kind}}}."
    characters = _length(values)
    if len(values) > LONG_ENUM_VALUES and characters > MAX_LONG_ENUM_CHARACTERS:
        where = f"across enum values when there are more than {LONG_ENUM_VALUES} enum values"
        limit = f"Expected at most {MAX_LONG_ENUM_CHARACTERS} total characters {where}"
        yield f"{limit}, but received {characters}. {_ADVICE}"


def _malformed_values(schema: dict[Any, Any], is_root: bool) -> Iterator[str]:
    """Values of keywords that no JSON schema may have. The words are those of Python's jsonschema, as at OpenAI."""
    if "type" in schema:
        kind = schema["type"]
        entries = kind if isinstance(kind, list) else [kind]
        if not entries or any(not isinstance(entry, str) or entry not in _KINDS for entry in entries):
            yield f"{_shown(kind)} is not valid under any of the given schemas."
        elif len(set(entries)) < len(entries):
            yield f"{_shown(kind)} has non-unique elements."
    expected: list[tuple[str, type, str]] = [("properties", dict, "object"), ("anyOf", list, "array")]
    expected += [("enum", list, "array"), ("required", list, "array")]
    expected += [(name, str, "string") for name in _TEXTS]
    expected += [(name, dict, "object") for name in _DEFINITIONS if is_root]
    for name, of_python, of_json in expected:
        if name in schema and not isinstance(schema[name], of_python):
            yield f"{_shown(schema[name])} is not of type '{of_json}'."
    if schema.get("anyOf") == []:
        yield "[] should be non-empty."
    for name in (*_NUMBERS, *_COUNTS):
        if name not in schema:
            continue
        value, wanted = schema[name], "integer" if name in _COUNTS else "number"
        if not _has_kind(value, wanted):
            yield f"{_shown(value)} is not of type '{wanted}'."
        elif name in _COUNTS and value < 0:
            yield f"{_shown(value)} is less than the minimum of 0."
        elif name == "multipleOf" and value <= 0:
            yield f"{_shown(value)} is less than or equal to the minimum of 0."


def _reference_problem(reference: object, root: object) -> str | None:
    """Why a reference leads to no schema. It may lead to the root or a definition, also from within (recursion)."""
    seen = set()
    while reference not in ("#", "#/"):
        if not isinstance(reference, str):
            return f"{_shown(reference)} is not of type 'string'."
        if reference in seen:
            return f"reference to component {_shown(reference)} leads to itself only."  # ours
        seen.add(reference)
        steps = [step.replace("~1", "/").replace("~0", "~") for step in unquote(reference).split("/")]
        if steps[0] == "#" and (len(steps) != 3 or steps[1] not in _DEFINITIONS):
            return "reference can only point to definitions defined at the top level of the schema."
        definitions = _dict(_dict(root).get(steps[1])) if steps[0] == "#" else {}
        if steps[0] != "#" or steps[2] not in definitions:
            return f"reference to component {_shown(reference)} which was not found in the schema."
        target = definitions[steps[2]]
        if "$ref" not in _dict(target):
            return None
        reference = target["$ref"]
    return None


def _definition(part: object, root: object) -> dict[Any, Any]:
    """The schema itself, or that to which its reference leads, if that is a definition."""
    steps = str(_dict(part).get("$ref", "")).split("/")
    return _dict(_dict(_dict(root).get(steps[1])).get(steps[2])) if len(steps) == 3 else _dict(part)


def _in_context(place: _Place, text: str) -> str:
    steps: list[Any] = []
    while place is not None:
        place, *last = place
        steps += reversed(last)
    steps.reverse()
    context = f"({', '.join(map(_shown, steps))}{',' if len(steps) == 1 else ''})"
    if len(context) > _MAX_CONTEXT:
        context = f"{context[:_MAX_CONTEXT]}…)"
    # So it is at OpenAI: this one sentence begins without "In".
    return f"{'' if text.startswith('$ref cannot') else 'In '}context={context}, {text}"


def _shown(value: object) -> str:
    """The value as Python writes it, but short, without the content of containers."""
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else f"{value[:80]}…")
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if abs(value) < 10**20 else "a number of more than 20 digits"
    if isinstance(value, list):
        few_texts = len(value) <= 8 and all(isinstance(entry, str | int | None) for entry in value)
        return f"[{', '.join(map(_shown, value))}]" if few_texts else "[…]"
    return "{…}" if isinstance(value, dict) and value else "{}"


def _shown_name(name: object) -> str:
    return name if isinstance(name, str) else _shown(name)


def _kinds(schema: dict[Any, Any]) -> list[str]:
    kind = schema.get("type")
    return [entry for entry in (kind if isinstance(kind, list) else [kind]) if isinstance(entry, str)]


def _kind(value: object) -> str:
    return next((kind for kind in _KINDS if _has_kind(value, kind)), "unknown")


def _has_kind(value: object, kind: str) -> bool:
    """Whether JSON Schema counts the value to this type. 2.0 is an integer."""
    if kind in ("number", "integer"):
        if isinstance(value, float):
            return math.isfinite(value) and (kind == "number" or value.is_integer())
        return isinstance(value, int) and not isinstance(value, bool)
    of_python: dict[str, Any] = {"string": str, "boolean": bool, "object": dict, "array": list, "null": type(None)}
    return kind in of_python and isinstance(value, of_python[kind])


def _length(values: Any) -> int:
    return sum(len(value) for value in values if isinstance(value, str))


def _dict(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
