"""Parquet files: typed columns become texts, ids and times; what is no text is set aside, or refused by name."""

from __future__ import annotations

import pytest

from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace
from batch_assets_tests.batching.ingest.support import (
    articles,
    read,
    refusal,
    rejected,
    texts,
    write,
    write_parquet,
)

DATED = f"DATE '{DAY}' AS published_at"


@pytest.mark.parametrize("kind", ["DOUBLE", "FLOAT"])
def test_ids_of_a_column_with_fractions_are_whole_and_nan_is_none(workspace: Workspace, kind: str) -> None:
    values = (
        "(1001.0, 'a'), (1002, 'b'), ('nan', 'c'), ('nan', 'd'), (NULL, 'e'), ('inf', 'f'), (2.5, 'g'), (1e20, 'h')"
    )
    rows = f"SELECT CAST(id AS {kind}) AS id, body, {DATED} FROM (VALUES {values}) AS row(id, body)"
    found = read(workspace, write_parquet(workspace, "a.parquet", rows))
    assert (found.articles, found.rejected) == (8, {})
    ids = {body: identity for identity, body in texts(workspace).items()}
    assert [ids["a"], ids["b"], ids["g"]] == ["1001", "1002", "2.5"]
    assert ids["h"].startswith("1000000") and ids["h"].isdigit() and len(ids["h"]) == 21  # noqa: PT018
    assert [len(ids[name]) for name in "cdef"] == [20] * 4


@pytest.mark.parametrize(
    ("first", "second", "ids"),
    [
        ("9007199254740993::BIGINT", "2.0::DOUBLE", ["2", "9007199254740993"]),
        ("'007'", "8::INTEGER", ["007", "8"]),
        ("'a'::BLOB", "18446744073709551615::UBIGINT", ["18446744073709551615", "a"]),
        ("UUID '5a1b1e2e-0000-4000-8000-000000000001'", "1.50::DECIMAL(9, 2)", None),
    ],
)
def test_the_type_of_an_id_in_one_file_does_not_change_the_ids_of_another(
    workspace: Workspace, first: str, second: str, ids: list[str] | None
) -> None:
    write_parquet(workspace, "a.parquet", f"SELECT {first} AS id, 'x' AS body, {DATED}")
    write_parquet(workspace, "b.parquet", f"SELECT {second} AS id, 'y' AS body, {DATED}")
    assert read(workspace, workspace.folder / "*.parquet").articles == 2
    assert list(texts(workspace)) == (ids or ["1.50", "5a1b1e2e-0000-4000-8000-000000000001"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (r"'caf\xC3\xA9'::BLOB", "café"),
        ("['Para one.', 'Para two.']", "Para one.\n\nPara two."),
        ("['a', NULL, 'b']", "a\n\nb"),
        ("['a', 'b']::VARCHAR[2]", "a\n\nb"),
        ("'x'::ENUM ('x', 'y')", "x"),
        ("5", "5"),
        ("1.50::DECIMAL(9, 2)", "1.50"),
        ("true", "true"),
        ("'\"text\"'::JSON", "text"),
        ("""'["a", "b"]'::JSON""", "a\n\nb"),
    ],
)
def test_a_body_of_any_type_that_is_a_text_is_read(workspace: Workspace, value: str, text: str) -> None:
    write_parquet(workspace, "a.parquet", f"SELECT 1 AS id, {value} AS body, {DATED}")
    write_parquet(workspace, "b.parquet", f"SELECT 2 AS id, 'plain' AS body, {DATED}")  # of another type
    assert read(workspace, workspace.folder / "*.parquet").articles == 2
    assert texts(workspace) == {"1": text, "2": "plain"}


@pytest.mark.parametrize("column", ["title", "body", "url"])
@pytest.mark.parametrize("value", [r"'caf\xE9'::BLOB", r"'\xFF\x00'::BLOB", r"'ok \xED\xA0\xBD'::BLOB"])
def test_bytes_that_are_no_text_are_set_aside(workspace: Workspace, column: str, value: str) -> None:
    others = ", ".join(f"'x' AS {name}" for name in ("title", "body", "url") if name != column)
    rows = f"SELECT 1 AS id, 'ok'::BLOB AS {column}, {others}, {DATED} UNION ALL SELECT 2, {value}, 'x', 'x', {DATED}"
    found = read(workspace, write_parquet(workspace, "a.parquet", rows))
    assert (found.articles, found.rejected) == (1, {"not_text": 1})
    assert rejected(workspace) == [("a.parquet", 2, None, "not_text", True)]


@pytest.mark.parametrize("column", ["id", "title", "body", "url", "published_at"])
@pytest.mark.parametrize("value", ["{'text': 'a'}", "[{'text': 'a'}]", "[1, 2]", "MAP {'a': 'b'}", "[['a']]"])
def test_a_type_that_is_no_text_is_refused_by_name(workspace: Workspace, column: str, value: str) -> None:
    values = {"id": "1", "body": "'x'", "published_at": f"DATE '{DAY}'", column: value}
    select = "SELECT " + ", ".join(f"{sql} AS {name}" for name, sql in values.items())
    said = refusal(workspace, write_parquet(workspace, "a.parquet", select))
    assert f"a.parquet: the column `{column}` has the type" in said
    assert "Name a field of it" in said


def test_a_field_of_a_structure_can_be_named(workspace: Workspace) -> None:
    path = write_parquet(workspace, "a.parquet", f"SELECT 1 AS id, {{'text': 'a'}} AS Body, {DATED}")
    assert read(workspace, path, columns={"body": "body.text"}).articles == 1
    assert texts(workspace) == {"1": "a"}


@pytest.mark.parametrize("names", ["ID, Body, PUBLISHED_AT", "iD, bODY, Published_At", "id, body, published_at"])
def test_names_are_found_in_any_case_file_by_file(workspace: Workspace, names: str) -> None:
    write_parquet(workspace, "a.parquet", f"SELECT 1 AS id, 'x' AS body, {DATED}")
    write_parquet(workspace, "b.parquet", f"SELECT * FROM (VALUES ('2', 'y', '{DAY}')) AS row({names})")
    assert read(workspace, workspace.folder / "*.parquet").articles == 2
    assert texts(workspace) == {"1": "x", "2": "y"}


def test_other_columns_may_have_names_that_duckdb_uses(workspace: Workspace) -> None:
    others = "'x' AS file, 3 AS file_row_number, 4 AS row, 5 AS filename, 6 AS place, 'z' AS problem, 7 AS time"
    rows = f"SELECT 1 AS id, 'x' AS body, {others}, {DATED} UNION ALL SELECT 2, NULL, 'x', 3, 4, 5, 6, 'z', 7, NULL"
    write_parquet(workspace, "a.parquet", rows)
    write_parquet(workspace, "b.parquet", rows)
    found = read(workspace, workspace.folder / "*.parquet")
    assert (found.articles, found.undated, found.rejected) == (1, 2, {"duplicate_id": 1})
    assert [row[:2] for row in rejected(workspace) if row[3] == "undated"] == [("a.parquet", 2), ("b.parquet", 2)]


@pytest.mark.parametrize(
    ("time", "day"),
    [
        (f"DATE '{DAY}'", DAY),
        (f"TIMESTAMP '{DAY} 23:59:59.999999'", DAY),
        (f"TIMESTAMPTZ '{DAY} 23:30:00-05:00'", NEXT_DAY),
        (f"TIMESTAMP_NS '{DAY} 01:02:03.123456789'", DAY),
        (f"epoch(TIMESTAMP '{DAY}')::BIGINT", DAY),
        (f"epoch_ms(TIMESTAMP '{DAY}')::BIGINT", DAY),
        (f"epoch_us(TIMESTAMP '{DAY}')::BIGINT", DAY),
        (f"epoch_ns(TIMESTAMP '{DAY}')::BIGINT", DAY),
        (f"epoch(TIMESTAMP '{DAY}')::DOUBLE + 0.25", DAY),
        (f"'{DAY}'::BLOB", DAY),
        ("20261120::INTEGER", DAY),
        ("NULL::TIMESTAMP", None),
        ("'infinity'::TIMESTAMP", None),
        ("DATE '1066-01-01'", None),
        ("DATE '2206-01-01'", None),
        ("TIME '10:00'", None),
        ("true", None),
        ("'nan'::DOUBLE", None),
    ],
)
def test_times_of_any_type(workspace: Workspace, time: str, day: str | None) -> None:
    write_parquet(workspace, "a.parquet", f"SELECT 'other' AS id, 'x' AS body, '{DAY}' AS published_at")
    write_parquet(workspace, "b.parquet", f"SELECT 'this' AS id, 'y' AS body, {time} AS published_at")
    found = read(workspace, workspace.folder / "*.parquet", day=day or DAY)
    assert found.undated == (0 if day else 1)
    assert ("this" in texts(workspace, day=day or DAY)) == bool(day)


def test_a_file_without_rows_needs_no_columns(workspace: Workspace) -> None:
    write_parquet(workspace, "a.parquet", "SELECT 1 AS nothing WHERE false")
    write(workspace, "b.parquet", "")
    assert read(workspace, workspace.folder / "*.parquet").files == 2
    write_parquet(workspace, "c.parquet", f"SELECT 1 AS id, 'x' AS body, {DATED}")
    assert read(workspace, workspace.folder / "*.parquet").articles == 1


def test_a_file_without_the_column_is_refused_by_name(workspace: Workspace) -> None:
    write_parquet(workspace, "a.parquet", f"SELECT 1 AS id, 'x' AS body, {DATED}")
    write_parquet(workspace, "b.parquet", f"SELECT 1 AS id, 'x' AS txt, {DATED}")
    assert "b.parquet has no column `body`" in refusal(workspace, workspace.folder / "*.parquet")


@pytest.mark.parametrize("content", [b"no parquet", b"PAR1", b"PAR1" + b"\x00" * 100 + b"PAR1"])
def test_what_is_no_parquet_is_refused_by_name(workspace: Workspace, content: bytes) -> None:
    write_parquet(workspace, "a.parquet", f"SELECT 1 AS id, 'x' AS body, {DATED}")
    write(workspace, "b.parquet", content)
    assert "b.parquet" in refusal(workspace, workspace.folder / "*.parquet")


def test_a_file_that_is_cut_is_refused(workspace: Workspace) -> None:
    path = write_parquet(workspace, "a.parquet", f"SELECT range AS id, 'x' AS body, {DATED} FROM range(5000)")
    path.write_bytes(path.read_bytes()[:-100])
    assert "a.parquet" in refusal(workspace, path)


def test_texts_do_not_change(workspace: Workspace) -> None:
    text = " \t a\r\nb\x00 \u2028\u200f 🦆 "
    with_text = "SELECT 1 AS id, $$" + text.replace("\x00", "") + f"$$ || chr(0) AS body, '' AS title, {DATED}"
    read(workspace, write_parquet(workspace, "a.parquet", with_text))
    assert articles(workspace) == [("1", "", text.replace("\x00", "") + "\x00", None)]
