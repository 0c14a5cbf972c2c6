"""Answers made from a schema and a text: they fit, they are the same each time, and a person can read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_assets.output_schema.example import Example, example_answer
from batch_assets.output_schema.judge import Judge
from batch_assets.output_schema.strict import levels, strict_problems
from batch_assets_tests.strict_schemas import strict_schemas

TEXT = (
    "Brask approves a flood wall. The council of Brask approved the flood wall on Monday. The flood wall costs "
    "9 million euros, and insurers welcome the decision. Flooding has cost insurers more than that since 2020."
)


def obj(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@settings(
    max_examples=2000 if os.environ.get("BATCH_ASSETS_TEST_THOROUGH") else 100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(strict_schemas(), st.text(max_size=200))
def test_each_strict_schema_has_an_answer_that_fits(schema: dict[str, Any], text: str) -> None:
    assert strict_problems(schema) == []
    assert levels(schema) <= 10
    answer = example_answer(schema, text)
    assert Judge(schema).why_invalid(json.dumps(answer)) is None
    assert example_answer(schema, text) == answer


def test_an_answer_is_the_same_in_each_process() -> None:
    """Also where a set of characters or a counter decides."""
    schema = obj(
        code={"type": "string", "pattern": "^[^a-z]+[!-z]{3}$"},
        topics={"type": "array", "items": {"type": "string"}},
        kind={"type": "string", "enum": ["news", "opinion"]},
    )
    program = (
        "import json; from batch_assets.output_schema.example import example_answer; "
        f"print(json.dumps(example_answer({schema!r}, {TEXT!r})))"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert [json.loads(answer) for answer in answers] == [example_answer(schema, TEXT)]


def test_fields_are_filled_by_their_names() -> None:
    schema = obj(
        title={"type": "string"},
        summary={"type": "string"},
        language={"type": "string", "enum": ["de", "en", "fr"]},
        topics={"type": "array", "items": {"type": "string"}, "minItems": 3},
        city={"type": "string"},
        places={"type": "array", "items": {"type": "string"}, "minItems": 3},
        importance={"type": "integer", "minimum": 0, "maximum": 10},
    )
    answer = example_answer(schema, TEXT)
    assert answer["title"] == "Brask approves a flood wall"
    assert answer["summary"].startswith("Brask approves a flood wall. The council")
    assert answer["language"] == "en"
    assert answer["topics"] == ["insurers", "approves", "council"]
    assert answer["city"] in ("Brask", "Monday")
    assert set(answer["places"][:2]) == {"Brask", "Monday"}
    assert len(set(answer["places"])) == 3
    assert 0 <= answer["importance"] <= 10
    assert Example(schema).answer(TEXT, summary=lambda: "The wall is approved.")["summary"] == "The wall is approved."
    assert example_answer(schema, "Another text.") != answer


@pytest.mark.parametrize(
    "schema",
    [
        {
            "type": "object",
            "properties": {"a": {"type": "string", "minLength": 40, "maxLength": 50}},
            "required": ["a"],
        },
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {"a": {"oneOf": [{"type": "integer"}, {"type": "string"}]}}},
        {"allOf": [obj(a={"type": "integer"}), {"description": "An a."}]},
        {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 3},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": False, "maxItems": 2},
        {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "minItems": 30},
        {"properties": {"a": True, "b": {}}, "required": ["a", "c"]},
        {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "integer", "minimum": 10**30}}},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-9},
        {"type": "integer", "multipleOf": 0.4, "minimum": 1},
        {"type": "number", "minimum": 5, "maximum": 5},
        {"type": "number", "maximum": -5},
        {"type": "integer", "multipleOf": 5000, "minimum": 1},
        {"type": "string", "format": "uri"},
        {},
    ],
)
def test_other_schemas_have_answers_too(schema: dict[str, Any]) -> None:
    for text in ("", TEXT, "\ud800", "日本語のテキスト。" * 30, "a" * 5000):
        assert Judge(schema).why_invalid(json.dumps(example_answer(schema, text))) is None


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (obj(a={"$ref": "#"}), "contains itself"),
        (obj(a={"anyOf": [{"$ref": "#/properties/a"}, {"$ref": "#"}]}), "contains itself"),
        ({"$ref": "#"}, "leads to itself only"),
        ({"allOf": [{"$ref": "#"}]}, "nested too deeply"),
        ({"$ref": "#/$defs/a"}, "leads to nothing"),
        ({"$ref": "other.json"}, "does not begin with"),
        ({"not": {}, "$ref": "#/not", "allOf": [False]}, "is false"),
        ({"type": "array", "minItems": 10**9}, "a list of 1000000000 items"),
        ({"type": "array", "minItems": 900, "items": {"type": "array", "minItems": 900}}, "more than 20000 values"),
        ({"type": "string", "minLength": 10**9}, "a text of 1000000000 characters"),
        ({"type": "string", "pattern": "(?P<x"}, "No text was found for the pattern"),
        ({"type": "string", "pattern": "(((a{900}){900}){900}){900}"}, "too long"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "exclude each other"),
        ({"type": "number", "minimum": 10**400}, "larger than a number"),
        (
            {
                "type": "object",
                "anyOf": [{"properties": {"a": {"$ref": "#"}}, "required": ["a"]}] * 2,
                "required": ["a"],
            },
            "contains itself",
        ),
    ],
)
def test_without_an_answer_there_is_a_sentence(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        example_answer(schema, TEXT)


def test_recursion_ends_soon() -> None:
    tree = obj(name={"type": "string"}, children={"type": "array", "items": {"$ref": "#"}})
    linked = obj(next={"anyOf": [{"$ref": "#"}, {"type": "null"}]}, other={"anyOf": [{"type": "null"}, {"$ref": "#"}]})
    for schema in (tree, linked):
        assert len(json.dumps(example_answer(schema, TEXT))) < 20_000
