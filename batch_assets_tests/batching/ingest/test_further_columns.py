"""Further columns of a source, which a task uses: each row keeps them as text, from every kind of source."""

from __future__ import annotations

import csv
import json
from io import StringIO
from typing import Any

import duckdb
import pytest

from batch_assets.batching.ingest.articles import SourceError, read_source
from batch_assets.batching.ingest.source import Source, parse_columns
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

NASTY = 'it\'s a "by, line"; DROP TABLE raw_articles; --'
DUCKDB = ("parquet", "query", "$day", "sql", "table")
KINDS = pytest.mark.parametrize("kind", ["jsonl", "json", "pretty", "csv", "tsv", *DUCKDB])
TYPED = pytest.mark.parametrize("kind", ["parquet", "query", "table"])


def extra(workspace: Workspace, *, day: str = DAY) -> dict[str, Any]:
    """The further columns that have a value, by article."""
    rows = workspace.rows("SELECT article_id, extra FROM raw_articles WHERE partition_date = ? ORDER BY ALL", [day])
    return {
        article: {name: value for name, value in (found or {}).items() if value is not None} or None
        for article, found in rows
    }


def source(workspace: Workspace, kind: str, rows: list[dict[str, str | None]]) -> str:
    """The rows as a source. Each has the same keys."""
    if kind in ("jsonl", "json", "pretty"):
        lines = [json.dumps(row, indent=1 if kind == "pretty" else None) for row in rows]
        text = f"[{','.join(lines)}]" if kind == "json" else "\n".join(lines)
        return str(write(workspace, f"rows.{'jsonl' if kind == 'jsonl' else 'json'}", text))
    if kind in ("csv", "tsv"):
        written = StringIO()
        writer = csv.DictWriter(written, fieldnames=rows[0], delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
        return str(write(workspace, f"rows.{kind}", written.getvalue()))
    names = ['"' + name.replace('"', '""') + '"' for name in rows[0]]
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE row ({', '.join(f'{name} VARCHAR' for name in names)})")
        connection.executemany(
            f"INSERT INTO row VALUES ({', '.join('?' * len(names))})", [list(row.values()) for row in rows]
        )
        connection.execute(f"COPY row TO '{workspace.folder}/rows.parquet' (FORMAT parquet)")
    query = f"SELECT * FROM '{workspace.folder}/rows.parquet'"
    if kind == "sql":
        return str(write(workspace, "rows.sql", f"CREATE TEMP VIEW found AS {query}; FROM found;"))
    if kind == "table":
        with workspace.database.writing() as connection:
            connection.execute(f"CREATE OR REPLACE TABLE feed AS {query}")
    return {"query": query, "$day": f"{query} WHERE $day > '2000-01-01'", "table": "table:feed"}.get(
        kind, f"{workspace.folder}/rows.parquet"
    )


def row(identity: str, **columns: str | None) -> dict[str, str | None]:
    return {"id": identity, "body": f"text {identity}", "published_at": DAY, **columns}


@KINDS
def test_each_kind_of_source_keeps_them(workspace: Workspace, kind: str) -> None:
    section = "漢字 🦆\nof two lines"
    rows = [row("1", author=NASTY, section=section), row("2", author=None, section="x")]
    rows.append(row("3", author=None, section=None))
    location = source(workspace, kind, rows)
    expected = {"1": {"author": NASTY, "section": section}, "2": {"section": "x"}, "3": None}
    for _ in range(2):
        assert read(workspace, location, extra=("author", "section")).articles == 3
        assert extra(workspace) == expected
    assert read(workspace, location, extra=("section",)).articles == 3
    assert extra(workspace) == {"1": {"section": section}, "2": {"section": "x"}, "3": None}
    read(workspace, location)
    assert extra(workspace) == {"1": None, "2": None, "3": None}


@KINDS
def test_the_names_of_the_source_may_be_any_text(workspace: Workspace, kind: str) -> None:
    names = (NASTY, "file", "row", "day", "extra_0", "extra_1", "x", "json", "place", "é", "a.b", "a/b~", "'", '"')
    rows = [{**row(number), **{name: f"{name} of {number}" for name in names}} for number in ("1", "2")]
    read(workspace, source(workspace, kind, rows), columns={"author": NASTY}, extra=("author", *names))
    assert extra(workspace) == {
        number: {"author": f"{NASTY} of {number}"} | {name: f"{name} of {number}" for name in names}
        for number in ("1", "2")
    }
    assert texts(workspace) == {"1": "text 1", "2": "text 2"}


@KINDS
def test_names_are_found_in_any_case(workspace: Workspace, kind: str) -> None:
    in_both_cases = {} if kind in DUCKDB else {"section": "y"}  # in DuckDB, it is the same name
    location = source(workspace, kind, [row("1", AUTHOR="one", Section="x", **in_both_cases)])
    read(workspace, location, extra=("author", "Author", "Section", "section", "SECTION"))
    [found] = extra(workspace).values()
    assert found == {"author": "one", "Author": "one", "Section": "x", "SECTION": "x", "section": "x"} | in_both_cases


@pytest.mark.parametrize(
    ("later", "value"), [({"Author": "b"}, "b"), ({"AUTHOR": "b", "author": None}, "b"), ({}, None)]
)
def test_keys_of_json_are_found_in_any_case_row_by_row_and_may_be_missing(
    workspace: Workspace, later: dict[str, str | None], value: str | None
) -> None:
    lines = [row("1", author="a"), row("2", **later)]
    read(workspace, write(workspace, "a.jsonl", "\n".join(map(json.dumps, lines))), extra=("author",))
    assert extra(workspace) == {"1": {"author": "a"}, "2": value and {"author": value}}


def test_a_column_may_be_one_of_ours_in_another_case_as_well(workspace: Workspace) -> None:
    """`Body` is the text of the article, whatever else uses it."""
    location = write(workspace, "a.jsonl", json.dumps({"ID": "1", "Body": "x", "Published_At": DAY}))
    for _ in range(2):
        read(workspace, location, extra=("Body", "ID"))
        assert texts(workspace) == {"1": "x"}
        assert extra(workspace) == {"1": {"Body": "x", "ID": "1"}}
    read(workspace, location, columns={"content": "body"}, extra=("content",))
    assert extra(workspace) == {"1": {"content": "x"}}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (-0.5, "-0.5"),
        (12345678901234567890123456789012, "12345678901234567890123456789012"),
        (True, "true"),
        ("", ""),
        (" a ", " a "),
        ("[1, 2]", "[1, 2]"),
        (["Ann", "Bob"], '["Ann","Bob"]'),
        ([], "[]"),
        ({"name": "Ann", "é": [None, 1.5]}, '{"name":"Ann","é":[null,1.5]}'),
    ],
)
@pytest.mark.parametrize("format", ["jsonl", "json"])
def test_a_value_of_json_is_a_text_or_json(workspace: Workspace, format: str, value: Any, text: str) -> None:
    lines = [json.dumps({**row("1"), "author": value}, ensure_ascii=False)]
    content = f"[{lines[0]}]" if format == "json" else lines[0]
    found = read(workspace, write(workspace, f"a.{format}", content), extra=("author",))
    assert (found.articles, found.rejected) == (1, {})
    assert extra(workspace) == {"1": {"author": text}}


@TYPED
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("'a'", "a"),
        ("''", ""),
        ("encode('Café 漢字')", "Café 漢字"),
        ("42", "42"),
        ("1001.0::DOUBLE", "1001.0"),
        ("1.50::DECIMAL(5,2)", "1.50"),
        ("true", "true"),
        ("DATE '2026-01-05'", "2026-01-05"),
        ("TIMESTAMPTZ '2026-01-05 08:00:00+01'", "2026-01-05 07:00:00+00"),
        ("TIME '08:00'", "08:00:00"),
        ("['a', 'b']", '["a","b"]'),
        ("[[1], NULL]", "[[1],null]"),
        ("{'name': 'Ann', 'tags': ['x']}", '{"name":"Ann","tags":["x"]}'),
        ("MAP {'a': DATE '2026-01-05'}", '{"a":"2026-01-05"}'),
        ("'\"a\"'::JSON", "a"),
        ("'[1, \"a\"]'::JSON", '[1,"a"]'),
    ],
)
def test_a_value_of_another_type_is_its_text_or_json(workspace: Workspace, kind: str, value: str, text: str) -> None:
    read(workspace, typed(workspace, kind, value), extra=("author",))
    assert extra(workspace) == {"1": {"author": text}}


def typed(workspace: Workspace, kind: str, value: str) -> str:
    select = f"SELECT '1' AS id, 'x' AS body, {value} AS author, DATE '{DAY}' AS published_at"
    if kind == "table":
        with workspace.database.writing() as connection:
            connection.execute(f"CREATE VIEW feed AS {select}")
    return {"query": select, "table": "table:feed"}.get(kind) or str(write_parquet(workspace, "a.parquet", select))


@KINDS
def test_a_column_without_a_value_is_a_key(workspace: Workspace, kind: str) -> None:
    """So a plan knows whether the article was read before a task used the column."""
    location = source(workspace, kind, [row("1", author=None, section="x")])
    kept = "SELECT extra FROM raw_articles"
    read(workspace, location, extra=("author",))
    assert workspace.column(kept) == [{"author": None}]
    read(workspace, location, extra=("section", "author"))
    assert workspace.column(kept) == [{"section": "x", "author": None}]
    read(workspace, location)
    assert workspace.column(kept) == [None]


@TYPED
@pytest.mark.parametrize("value", ["NULL", "NULL::INTEGER[]", "'null'::JSON", "NULL::JSON", "NULL::BLOB"])
def test_null_is_no_value(workspace: Workspace, kind: str, value: str) -> None:
    read(workspace, typed(workspace, kind, value), extra=("author",))
    assert extra(workspace) == {"1": None}


@TYPED
def test_bytes_that_are_no_text_are_set_aside(workspace: Workspace, kind: str) -> None:
    found = read(workspace, typed(workspace, kind, "'\\xFFx'::BLOB"), extra=("author",))
    assert (found.articles, found.rejected) == (0, {"not_text": 1})
    assert read(workspace, "SELECT * EXCLUDE (author) FROM (SELECT 1 AS author, 'x' AS body, $day)").articles == 1


@TYPED
@pytest.mark.parametrize("value", ["[encode('a')]", "{'a': [{'b': encode('a')}]}"])
def test_a_list_of_bytes_is_refused_by_name(workspace: Workspace, kind: str, value: str) -> None:
    message = refusal(workspace, typed(workspace, kind, value), columns={"by": "author"}, extra=("by",))
    assert "the column `author` has the type" in message
    assert "BATCH_ASSETS_COLUMNS='by=author.text'" in message


@TYPED
def test_a_field_can_be_named(workspace: Workspace, kind: str) -> None:
    location = typed(workspace, kind, "{'name': {'last': 'Lee'}}")
    columns = {"last": "AUTHOR.name.last", "name": "author.name"}
    read(workspace, location, columns=columns, extra=("last", "name"))
    assert extra(workspace) == {"1": {"last": "Lee", "name": '{"last":"Lee"}'}}


def test_a_field_of_json_can_be_named(workspace: Workspace) -> None:
    rows: list[dict[str, Any]] = [
        {"byline": {"name": "Ann"}},
        {"byline": None},
        {},
        {"byline": {"nick": "Bob"}},
        {"byline.name": "of a key"},
    ]
    lines = [json.dumps({**row(str(number)), **columns}) for number, columns in enumerate(rows)]
    read(workspace, write(workspace, "a.jsonl", "\n".join(lines)), columns={"by": "byline.name"}, extra=("by",))
    assert extra(workspace) == {"0": {"by": "Ann"}, "1": None, "2": None, "3": None, "4": {"by": "of a key"}}


@KINDS
def test_a_column_that_the_source_does_not_have_is_named(workspace: Workspace, kind: str) -> None:
    location = source(workspace, kind, [row("1", author="a", editor="b")])
    message = refusal(workspace, location, extra=("author", "autor"))
    assert "has no column `autor`, which a task uses" in message
    assert "author, editor" in message if kind not in ("jsonl", "json", "pretty") else "author, body" in message
    assert "BATCH_ASSETS_COLUMNS='autor=…'" in message
    message = refusal(workspace, location, columns={"by": "byline"}, extra=("by",))
    assert "has no column `byline`, which a task uses as by. " in message
    assert refusal(workspace, location, extra=("x" * 3_000,)).count("x") < 100


@pytest.mark.parametrize("kind", ["parquet", "query", "table", "jsonl"])
@pytest.mark.parametrize("path", ["author.nme", "author.name.first", "id.x", "nowhere.name"])
def test_a_field_that_the_source_does_not_have_is_named(workspace: Workspace, kind: str, path: str) -> None:
    if kind == "jsonl":
        lines = json.dumps({**row("1"), "author": {"name": {"last": "Lee"}}})
        location = str(write(workspace, "a.jsonl", lines))
    else:
        location = typed(workspace, kind, "{'name': {'last': 'Lee'}}")
    message = refusal(workspace, location, columns={"by": path}, extra=("by",))
    assert f"has no column `{path}`, which a task uses as by." in message
    assert "published_at" in message


@pytest.mark.parametrize("author", [None, {"name": None}])
def test_a_path_that_goes_on_only_where_no_row_has_a_value_is_no_error(workspace: Workspace, author: Any) -> None:
    """Of a day that its path selects, no article may have a byline."""
    location = write(workspace, "a.jsonl", json.dumps({**row("1"), "author": author}))
    read(workspace, location, columns={"by": "author.name.last"}, extra=("by",))
    assert extra(workspace) == {"1": None}


def test_one_file_must_have_the_column(workspace: Workspace) -> None:
    write(workspace, "a.csv", f"id,body,published_at\n1,x,{DAY}\n")
    write(workspace, "b.csv", f"body,author,id,published_at\ny,Ann,2,{DAY}\n")
    write(workspace, "c.jsonl", json.dumps(row("3")))
    types = f"SELECT '4' AS id, 'x' AS body, '{DAY}' AS published_at"
    write_parquet(workspace, "d.parquet", types)
    write_parquet(workspace, "e.parquet", f"{types}, 7 AS Author, {{'name': 'Ann'}} AS by")
    write_parquet(workspace, "f.parquet", f"{types}, 8.5 AS author, {{'nick': 'Bob'}} AS by")
    columns = {"by": "by.name"}
    read(workspace, workspace.folder / "[abc]*", extra=("author",))
    assert extra(workspace) == {"1": None, "2": {"author": "Ann"}, "3": None}
    query = (
        "SELECT * REPLACE (parse_filename(filename) AS id) FROM read_parquet('{}', union_by_name=true, filename=true)"
    )
    files = workspace.folder / "[def].parquet"
    read(workspace, files, columns=columns, extra=("author", "by"), newest_by="order")
    assert extra(workspace) == {"4": {"author": "8.5"}}
    read(workspace, query.format(files), columns=columns, extra=("author", "by"))
    assert extra(workspace)["e.parquet"] == {"author": "7.0", "by": "Ann"}
    message = refusal(workspace, workspace.folder / "[acd].*", extra=("author",))
    assert f"{workspace.folder}/[acd].* has no column `author`" in message
    message = refusal(workspace, workspace.folder / "[abcdef].*", columns={"by": "by.nme"}, extra=("by",))
    assert "has no column `by.nme`" in message


def test_a_key_may_come_late(workspace: Workspace) -> None:
    rows = [row(str(number), by=None) for number in range(3_000)]
    lines = [json.dumps(each) for each in [*rows, {**row("late"), "by": {"name": "Ann"}, "author": "Bob"}]]
    location = write(workspace, "a.jsonl", "\n".join(lines))
    read(workspace, location, columns={"name": "by.name"}, extra=("author", "name"))
    assert extra(workspace)["late"] == {"author": "Bob", "name": "Ann"}
    assert sum(value is not None for value in extra(workspace).values()) == 1
    assert "has no column `by.nme`" in refusal(workspace, location, columns={"name": "by.nme"}, extra=("name",))


def test_a_day_whose_rows_all_lack_a_key_is_refused_with_the_remedy(workspace: Workspace) -> None:
    write(workspace, f"{DAY}.jsonl", json.dumps(row("1")))
    message = refusal(workspace, workspace.folder / "{partition}.jsonl", extra=("author",))
    assert "make BATCH_ASSETS_SOURCE a query that selects it" in message
    columns = "{id: 'VARCHAR', body: 'VARCHAR', author: 'VARCHAR'}"
    query = f"FROM read_json('{workspace.folder}/{{partition}}.jsonl', columns = {columns})"
    assert read(workspace, query, extra=("author",)).articles == 1


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", ""), ("a.jsonl", "[]"), ("a.json", "[]"), ("a.csv", ""), ("a.jsonl", "5\n")]
)
def test_a_source_without_rows_is_a_day_without_articles(workspace: Workspace, name: str, content: str) -> None:
    location = write(workspace, name, content)
    assert read(workspace, location, extra=("author",), max_malformed_share=1.0).articles == 0


def test_folders_give_no_column(workspace: Workspace) -> None:
    write(workspace, f"section=politics/published_at={DAY}/a.csv", "id,body\n1,x\n")
    message = refusal(workspace, workspace.folder / "**/*.csv", extra=("section",))
    assert "has no column `section`" in message
    write(workspace, f"section=politics/published_at={DAY}/a.csv", "id,body,section\n1,x,sport\n")
    read(workspace, workspace.folder / "**/*.csv", extra=("section",))
    assert extra(workspace) == {"1": {"section": "sport"}}


def test_secrets_of_a_url_are_not_in_the_message() -> None:
    with pytest.raises(SourceError) as raised:
        Source("https://me:SECRET@x.org/a.csv?sig=SECRET", extra=("body",))
    assert "SECRET" not in str(raised.value)


def test_rows_that_differ_only_in_a_further_column_are_duplicates(workspace: Workspace) -> None:
    """The last counts. As ever, title, text and URL decide whether a row is another version, and about an id."""
    lines = [row("1", author="a"), row("1", author="b")]
    lines += [{key: value for key, value in row("x", author=author).items() if key != "id"} for author in "cd"]
    found = read(workspace, write(workspace, "a.jsonl", "\n".join(map(json.dumps, lines))), extra=("author",))
    assert (found.articles, found.rejected) == (2, {"duplicate_id": 2})
    assert sorted(value["author"] for value in extra(workspace).values()) == ["b", "d"]
    assert [reason for _, _, _, reason, _ in rejected(workspace)] == ["duplicate_id"] * 2


def test_a_row_of_csv_is_malformed_if_a_further_column_is_no_utf8(workspace: Workspace) -> None:
    content = f"id,body,author,published_at\n1,x,caf\udce9,{DAY}\n2,y,Ann,{DAY}\n".encode("utf-8", "surrogateescape")
    location = write(workspace, "a.csv", content)
    found = read(workspace, location, extra=("author",), max_malformed_share=0.5)
    assert (found.articles, found.malformed) == (1, 1)
    assert "1 of 2 rows are malformed" in refusal(workspace, location, extra=("author",), max_malformed_share=0.4)


@pytest.mark.parametrize("extra", [("title",), ("author", "author"), ("author", "published_at")])
def test_a_further_column_is_none_of_ours_and_named_once(extra: tuple[str, ...]) -> None:
    with pytest.raises(SourceError, match="is no further column: it is one of id, title, body, url, published_at, or"):
        Source("a.jsonl", extra=extra)


def test_many_days_have_their_own(workspace: Workspace) -> None:
    lines = [
        {**row(f"{number}", author=f"a{number}"), "published_at": (DAY, NEXT_DAY)[number % 2]} for number in range(9)
    ]
    location = write(workspace, "a.jsonl", "\n".join(map(json.dumps, lines)))
    with read_source(workspace.database, Source(str(location), extra=("author",)), [DAY, NEXT_DAY]) as days:
        days.replace_day(NEXT_DAY)
        assert not articles(workspace)
        days.replace_day(DAY)
    assert extra(workspace) == {str(number): {"author": f"a{number}"} for number in range(0, 9, 2)}
    assert extra(workspace, day=NEXT_DAY) == {str(number): {"author": f"a{number}"} for number in range(1, 9, 2)}


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", {}),
        ("body=content published_at=date", {"body": "content", "published_at": "date"}),
        ("body='Article text' author=byline.name", {"body": "Article text", "author": "byline.name"}),
        ("Überschrift=title title=head", {"Überschrift": "title", "title": "head"}),
        ("text=body body=content", {"text": "body", "body": "content"}),
        ("author=author x_1=a=b", {"author": "author", "x_1": "a=b"}),
    ],
)
def test_names_of_columns_may_be_those_of_further_ones(text: str, columns: dict[str, str]) -> None:
    assert parse_columns(text) == columns


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("body", "body is no pair such as body=content"),
        ("author=", "author= is no pair"),
        ("=x", "is none of our columns: id, title, body"),
        ("Body=content", "Body is none of our columns: id, title, body"),
        ("by-line=x", "by-line is none of our columns.* letters, digits and _"),
        ("by.line=x", "by.line is none of our columns"),
        ("content=body", "content=body: our name comes first, as in body=content"),
        ("author=a author=b", "author is named twice"),
        ("body='x", "has a quote that is not closed"),
    ],
)
def test_what_is_no_mapping_is_refused(text: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        parse_columns(text)
