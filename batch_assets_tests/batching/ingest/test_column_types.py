"""Columns of Parquet files, queries and tables have types: a text, an id or a time, or else refused by name."""

from __future__ import annotations

import pytest

from batch_assets_tests.batching.conftest import DAY, Workspace
from batch_assets_tests.batching.ingest.support import read, refusal, rejected, texts, write_parquet


def source(workspace: Workspace, select: str, kind: str) -> str:
    """The SELECT as a Parquet file, a query, or a view of the warehouse."""
    if kind == "file":
        return str(write_parquet(workspace, "rows.parquet", select))
    if kind == "query":
        return select
    with workspace.database.writing() as connection:
        connection.execute(f"CREATE VIEW rows_of_the_feed AS {select}")
    return "table:rows_of_the_feed"


KINDS = pytest.mark.parametrize("kind", ["file", "query", "table"])


@KINDS
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("'text'", "text"),
        ("encode('Café 漢字')", "Café 漢字"),
        ("['Para one.', 'Para two.']", "Para one.\n\nPara two."),
        ("['Para one.', NULL, 'Para two.']", "Para one.\n\nPara two."),
        ("42", "42"),
        ("DATE '2026-01-05'", "2026-01-05"),
        ('CAST(\'["Para one.", "Para two."]\' AS JSON)', "Para one.\n\nPara two."),
    ],
)
def test_a_body_may_have_types_that_are_texts(workspace: Workspace, kind: str, body: str, text: str) -> None:
    read(workspace, source(workspace, f"SELECT 1 AS id, {body} AS body, TIMESTAMP '{DAY} 08:00' AS published_at", kind))
    assert texts(workspace) == {"1": text}


@KINDS
@pytest.mark.parametrize(
    ("column", "value", "type_name"),
    [
        ("body", "{'html': 'x'}", "STRUCT"),
        ("body", "[['a']]", "VARCHAR[][]"),
        ("body", "MAP {'a': 'b'}", "MAP"),
        ("title", "{'rendered': 'x'}", "STRUCT"),
        ("id", "['a', 'b']", "VARCHAR[]"),
        ("published_at", "{'date': '2026-01-05'}", "STRUCT"),
    ],
)
def test_other_nested_types_are_refused_by_name(
    workspace: Workspace, kind: str, column: str, value: str, type_name: str
) -> None:
    values = {"id": "1", "title": "'T'", "body": "'text'", "published_at": f"'{DAY}'", column: value}
    select = "SELECT " + ", ".join(f"{sql} AS {name}" for name, sql in values.items())
    message = refusal(workspace, source(workspace, select, kind))
    assert f"the column `{column}` has the type {type_name}" in message
    assert "BATCH_ASSETS_COLUMNS" in message


@KINDS
def test_a_field_of_a_struct_can_be_named(workspace: Workspace, kind: str) -> None:
    select = f"SELECT 1 AS id, {{'html': {{'text': 'deep'}}}} AS content, DATE '{DAY}' AS published_at"
    read(workspace, source(workspace, select, kind), columns={"body": "content.html.text"})
    assert texts(workspace) == {"1": "deep"}


@KINDS
@pytest.mark.parametrize(
    ("values", "ids"),
    [
        ("1001.0::DOUBLE, 1002.0::DOUBLE", ["1001", "1002"]),
        ("1e15::DOUBLE, 1.5::DOUBLE", ["1.5", "1000000000000000"]),
        ("7::FLOAT, 8::FLOAT", ["7", "8"]),
        ("12345678901234567890.00::DECIMAL(30,2), 1.50::DECIMAL(30,2)", ["1.50", "12345678901234567890"]),
        ("'007', ' 8 '", ["8", "007"]),
        ("9223372036854775807::BIGINT, 5::BIGINT", ["5", "9223372036854775807"]),
        ("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::UUID, NULL", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
        ("encode('a'), '\\xFF'::BLOB", ["a", "ff"]),
    ],
)
def test_an_id_may_have_any_plain_type(workspace: Workspace, kind: str, values: str, ids: list[str]) -> None:
    select = f"SELECT unnest([{values}]) AS id, 'text' AS body, DATE '{DAY}' AS published_at"
    read(workspace, source(workspace, select, kind))
    found = [identity for identity in texts(workspace) if len(identity) != 20 or identity.isdecimal()]
    assert sorted(found, key=lambda identity: (len(identity), identity)) == ids


@KINDS
@pytest.mark.parametrize("value", ["'nan'::DOUBLE", "'inf'::DOUBLE", "'-inf'::FLOAT", "NULL::DOUBLE", "''", "'  '"])
def test_what_is_no_id_is_made_from_the_text(workspace: Workspace, kind: str, value: str) -> None:
    select = f"SELECT {value} AS id, unnest(['one', 'two']) AS body, DATE '{DAY}' AS published_at"
    found = read(workspace, source(workspace, select, kind))
    assert (found.articles, found.rejected) == (2, {})
    assert {len(identity) for identity in texts(workspace)} == {20}


@KINDS
@pytest.mark.parametrize(
    "time",
    [
        f"DATE '{DAY}'",
        f"TIMESTAMP '{DAY} 23:59:59'",
        f"TIMESTAMPTZ '{DAY} 23:59:59+00'",
        f"TIMESTAMP_NS '{DAY} 08:00:00'",
        f"TIMESTAMP_S '{DAY} 08:00:00'",
        f"epoch(TIMESTAMP '{DAY} 08:00:00')::BIGINT",
        f"epoch_ms(TIMESTAMP '{DAY} 08:00:00')",
        f"epoch_us(TIMESTAMP '{DAY} 08:00:00')",
        f"epoch_ns(TIMESTAMP '{DAY} 08:00:00')",
        f"epoch(TIMESTAMP '{DAY} 08:00:00')::DOUBLE",
        f"{DAY.replace('-', '')}",
        f"encode('{DAY}')",
    ],
)
def test_a_time_may_have_the_types_that_times_have(workspace: Workspace, kind: str, time: str) -> None:
    select = f"SELECT 1 AS id, 'text' AS body, {time} AS published_at"
    assert read(workspace, source(workspace, select, kind)).articles == 1


@KINDS
@pytest.mark.parametrize(
    "time", ["TIMESTAMP '0001-01-01'", "'infinity'::TIMESTAMP", "DATE '2099-12-31'", "-1::BIGINT", "NULL::DATE", "true"]
)
def test_a_time_that_cannot_be_is_undated(workspace: Workspace, kind: str, time: str) -> None:
    good = f"SELECT 1 AS id, 'text' AS body, DATE '{DAY}' AS published_at, NULL AS other"
    bad = f"SELECT 2, 'text', NULL, {time}"
    either = "coalesce(published_at::VARCHAR, other::VARCHAR)"
    select = f"SELECT id, body, {either} AS published_at FROM ({good} UNION ALL {bad})"
    found = read(workspace, source(workspace, select, kind))
    assert (found.articles, found.undated) == (1, 1)
    assert [reason for _, _, _, reason, _ in rejected(workspace)] == ["undated"]


def test_bytes_that_are_no_text_are_set_aside(workspace: Workspace) -> None:
    select = f"SELECT unnest([1, 2]) AS id, unnest(['\\xFFx'::BLOB, encode('x')]) AS body, DATE '{DAY}' AS published_at"
    for kind in ("file", "query"):
        found = read(workspace, source(workspace, select, kind))
        assert (found.articles, found.rejected) == (1, {"not_text": 1})
