"""Guards against answers that change or get lost on their way into columns, also when the output schema changes."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from batch_assets.batching.collection import result_table
from batch_assets.batching.collection.result_table import (
    prepare_result_table,
    text_answers,
    typed_answers,
)
from batch_assets.batching.ledger.result_tables import ARTICLE_COLUMNS, FIXED_COLUMNS, reserved_columns
from batch_assets.batching.ledger.schema import TABLES, create_table
from batch_assets.output_schema.columns import AnswerColumn, answer_columns, column_problems, folded, quoted, structure
from batch_assets.output_schema.example import example_answer
from batch_assets.output_schema.judge import Judge
from batch_assets.output_schema.strict import strict_problems
from batch_assets_tests.strict_schemas import strict_schemas

SUMMARY = (AnswerColumn("summary", "VARCHAR"),)
TEXT, INTEGER, NUMBER, DATE = (
    {"type": "string"},
    {"type": "integer"},
    {"type": "number"},
    {"type": "string", "format": "date"},
)

RESERVED_COLUMNS = (*FIXED_COLUMNS, *ARTICLE_COLUMNS)


def object_of(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False}


def list_of(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": item}


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with connected() as connection:
        yield connection


@contextmanager
def connected() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(
            "SET TimeZone = 'UTC'; SET threads = 1; CREATE TABLE completion (custom_id VARCHAR, text VARCHAR)"
        )
        yield connection


def write(connection: duckdb.DuckDBPyConnection, schema: Mapping[str, Any] | None, *answers: Any) -> None:
    """Prepare the table `task`, and write a row for each answer."""
    columns = SUMMARY if schema is None else answer_columns(schema)
    connection.execute("BEGIN")
    present = prepare_result_table(connection, "task", columns, has_schema=False)
    connection.execute("DELETE FROM completion")
    [(written,)] = connection.execute("SELECT count(*) FROM task").fetchall()
    for number, answer in enumerate(answers, start=written):
        text = answer if schema is None else json.dumps(answer)
        connection.execute("INSERT INTO completion VALUES ($1, $2)", [str(number), text])
    parts = text_answers(present) if schema is None else typed_answers(columns, present)
    connection.execute(
        f"""
        INSERT INTO task (partition_date, article_id, status, custom_id, {parts.columns})
        WITH typed AS MATERIALIZED (SELECT custom_id, {parts.value} AS answer FROM completion)
        SELECT DATE '2026-01-01', custom_id, 'answered', custom_id, {parts.values} FROM typed
        """,
        {} if schema is None else {"structure": structure(schema)},
    )
    connection.execute("COMMIT")


def types(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """The answer columns and their types."""
    rows = connection.execute("SELECT column_name, column_type FROM (DESCRIBE task)").fetchall()
    return {name: column_type for name, column_type in rows if name not in RESERVED_COLUMNS}


def rows(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """The answer columns of each row as JSON, in the order in which the rows were written."""
    names = ", ".join(f"to_json({quoted(name)})" for name in types(connection))
    found = connection.execute(f"SELECT {names} FROM task ORDER BY article_id").fetchall()
    return [
        {name: None if value is None else json.loads(value) for name, value in zip(types(connection), row, strict=True)}
        for row in found
    ]


def comments(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Those of the columns of the answers."""
    statement = "SELECT column_name, comment FROM duckdb_columns() WHERE comment IS NOT NULL AND table_name = 'task'"
    fixed = {*reserved_columns(has_schema=False), *reserved_columns(has_schema=True)}
    return {name: text for name, text in connection.execute(statement).fetchall() if name not in fixed}


def test_the_table_has_the_columns_of_summaries_and_those_of_the_answer(connection: duckdb.DuckDBPyConnection) -> None:
    create_table(connection, "summaries")
    prepare_result_table(connection, "task", SUMMARY, has_schema=False)

    def described(table: str) -> list[Any]:
        return connection.execute(f"DESCRIBE {table}").fetchall()

    connection.execute("ALTER TABLE summaries DROP COLUMN task_version")
    prepare_result_table(connection, "summaries", SUMMARY, has_schema=False)  # of an earlier version
    assert described("task") == described("summaries")
    before = described("task")
    prepare_result_table(connection, "task", SUMMARY, has_schema=False)
    assert described("task") == before


def test_a_text_task_has_its_text_in_one_column(connection: duckdb.DuckDBPyConnection) -> None:
    write(connection, None, "It's {not} JSON.", "")
    assert [row["summary"] for row in rows(connection)] == ["It's {not} JSON.", ""]


@pytest.mark.parametrize("table", [*(name for name in TABLES if name != "summaries")])
def test_a_task_cannot_have_the_name_of_a_table_of_the_ledger(
    connection: duckdb.DuckDBPyConnection, table: str
) -> None:
    with pytest.raises(ValueError, match=f"cannot have the name {table}: the database has another table"):
        prepare_result_table(connection, table, SUMMARY, has_schema=False)


@pytest.mark.parametrize("table", ["", "1a", "A", "a-b", "a b", 'a"', "a.b", "ä", "_a", "a" * 64, "a\n", "x;--"])
def test_a_task_cannot_have_a_name_that_is_no_plain_identifier(
    connection: duckdb.DuckDBPyConnection, table: str
) -> None:
    with pytest.raises(ValueError, match="letter first"):
        prepare_result_table(connection, table, SUMMARY, has_schema=False)


@pytest.mark.parametrize("table", ["order", "select", "a", "a1_", "x" * 63, "typed", "answer"])
def test_a_task_may_have_any_other_name(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    prepare_result_table(connection, table, SUMMARY, has_schema=False)
    prepare_result_table(
        connection, table, (*SUMMARY, AnswerColumn("order", ["JSON"], "It's ordered.")), has_schema=False
    )
    assert connection.execute(f'SELECT count("order") FROM "{table}"').fetchall() == [(0,)]


@pytest.mark.parametrize("other", ["CREATE TABLE task (summary VARCHAR)", "CREATE VIEW task AS SELECT 1 AS summary"])
def test_another_table_of_this_name_is_left_alone(connection: duckdb.DuckDBPyConnection, other: str) -> None:
    connection.execute(other)
    with pytest.raises(ValueError, match="task that is no table of results: it has no column answered_at"):
        prepare_result_table(connection, "task", SUMMARY, has_schema=False)
    assert types(connection).keys() == {"summary"}


A, B = {"a": 5}, {"a": 6}
CHANGES: dict[str, tuple[Any, Any, Any, Any, str, Any, Any]] = {
    # a field before and after, an answer before and after; then the type and both values in the table
    "the same": (TEXT, TEXT, "x", "y", "VARCHAR", "x", "y"),
    "an integer becomes a number": (INTEGER, NUMBER, 5, 0.5, "DOUBLE", 5.0, 0.5),
    "a number becomes an integer": (NUMBER, INTEGER, 0.5, 5, "DOUBLE", 0.5, 5.0),
    "a text becomes a date": (TEXT, DATE, "x", "2026-01-01", "VARCHAR", "x", "2026-01-01"),
    "a date becomes a text": (DATE, TEXT, "2026-01-01", "x", "VARCHAR", "2026-01-01", "x"),
    "a text becomes an integer": (TEXT, INTEGER, "5", 5, "JSON", "5", 5),
    "a date becomes a number": (DATE, NUMBER, "2026-01-01", 0.5, "JSON", "2026-01-01", 0.5),
    "a boolean becomes an integer": ({"type": "boolean"}, INTEGER, True, 1, "JSON", True, 1),
    "an integer becomes an object": (INTEGER, object_of(a=INTEGER), 5, B, "JSON", 5, B),
    "an object becomes a list": (object_of(a=INTEGER), list_of(INTEGER), A, [1], "JSON", A, [1]),
    "a list becomes its item": (list_of(TEXT), TEXT, ["x"], "y", "JSON", ["x"], "y"),
    "any kind becomes a text": ({"anyOf": [TEXT, INTEGER]}, TEXT, 5, "x", "JSON", 5, "x"),
    "items become wider": (list_of(INTEGER), list_of(NUMBER), [1, 2], [0.5], "DOUBLE[]", [1.0, 2.0], [0.5]),
    "items become different": (list_of(INTEGER), list_of(TEXT), [1], ["x"], "JSON[]", [1], ["x"]),
    "a field is added": (
        object_of(a=INTEGER), object_of(b=TEXT, a=INTEGER), A, {"b": "x", "a": 6},
        "STRUCT(a BIGINT, b VARCHAR)", {"a": 5, "b": None}, {"a": 6, "b": "x"},
    ),
    "a field is dropped": (
        object_of(a=INTEGER, b=TEXT), object_of(a=INTEGER), {"a": 5, "b": "x"}, B,
        "STRUCT(a BIGINT, b VARCHAR)", {"a": 5, "b": "x"}, {"a": 6, "b": None},
    ),
    "fields change their places": (
        list_of(object_of(a=INTEGER, b=INTEGER)), list_of(object_of(b=INTEGER, a=INTEGER)),
        [{"a": 1, "b": 2}], [{"b": 4, "a": 3}],
        "STRUCT(a BIGINT, b BIGINT)[]", [{"a": 1, "b": 2}], [{"a": 3, "b": 4}],
    ),
    "a field deep inside is added": (
        list_of(object_of(x=list_of(object_of(a=INTEGER)))), list_of(object_of(x=list_of(object_of(a=NUMBER, b=TEXT)))),
        [{"x": [A]}, {"x": []}], [{"x": [{"a": 0.5, "b": "y"}]}],
        "STRUCT(x STRUCT(a DOUBLE, b VARCHAR)[])[]",
        [{"x": [{"a": 5.0, "b": None}]}, {"x": []}], [{"x": [{"a": 0.5, "b": "y"}]}],
    ),
    "a field inside becomes different": (
        object_of(a=INTEGER, b=TEXT), object_of(a=TEXT, b=TEXT), {"a": 5, "b": "x"}, {"a": "y", "b": "z"},
        "STRUCT(a JSON, b VARCHAR)", {"a": 5, "b": "x"}, {"a": "y", "b": "z"},
    ),
    "a field inside has another case": (
        object_of(a=INTEGER), object_of(A=INTEGER), A, {"A": 6}, "STRUCT(a BIGINT)", A, B,
    ),
    "a nullable object gets a field": (
        {"anyOf": [object_of(a=INTEGER), {"type": "null"}]}, object_of(a=INTEGER, b=TEXT), None, {"a": 6, "b": "x"},
        "STRUCT(a BIGINT, b VARCHAR)", None, {"a": 6, "b": "x"},
    ),
    "odd names inside": (
        object_of(**{"a'\"b": INTEGER}), object_of(**{"a'\"b": NUMBER, "ä.;": TEXT}),
        {"a'\"b": 5}, {"a'\"b": 0.5, "ä.;": "x"},
        'STRUCT("a\'""b" DOUBLE, "ä.;" VARCHAR)', {"a'\"b": 5.0, "ä.;": None}, {"a'\"b": 0.5, "ä.;": "x"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_field_holds_earlier_and_later_answers(connection: duckdb.DuckDBPyConnection, change: str) -> None:
    before, after, first, second, expected, stored_first, stored_second = CHANGES[change]
    write(connection, object_of(field=before), {"field": first})
    for _ in range(2):  # a later run changes nothing more
        write(connection, object_of(field=after), {"field": second})
        assert types(connection) == {"field": expected}
    write(connection, object_of(field=before), {"field": first})  # back again: what is wider, stays so
    assert types(connection) == {"field": expected}
    stored = [row["field"] for row in rows(connection)]
    assert stored[1:3] == [stored_second] * 2
    assert (stored[0], stored[3]) == (stored_first, stored_first)


def test_columns_are_added_and_never_dropped(connection: duckdb.DuckDBPyConnection) -> None:
    write(connection, object_of(a=TEXT, b=INTEGER), {"a": "x", "b": 1})
    write(connection, object_of(c=list_of(TEXT), B=INTEGER), {"c": ["y"], "B": 2})
    write(connection, None, "Text.")
    assert rows(connection) == [
        {"a": "x", "b": 1, "c": None, "summary": None},
        {"a": None, "b": 2, "c": ["y"], "summary": None},
        {"a": None, "b": None, "c": None, "summary": "Text."},
    ]


def test_descriptions_are_comments(connection: duckdb.DuckDBPyConnection) -> None:
    hostile = 'It\'s "the" text;\n-- 🦆 \0\ud800'
    write(connection, object_of(a={**TEXT, "description": hostile}, b=TEXT, c={**TEXT, "description": "C"}))
    assert comments(connection) == {"a": 'It\'s "the" text;\n-- 🦆 ?', "c": "C"}
    write(connection, object_of(a={**INTEGER, "description": "Other."}, b={**TEXT, "description": "B"}))
    assert comments(connection) == {"a": "Other.", "b": "B", "c": "C"}
    write(connection, object_of(a=INTEGER, b={**TEXT, "description": "B"}))
    assert comments(connection) == {"b": "B", "c": "C"}


def test_a_changed_description_changes_no_data(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(connection, object_of(a={**TEXT, "description": "One."}), {"a": "x"})
    monkeypatch.setattr(result_table, "converted", None)  # it would make the expression of a change
    columns = answer_columns(object_of(a={**TEXT, "description": "Two."}))
    assert prepare_result_table(connection, "task", columns, has_schema=False) == columns
    assert comments(connection) == {"a": "Two."}


def test_a_failed_transaction_leaves_the_table_as_it_was(connection: duckdb.DuckDBPyConnection) -> None:
    write(connection, object_of(a=INTEGER), {"a": 5})
    connection.execute("BEGIN")
    prepare_result_table(
        connection, "task", answer_columns(object_of(a={**TEXT, "description": "A"}, b=TEXT)), has_schema=False
    )
    connection.execute(
        "INSERT INTO task (partition_date, article_id, status, a) VALUES (DATE '2026-01-01', 'x', 'y', '1')"
    )
    connection.execute("ROLLBACK")
    assert (types(connection), rows(connection), comments(connection)) == ({"a": "BIGINT"}, [{"a": 5}], {})


def change_and_crash(path: str) -> None:
    """Make all changes, each to a table of its own, and end without a checkpoint."""
    connection = duckdb.connect(path)
    connection.execute("CREATE TABLE completion (custom_id VARCHAR, text VARCHAR)")
    for number, (before, after, first, second, *_) in enumerate(CHANGES.values()):
        write(connection, object_of(field=before), {"field": first})
        write(connection, object_of(field={**after, "description": "It's new."}), {"field": second})
        connection.execute(f"ALTER TABLE task RENAME TO task{number}")
    os._exit(9)


def test_a_changed_table_survives_a_crash(tmp_path: Path) -> None:
    """DuckDB reads the changes from its WAL, without the functions of JSON."""
    path = str(tmp_path / "x.duckdb")
    process = multiprocessing.get_context("spawn").Process(target=change_and_crash, args=[path])
    process.start()
    process.join()
    assert (process.exitcode, Path(f"{path}.wal").exists()) == (9, True)
    with duckdb.connect(path) as connection:
        for number, (*_, expected, first, second) in enumerate(CHANGES.values()):
            connection.execute(f"ALTER TABLE task{number} RENAME TO task")
            assert (types(connection), comments(connection)) == ({"field": expected}, {"field": "It's new."})
            assert rows(connection) == [{"field": first}, {"field": second}]
            connection.execute("DROP TABLE task")


class Field(NamedTuple):
    """A field of a schema, and its valid values."""

    schema: dict[str, Any]
    values: st.SearchStrategy[Any]


NAMES = ["a", "A", "order", "a.b", "it's", '"', "ü", "😀 ", "\n", "answer", "item0"]
NODE = object_of(value=TEXT, children=list_of({"$ref": "#/$defs/node"}))
NODES = st.recursive(
    st.builds(lambda value: {"value": value, "children": []}, st.text(max_size=3)),
    lambda inner: st.fixed_dictionaries({"value": st.text(max_size=3), "children": st.lists(inner, max_size=2)}),
    max_leaves=4,
)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(datetime.fromisoformat("1000-01-01"), datetime.fromisoformat("9000-01-01"), timezones=ZONES)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LEAVES = st.sampled_from(
    [
        Field(TEXT, TEXTS),
        Field({"type": "string", "enum": ["x", "y\0"]}, st.sampled_from(["x", "y\0"])),
        Field(INTEGER, st.integers(-(2**63), 2**63 - 1)),
        Field(NUMBER, st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)),
        Field({"type": "boolean"}, st.booleans()),
        Field(DATE, st.dates().map(str)),
        Field({"type": "string", "format": "date-time"}, TIMES.map(datetime.isoformat)),
        Field({"type": "string", "format": "uuid"}, st.uuids().map(str)),
        Field({"anyOf": [TEXT, INTEGER, object_of(x=TEXT)]}, TEXTS | st.integers(-9, 9) | st.just({"x": "y"})),
        Field({"anyOf": [INTEGER, NUMBER]}, st.integers(-9, 9) | st.floats(-9, 9)),
        Field({"$ref": "#/$defs/node"}, NODES),
    ]
)


def containers(inner: st.SearchStrategy[Field]) -> st.SearchStrategy[Field]:
    lists = inner.map(lambda field: Field(list_of(field.schema), st.lists(field.values, max_size=3)))
    nullable = inner.map(lambda field: Field({"anyOf": [field.schema, {"type": "null"}]}, st.none() | field.values))
    return lists | nullable | objects(inner)


def objects(inner: st.SearchStrategy[Field]) -> st.SearchStrategy[Field]:
    names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique_by=folded)
    fields = names.flatmap(lambda chosen: st.fixed_dictionaries(dict.fromkeys(chosen, inner)))
    return fields.map(
        lambda of: Field(
            object_of(**{name: field.schema for name, field in of.items()}),
            st.fixed_dictionaries({name: field.values for name, field in of.items()}),
        )
    )


TASKS = objects(st.recursive(LEAVES, containers, max_leaves=6)).map(
    lambda field: Field({**field.schema, "$defs": {"node": NODE}}, field.values)
)


def comparable(value: Any) -> Any:
    """Without fields that are null, and with times as moments. Names have one case."""
    if isinstance(value, dict):
        return {folded(name): comparable(field) for name, field in value.items() if field is not None}
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, str) and len(value) > len("2026-01-01T") and value[4] == value[7] == "-":
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            return value
    return value


@settings(max_examples=40, deadline=None)
@given(data=st.data(), task=TASKS)
def test_any_valid_answer_survives_in_columns(data: st.DataObject, task: Field) -> None:
    assert column_problems(task.schema, RESERVED_COLUMNS) == []
    answers = data.draw(st.lists(task.values, min_size=1, max_size=3))
    assert [Judge(task.schema).why_invalid(json.dumps(answer)) for answer in answers] == [None] * len(answers)
    with connected() as connection:
        write(connection, task.schema, *answers)
        assert list(map(comparable, rows(connection))) == list(map(comparable, answers))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(schema=strict_schemas(), text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_what_the_built_in_engine_answers_is_valid_and_survives_in_columns(schema: dict[str, Any], text: str) -> None:
    """For any schema within OpenAI's strict rules whose fields can be columns."""
    assert strict_problems(schema) == []
    assume(not column_problems(schema, RESERVED_COLUMNS))
    answer = example_answer(schema, text)
    assert Judge(schema).why_invalid(json.dumps(answer)) is None
    with connected() as connection:
        write(connection, schema, answer)
        [row] = rows(connection)
        assert comparable(row) == comparable(answer)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), versions=st.lists(TASKS, min_size=2, max_size=4))
def test_answers_survive_any_changes_of_the_schema(data: st.DataObject, versions: list[Field]) -> None:
    answers = [data.draw(version.values) for version in versions]
    with connected() as connection:
        for version, answer in zip(versions, answers, strict=True):
            write(connection, version.schema, answer)
        assert list(map(comparable, rows(connection))) == list(map(comparable, answers))


def test_a_field_of_an_answer_may_be_a_title(connection: duckdb.DuckDBPyConnection) -> None:
    columns = (AnswerColumn("title", "VARCHAR"), AnswerColumn("url", ["VARCHAR"]))
    assert prepare_result_table(connection, "task", columns, has_schema=True) == columns
    found = connection.execute("SELECT column_name FROM duckdb_columns() WHERE table_name = 'task'").fetchall()
    names = [name for (name,) in found]
    assert names[:7] == [
        "partition_date", "article_id", "article_title", "article_url", "article_published_at", "title", "url",
    ]  # fmt: skip


def test_a_table_of_texts_becomes_one_of_fields_and_keeps_its_rows(connection: duckdb.DuckDBPyConnection) -> None:
    prepare_result_table(connection, "task", SUMMARY, has_schema=False)
    connection.execute(
        "INSERT INTO task (partition_date, article_id, title, summary, status) VALUES ('2026-01-05', 'a', 'T', 'S', '')"
    )
    prepare_result_table(connection, "task", (AnswerColumn("topics", ["VARCHAR"]),), has_schema=True)
    row = connection.execute("SELECT article_id, title, summary, article_title, topics FROM task").fetchone()
    assert row == ("a", "T", "S", None, None)
