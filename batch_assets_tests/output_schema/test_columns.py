"""Guards against columns that cannot hold a valid answer, and against names that DuckDB refuses."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pytest

from batch_assets.output_schema.columns import answer_columns, column_problems, has_json, quoted, structure

NODE = {
    "type": "object",
    "properties": {"value": {"type": "string"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["value", "next"],
    "additionalProperties": False,
}
DEFS = {
    "node": NODE,
    "author": {
        "type": "object",
        "description": "Who wrote it.",
        "properties": {"name": {"type": "string"}, "born": {"$ref": "#/$defs/a~1b~0%25c"}},
    },
    "a/b~%c": {"type": "string", "format": "date"},
    "link": {"$ref": "#/$defs/author"},
    "loop": {"$ref": "#/$defs/loop"},
    "nothing": {"type": "null"},
    "even": {"type": "object", "properties": {"odds": {"type": "array", "items": {"$ref": "#/$defs/odd"}}}},
    "odd": {"type": "object", "properties": {"even": {"$ref": "#/$defs/even"}}},
    "has a node": {"type": "object", "properties": {"id": {"type": "integer"}, "node": {"$ref": "#/$defs/node"}}},
}
TEXT, INTEGER, NUMBER, NULL = ({"type": name} for name in ("string", "integer", "number", "null"))
OBJECT = {"type": "object", "properties": {"a": TEXT, "b c": {"type": "array", "items": INTEGER}}}
AUTHOR = 'STRUCT("name" VARCHAR, "born" DATE)'
OBJECT_TYPE = 'STRUCT("a" VARCHAR, "b c" BIGINT[])'
TYPES: list[tuple[dict[str, Any], str, Any]] = [  # the schema of a field, its type, a valid value
    (TEXT, "VARCHAR", "x"),
    ({"type": "string", "enum": ["a", "b"]}, "VARCHAR", "b"),
    ({"enum": ["a", "b"]}, "VARCHAR", "a"),
    ({"enum": ["a", None]}, "VARCHAR", None),
    ({"const": "a"}, "VARCHAR", "a"),
    ({"enum": [1, 2]}, "BIGINT", 2),
    ({"enum": [1, 2.5]}, "DOUBLE", 2.5),
    ({"enum": [True, False]}, "BOOLEAN", False),
    ({"const": 7}, "BIGINT", 7),
    (INTEGER, "BIGINT", -(2**63)),
    (NUMBER, "DOUBLE", 0.1),
    ({"type": "boolean"}, "BOOLEAN", True),
    ({"type": "string", "format": "date"}, "DATE", "2026-02-28"),
    ({"type": "string", "format": "date-time"}, "TIMESTAMPTZ", "2026-01-02T10:00:00+02:00"),
    ({"type": "string", "format": "uuid"}, "UUID", "12345678-1234-5678-1234-567812345678"),
    ({"type": "string", "format": "time"}, "VARCHAR", "10:00:00Z"),
    ({"type": "string", "format": "duration"}, "VARCHAR", "P1DT2H"),
    *(({"type": "string", "format": name}, "VARCHAR", "x") for name in ("email", "hostname", "ipv4", "ipv6")),
    ({"type": "array", "items": TEXT}, "VARCHAR[]", ["a", ""]),
    ({"type": "array", "items": {"type": "array", "items": OBJECT}}, f"{OBJECT_TYPE}[][]", [[{"a": "x", "b c": [1]}]]),
    (OBJECT, OBJECT_TYPE, {"a": "x", "b c": []}),
    ({"$ref": "#/$defs/author"}, AUTHOR, {"name": "x", "born": "2026-01-02"}),
    ({"$ref": "#/$defs/link"}, AUTHOR, {"name": "x", "born": "2026-01-02"}),
    ({"$ref": "#/$defs/a~1b~0%25c"}, "DATE", "2026-01-02"),
    ({"$ref": "#/properties/before"}, "VARCHAR", "x"),
    ({"$ref": "#/properties/either/anyOf/1"}, "DOUBLE", 1.5),
    ({"type": ["string", "null"]}, "VARCHAR", None),
    ({"type": ["string", "null"], "format": "date"}, "DATE", None),
    ({"type": ["object", "null"], "properties": {"a": TEXT}}, 'STRUCT("a" VARCHAR)', None),
    ({"type": ["array", "null"], "items": TEXT}, "VARCHAR[]", None),
    ({"anyOf": [TEXT, NULL]}, "VARCHAR", None),
    ({"anyOf": [{"$ref": "#/$defs/nothing"}, OBJECT]}, OBJECT_TYPE, None),
    ({"anyOf": [{"anyOf": [TEXT, NULL]}, {"const": None}, {"enum": [None]}]}, "VARCHAR", "x"),
    ({"anyOf": [INTEGER, NUMBER]}, "DOUBLE", 1.5),
    ({"type": ["integer", "number"]}, "DOUBLE", 1.5),
    ({"anyOf": [TEXT, {"type": "string", "format": "date"}]}, "VARCHAR", "x"),
    ({"anyOf": [OBJECT, OBJECT]}, OBJECT_TYPE, {"a": "x", "b c": [1]}),
    ({"anyOf": [TEXT, INTEGER]}, "JSON", 5),
    ({"anyOf": [OBJECT, {"$ref": "#/$defs/author"}]}, "JSON", {"name": "x", "born": "2026-01-02"}),
    ({"anyOf": [{"type": "array", "items": TEXT}, TEXT]}, "JSON", ["x"]),
    ({"type": ["string", "integer", "null"]}, "JSON", "x"),
    ({"enum": ["a", 1]}, "JSON", 1),
    ({"enum": [{"a": 1}]}, "JSON", {"a": 1}),
    (NULL, "JSON", None),
    ({"type": "object"}, "JSON", {"x": [1, None]}),
    ({"type": "object", "properties": {}}, "JSON", {}),
    ({"type": "array"}, "JSON", [1, "x"]),
    ({"type": "array", "items": {}}, "JSON[]", [1, "x"]),
    ({}, "JSON", 5),
    ({"$ref": "#/$defs/node"}, "JSON", {"value": "x", "next": {"value": "y", "next": None}}),
    ({"$ref": "#/$defs/even"}, "JSON", {"odds": []}),
    ({"$ref": "#/$defs/loop"}, "JSON", None),
    ({"$ref": "#"}, "JSON", None),
    ({"anyOf": [{"$ref": "#/$defs/node"}, NULL]}, "JSON", None),
    ({"type": "array", "items": {"$ref": "#"}}, "JSON[]", [{"field": []}]),
    (
        {"$ref": "#/$defs/has a node"},
        'STRUCT("id" BIGINT, "node" JSON)',
        {"id": 1, "node": {"value": "", "next": None}},
    ),
]
HOSTILE_NAMES = [
    "order", "select", "a.b", 'a"b', "a'b", "it's; DROP TABLE x; --", "größe", "名前", "😀", " ", "a\nb", "{}", "$ref",
    "a\\b", "%s", "x" * 300, "0", "\u202e", "answer", "typed", "null", "ä", "Ä",
]  # fmt: skip


def schema_of(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False, "$defs": DEFS}


@pytest.mark.parametrize(("field", "expected", "value"), TYPES, ids=lambda value: json.dumps(value)[:60])
def test_a_field_has_the_type_that_holds_all_its_values(field: dict[str, Any], expected: str, value: Any) -> None:
    schema = schema_of(before=TEXT, either={"anyOf": [TEXT, NUMBER]}, field=field)
    column = answer_columns(schema)[2]
    assert (column.name, column.type) == ("field", expected)
    assert has_json(column.structure) == ("JSON" in expected)
    assert column_problems(schema, ()) == []
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE answer (field {column.type}); SET TimeZone = 'UTC'")
        text = json.dumps({"before": "", "either": 1, "field": value})
        connection.execute(
            "INSERT INTO answer (field) SELECT (TRY(from_json_strict($1, $2::VARCHAR))).field",
            [text, structure(schema)],
        )
        ((stored,),) = connection.execute("SELECT to_json(field)::VARCHAR FROM answer").fetchall()
    if expected == "TIMESTAMPTZ":
        value = "2026-01-02 08:00:00+00"
    assert value is stored is None or json.loads(stored) == value


def test_columns_have_the_order_and_the_descriptions_of_the_schema() -> None:
    schema = schema_of(
        b={"type": "string", "description": "The text."},
        a={"$ref": "#/$defs/author"},
        c={"anyOf": [TEXT, NULL], "description": "More."},
        d={"type": "string", "description": 5},
    )
    assert [(column.name, column.description) for column in answer_columns(schema)] == [
        ("b", "The text."),
        ("a", "Who wrote it."),
        ("c", "More."),
        ("d", None),
    ]


def test_the_root_may_be_a_reference() -> None:
    schema = {"$ref": "#/$defs/node", "$defs": DEFS}
    assert [(column.name, column.type) for column in answer_columns(schema)] == [("value", "VARCHAR"), ("next", "JSON")]
    assert column_problems(schema, ()) == []


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_field_may_have_any_of_these_names(name: str) -> None:
    schema = schema_of(**{name: {"type": "object", "properties": {name: {"type": "array", "items": OBJECT}}}})
    assert column_problems(schema, ["status"]) == []
    [column] = answer_columns(schema)
    answer = {name: {name: [{"a": "x", "b c": [1]}]}}
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE answer ({quoted(name)} {column.type})")
        connection.execute(
            "INSERT INTO answer SELECT unnest(TRY(from_json_strict($1, $2::VARCHAR)))",
            [json.dumps(answer), structure(schema)],
        )
        relation = connection.execute("FROM answer")
        assert (relation.fetchall(), relation.description[0][0]) == ([(answer[name],)], name)


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"": TEXT}, "A field at $ has an empty name"),
    ({"a": {"type": "array", "items": {"type": "object", "properties": {"": TEXT}}}}, "A field at $/a has an empty"),
    ({"name": TEXT, "Name": TEXT}, 'The names "name" and "Name" at $ differ in case only'),
    ({"x": {"type": "object", "properties": {"ID": TEXT, "id": TEXT}}}, 'The names "ID" and "id" at $/x differ'),
    ({"status": TEXT}, 'The field "status" has the name of another column'),
    ({"Status": TEXT}, 'The field "Status" has the name of another column'),
    ({"a\0b": TEXT}, 'The name "a\\u0000b" at $ has a character'),
    ({"\ud800": TEXT}, 'The name "\\ud800" at $ has a character'),
    ({"a": {"$ref": "#/$defs/missing"}}, 'The reference "#/$defs/missing" names nothing'),
    ({"a": {"$ref": "https://example.org/schema"}}, "names nothing"),
    ({"a": {"$ref": "#anchor"}}, "names nothing"),
    ({}, "no columns"),
]


@pytest.mark.parametrize(("fields", "sentence"), PROBLEMS, ids=[sentence for _, sentence in PROBLEMS])
def test_each_mistake_has_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    [found] = column_problems(schema_of(**fields), ["status", "model"])
    assert sentence in found
    assert found.endswith(".")
    found.encode()


@pytest.mark.parametrize(
    "schema", [{}, {"type": "array", "items": TEXT}, {"type": "string"}, {"$ref": "#"}, {"anyOf": [OBJECT, NULL]}]
)
def test_an_answer_that_is_no_object_has_no_columns(schema: dict[str, Any]) -> None:
    [found] = column_problems(schema, ())
    assert "has no columns" in found


def test_all_mistakes_are_named_at_once() -> None:
    schema = schema_of(**dict.fromkeys(("", "status", "a", "A"), TEXT), b={"$ref": "#/x"})
    assert len(column_problems(schema, ["status"])) == 4


def test_names_that_no_column_has_may_be_alike() -> None:
    """In a JSON column, names are text."""
    schema = schema_of(a={"anyOf": [{"type": "object", "properties": {"x": TEXT, "X": TEXT, "": TEXT}}, TEXT]})
    assert column_problems(schema, ()) == []
    assert answer_columns(schema)[0].type == "JSON"
