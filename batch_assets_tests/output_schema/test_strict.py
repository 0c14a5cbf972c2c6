"""Each rule of OpenAI's strict subset, with the sentence of OpenAI's API where it is known."""

from __future__ import annotations

import sys
import time
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel

from batch_assets.output_schema.strict import MAX_PROBLEMS, levels, strict_problems, strict_warnings
from batch_assets_tests.strict_schemas import strict_schemas

AT_X = "In context=('properties', 'x'), "
REQUIRED = "'required' is required to be supplied and to be an array including every key in properties."
ADVICE = "Consider reducing the number of enums, or opt out of structured outputs by setting 'strict: false'."
ROOT = "schema must have type 'object' and not have 'oneOf'/'anyOf'/'allOf'/'enum'/'not' at the top level."
STRING = {"type": "string"}
NUMBERED: dict[Any, Any] = {1: STRING}


def obj(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in obj(x=STRING).items() if key != name}


def nested(depth: int, inner: dict[str, Any] = STRING) -> dict[str, Any]:
    """An object whose innermost part is so many levels below it."""
    for _ in range(depth):
        inner = obj(x=inner)
    return inner


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"type": "array", "items": STRING, "uniqueItems": True}, "'uniqueItems' is not permitted."),
        *(
            ({"type": "string", keyword: value}, f"'{keyword}' is not permitted.")
            for keyword, value in [
                ("minLength", 1),
                ("maxLength", 1),
                ("default", "a"),
                ("allOf", [STRING]),
                ("oneOf", [STRING]),
                ("not", STRING),
                ("if", STRING),
                ("then", STRING),
                ("else", STRING),
                ("dependentRequired", {}),
                ("dependentSchemas", {}),
                ("patternProperties", {}),
                ("prefixItems", [STRING]),
                ("examples", ["a"]),
                ("nullable", True),
                ("$defs", {}),
            ]
        ),
        (STRING | {"format": "uri"}, "'uri' is not a valid format."),
        ({"$ref": "#/$defs/a", "description": "d"}, "$ref cannot have keywords {'description'}."),
        ({"$ref": "#/$defs/b"}, "reference to component '#/$defs/b' which was not found in the schema."),
        ({"$ref": "other.json"}, "reference to component 'other.json' which was not found in the schema."),
        ({"$ref": "http://x/"}, "reference to component 'http://x/' which was not found in the schema."),
        ({"$ref": "#/$defs/loop"}, "reference to component '#/$defs/loop' leads to itself only."),
        (
            {"$ref": "#/properties/x"},
            "reference can only point to definitions defined at the top level of the schema.",
        ),
        ({"$ref": 1}, "1 is not of type 'string'."),
        ({}, "schema must have a 'type' key."),
        (True, "schema must have a 'type' key."),
        ({"description": "Anything."}, "schema must have a 'type' key."),
        ({"const": "a"}, "schema must have a 'type' key."),
        ({"enum": ["a"]}, "schema must have a 'type' key."),
        ("string", "'string' is not of type 'object', 'boolean'."),
        ({"type": "strin"}, "'strin' is not valid under any of the given schemas."),
        ({"type": []}, "[] is not valid under any of the given schemas."),
        ({"type": ["string", "string"]}, "['string', 'string'] has non-unique elements."),
        ({"type": "array"}, "array schema missing items."),
        ({"type": ["array", "null"]}, "array schema missing items."),
        ({"type": "object", "additionalProperties": False}, "object schema missing properties."),
        (
            {"type": "object", "properties": {}, "required": []},
            "'additionalProperties' is required to be supplied and to be false.",
        ),
        (
            obj(y=STRING) | {"additionalProperties": STRING},
            "'additionalProperties' is required to be supplied and to be false.",
        ),
        (obj(y=STRING) | {"required": []}, f"{REQUIRED} Missing 'y'."),
        (obj(y=STRING) | {"required": ["y", "z"]}, f"{REQUIRED} Extra required key 'z' supplied."),
        ({"type": "object", "properties": {}, "additionalProperties": False}, REQUIRED),
        ({"anyOf": []}, "[] should be non-empty."),
        ({"anyOf": STRING}, "{…} is not of type 'array'."),
        ({"type": "string", "enum": []}, "[] should be non-empty."),
        ({"type": "string", "enum": ["a", 1]}, "enum values must be of the same type."),
        ({"type": "string", "enum": [1]}, "enum value 1 does not validate against {'type': 'string'}."),
        (
            {"type": ["integer", "null"], "enum": [True, None]},
            "enum value True does not validate against {'type': ['integer', 'null']}.",
        ),
        ({"type": "integer", "const": "a"}, "const value 'a' does not validate against {'type': 'integer'}."),
        ({"type": "number", "minimum": "1"}, "'1' is not of type 'number'."),
        ({"type": "number", "maximum": float("nan")}, "nan is not of type 'number'."),
        ({"type": "number", "multipleOf": 0}, "0 is less than or equal to the minimum of 0."),
        ({"type": "array", "items": STRING, "minItems": -1}, "-1 is less than the minimum of 0."),
        ({"type": "array", "items": STRING, "maxItems": 1.5}, "1.5 is not of type 'integer'."),
        ({"type": "string", "pattern": 1}, "1 is not of type 'string'."),
        ({"type": "string", "description": None}, "None is not of type 'string'."),
    ],
)
def test_a_part_that_openai_refuses(part: Any, problem: str) -> None:
    schema = {**obj(x=part), "$defs": {"a": STRING}}
    if "loop" in str(part):
        schema["$defs"] |= {"loop": {"$ref": "#/$defs/loop"}}
    # So it is at OpenAI: this one sentence begins without "In".
    expected = AT_X.removeprefix("In " if problem.startswith("$ref") else "") + problem
    assert expected in strict_problems(schema)


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (
            {"type": "array", "items": STRING},
            """schema must be a JSON Schema of 'type: "object"', got 'type: "array"'.""",
        ),
        ({"anyOf": [obj()]}, """schema must be a JSON Schema of 'type: "object"', got 'type: "None"'."""),
        ({"$ref": "#/$defs/a", "$defs": {"a": obj()}}, "In context=(), '$ref' is not permitted."),
        *((obj() | {keyword: []}, ROOT) for keyword in ("anyOf", "oneOf", "enum", "not")),
        (obj() | {"allOf": []}, "In context=(), 'allOf' is not permitted."),
        (obj(x=STRING) | {"$schema": 1}, "In context=(), 1 is not of type 'string'."),
        (None, "None is not of type 'object', 'boolean'."),
        (True, "True is not of type 'object', 'boolean'."),
        ([STRING], "[…] is not of type 'object', 'boolean'."),
        (
            without("additionalProperties"),
            "In context=(), 'additionalProperties' is required to be supplied and to be false.",
        ),
        (without("required"), f"In context=(), {REQUIRED} Missing 'x'."),
        (obj(x=STRING) | {"required": "x"}, f"In context=(), {REQUIRED} Missing 'x'."),
        ({**obj(), "properties": NUMBERED}, "In context=(), the property name 1 is not of type 'string'."),
        (obj() | NUMBERED, "In context=(), 1 is not permitted."),
        ({**obj(), "$defs": {"a": {}}}, "In context=('$defs', 'a'), schema must have a 'type' key."),
        (
            obj(x={"anyOf": [STRING, {"type": "array", "items": {}}]}),
            "In context=('properties', 'x', 'anyOf', '1', 'items'), schema must have a 'type' key.",
        ),
        (nested(11), "11 levels of nesting exceeds limit of 10."),
        (obj(**{f"p{number}": STRING for number in range(5001)}), "5001 parameters exceeds limit of 5000."),
        (
            obj(x=STRING | {"enum": [f"{number}" for number in range(1001)]}),
            "Expected at most 1000 enum values in total within a single schema when using structured outputs, but "
            f"received 1001. {ADVICE}",
        ),
        (
            obj(x=STRING | {"enum": [f"{number:061}" for number in range(251)]}),
            f"{AT_X}Expected at most 15000 total characters across enum values when there are more than 250 enum "
            f"values, but received 15311. {ADVICE}",
        ),
        (
            {**obj(**{"x" * 50_000: STRING | {"const": "c" * 50_000}}), "$defs": {"d" * 20_001: STRING}},
            "Expected at most 120000 total characters across property names, definition names, enum values and const "
            "values, but received 120001.",
        ),
    ],
)
def test_a_schema_that_openai_refuses(schema: Any, problem: str) -> None:
    assert problem in strict_problems(schema)


def test_limits_are_inclusive() -> None:
    many = obj(**{f"p{number}": STRING for number in range(4999)}, x=STRING | {"enum": [f"{n}" for n in range(1000)]})
    assert strict_problems(many) == []
    assert strict_problems(obj(x=STRING | {"enum": ["a" * 60_000]}, y=STRING | {"const": "c" * 59_998})) == []


def test_each_mistake_has_its_sentence() -> None:
    schema = obj(a={"type": "string", "minLength": 1, "default": ""}, b={"type": "array", "items": {"type": "x"}})
    schema["required"] = []
    assert strict_problems(schema) == [
        f"In context=(), {REQUIRED} Missing 'a'.",
        f"In context=(), {REQUIRED} Missing 'b'.",
        "In context=('properties', 'a'), 'minLength' is not permitted.",
        "In context=('properties', 'a'), 'default' is not permitted.",
        "In context=('properties', 'b', 'items'), 'x' is not valid under any of the given schemas.",
    ]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(strict_schemas(), st.data())
def test_one_mistake_in_a_good_schema_is_found(schema: dict[str, Any], data: st.DataObject) -> None:
    assert strict_problems(schema) == []
    name, value = data.draw(
        st.sampled_from([("additionalProperties", True), ("uniqueItems", True), ("required", ["?"])])
    )
    assert strict_problems(schema | {name: value}) != []


class Part(BaseModel):
    kind: Literal["a", "b"]
    parts: list[Part]
    other: Part | None = None


def test_what_the_sdk_makes_of_pydantic_models_is_accepted() -> None:
    assert strict_problems(to_strict_json_schema(Part)) == []


def test_warnings_name_what_openai_may_refuse() -> None:
    shared = {"anyOf": [obj(kind=STRING, a=STRING), {"$ref": "#/$defs/b"}]}
    schema = {**obj(x=shared), "$defs": {"b": obj(kind=STRING)}}
    assert strict_problems(schema) == []
    assert strict_warnings(schema) == [
        f"{AT_X}objects of anyOf have the same first key: OpenAI has refused this for some models."
    ]
    assert strict_problems(nested(10)) == []
    assert strict_warnings(nested(9)) == []
    assert strict_warnings(nested(10)) == ["The schema has 10 levels of nesting, the most that OpenAI accepts."]
    assert levels(obj(x={"anyOf": [{"type": "array", "items": obj(y=STRING)}, STRING]})) == 3


def test_hostile_schemas_end_soon_and_raise_nothing() -> None:
    deep: Any = STRING
    for _ in range(50_000):
        deep = {"type": "array", "items": deep, "default": 1}
    itself = obj(x=STRING)
    itself["properties"]["x"] = itself
    shared: Any = STRING
    for _ in range(10):
        shared = obj(**{f"p{number}": shared for number in range(100)})
    huge = obj(x={"type": "string", "enum": [10**5000, "a" * 10**6], "default": None, "const": [[[]]]})
    values = [None, 1, "a", [], {}, [{}], {"a": {}}, float("nan"), sys.maxsize, b"", object()]
    odd = [
        obj(x={keyword: value})
        for value in values
        for keyword in (
            "type",
            "properties",
            "required",
            "items",
            "anyOf",
            "enum",
            "const",
            "$ref",
            "format",
            "minItems",
        )
    ]
    begin = time.monotonic()
    for schema in (obj(x=deep), itself, shared, huge, *odd, *values):
        problems = strict_problems(schema)
        assert 0 < len(problems) <= MAX_PROBLEMS or schema == obj(x={"type": "string"})
        assert all(len(problem) < 1000 for problem in problems)
        strict_warnings(schema)
    assert time.monotonic() - begin < 20
