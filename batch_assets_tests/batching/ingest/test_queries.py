"""Queries, files of statements and tables as sources."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace
from batch_assets_tests.batching.ingest.support import articles, read, refusal, rejected, texts, write

ROW = f"SELECT 1 AS id, 'x' AS body, DATE '{DAY}' AS published_at"


@pytest.mark.parametrize(
    "query",
    [
        ROW,
        f"{ROW};",
        f"{ROW} ;; ",
        f"{ROW} -- a comment; with a semicolon",
        f"{ROW}; -- a comment; with a semicolon",
        f"{ROW} /* a comment */ ; /* and\nanother */\n",
        f"-- a comment\n{ROW}",
        f"/* SELECT; */ -- x\n  {ROW}",
        f"  \n{ROW.lower()}".replace("date", "DATE"),
        f"({ROW})",
        f"( ({ROW}) )",
        f"FROM ({ROW})",
        f"FROM({ROW})",
        f"WITH rows AS ({ROW}) SELECT * FROM rows",
        f"SELECT\t1 AS id, 'x' AS body, DATE '{DAY}' AS published_at",
        f"SELECT * FROM ({ROW}) WHERE body <> ';' AND body <> '-- é'",
        "SELECT 1 AS id, 'x' AS body, $day AS published_at",
        "SELECT 1 AS id, 'x' AS body WHERE $day = DATE '2026-11-20'",
        "SELECT 1 AS id, 'x' AS body, '{partition}' AS published_at",
        "FROM range(1, 2) AS row(id) SELECT id, 'x' AS body, $day AS published_at",
    ],
)
def test_a_query_is_read_however_it_is_written(workspace: Workspace, query: str) -> None:
    assert read(workspace, query).articles == 1
    assert texts(workspace) == {"1": "x"}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT 1; SELECT 2", "has several statements. Put them into a file that ends in .sql"),
        (f"CREATE TABLE x AS {ROW}; SELECT * FROM x", "where there is no file"),
        ("SELECT 'x' AS body, $foo", "has the parameter $foo; only $day has a value"),
        ("SELECT 'x' AS body, ?", "has the parameter $1; only $day has a value"),
        ("SELECT 'x' AS body, $1", "has the parameter $1; only $day has a value"),
        ("SELECT 'x' AS text", "has no column `body`"),
        ("SELECT 'x' AS body", "with the parameter $day"),
        ("SELECT body FROM nowhere", "Table with name nowhere does not exist"),
        ("SELECT 'x' bad syn tax", "syntax error"),
        ("SELECT 'x", "unterminated"),
        ("WITH x AS (SELECT 1) INSERT INTO y SELECT * FROM x", "syntax error"),
        ("SELECT error('" + "long " * 500 + "') AS body, 1 AS published_at", "could not be read"),
        ("SELECT 'x' AS body, $day AS published_at, {'a': 1} AS url", "the column `url` has the type"),
        (f"SELECT 'x' AS body, 'soon' AS published_at, '{'x' * 3_000}' AS url", "none of them has a `published_at`"),
        ("SELECT " + ", ".join(f"1 AS {'x' * 100}{number}" for number in range(60)), "has no column `body`"),
    ],
)
def test_a_query_that_cannot_be_read_is_refused(workspace: Workspace, query: str, words: str) -> None:
    assert words in refusal(workspace, query)


@pytest.mark.parametrize("path", ["from/a.csv", "select/a.csv", "with/a.csv", "selected.csv", "from.csv"])
def test_a_path_may_begin_with_a_word_of_queries(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(workspace.folder)
    write(workspace, path, f"id,body,published_at\n1,x,{DAY}\n")
    assert read(workspace, path).articles == 1


@pytest.mark.parametrize(
    "statements",
    [
        "ATTACH '{folder}/other.duckdb' AS other (READ_ONLY);\nSELECT * FROM other.feed;\n-- the end",
        "CREATE TEMP VIEW rows AS {row}; FROM rows",
        "CREATE TEMP TABLE rows AS SELECT 1 AS id, 'x' AS body, $day AS published_at; FROM rows;",
        "SET threads = 2; SET VARIABLE text = 'x'; SELECT 1 AS id, getvariable('text') AS body, $day AS published_at",
        "CREATE MACRO same(a) AS a; -- $foo; \nSELECT same(1) AS id, same('x') AS body, $day AS published_at /* ; */;",
        "\ufeff{row}",
        "BEGIN; {row}",
        "(\n{row}\n)\n;\n",
    ],
)
def test_a_file_of_statements_ends_with_the_query(workspace: Workspace, statements: str) -> None:
    with duckdb.connect(str(workspace.folder / "other.duckdb")) as connection:
        connection.execute(f"CREATE TABLE feed AS {ROW}")
    text = statements.replace("{folder}", str(workspace.folder)).replace("{row}", ROW)
    path = write(workspace, "source.sql", text)
    for _ in range(2):
        assert read(workspace, path).articles == 1
        assert texts(workspace) == {"1": "x"}


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        ("", "does not end with a query"),
        ("-- nothing", "does not end with a query"),
        (f"{ROW}; SET threads = 2", "does not end with a query"),
        ("SELEC 1", "syntax error"),
        (f"PRAGMA nothing; {ROW}", "nothing"),
        (f"ATTACH '/nowhere/a.duckdb' AS other (READ_ONLY); {ROW}", "/nowhere/a.duckdb"),
        (f"CREATE VIEW x AS SELECT $foo; {ROW}", "$foo"),
        (f"CREATE VIEW x AS SELECT $day; {ROW}", "parameter"),
        (b"SELECT 'caf\xe9' AS body, $day AS published_at", "could not be read"),
    ],
)
def test_a_file_of_statements_that_cannot_be_executed_is_refused(
    workspace: Workspace, statements: str | bytes, words: str
) -> None:
    path = write(workspace, "source.sql", statements)
    said = refusal(workspace, path)
    assert words in said
    assert "source.sql" in said


def test_a_file_of_statements_that_does_not_exist_is_named(workspace: Workspace) -> None:
    assert "no.sql could not be read: " in refusal(workspace, workspace.folder / "no.sql")


@pytest.fixture
def tables(workspace: Workspace) -> Workspace:
    with workspace.database.writing() as connection:
        connection.execute(
            f"""
            CREATE SCHEMA "s x";
            CREATE TABLE "s x"."t.y" AS {ROW};
            CREATE VIEW feed AS SELECT * FROM "s x"."t.y";
            CREATE TABLE "quo""te" AS FROM feed;
            CREATE TABLE "OTHER case" AS SELECT id AS "ID", body AS "BODY", published_at AS "Published_At" FROM feed;
            CREATE TABLE row_check AS FROM feed;
            CREATE TABLE "x; DROP TABLE raw_articles" AS FROM feed;
            """
        )
    return workspace


@pytest.mark.parametrize(
    "name",
    [
        '"s x"."t.y"',
        "feed",
        " feed ",
        "FEED",
        "main.feed",
        '"quo""te"',
        'quo"te',
        "OTHER case",
        "row_check",
        "x; DROP TABLE raw_articles",
    ],
)
def test_a_table_or_view_of_the_warehouse_is_read(tables: Workspace, name: str) -> None:
    for _ in range(2):
        assert read(tables, f"table:{name}").articles == 1
        assert articles(tables) == [("1", None, "x", None)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "Table with name missing does not exist"),
        ("", "names no table"),
        (".", "names no table"),
        ("feed.", "names no table"),
        ("a.b.c.d", "names no table"),
        ('"feed" WHERE 1=1', "names no table"),
        ("feed; DROP TABLE raw_articles", "does not exist"),
        ("feed WHERE true", "does not exist"),
        ("read_csv('x')", "does not exist"),
        ("(SELECT 1)", "does not exist"),
        ('feed" WHERE "1"="1', "table"),
        ('"open', "unterminated"),
        ("s x.t.y", "does not exist"),
        ("x" * 2_000, "does not exist"),
        ("x\n; DROP TABLE raw_articles", "does not exist"),
    ],
)
def test_a_name_that_is_no_table_is_refused(tables: Workspace, name: str, words: str) -> None:
    assert words in refusal(tables, f"table:{name}")
    assert tables.column("SELECT count(*) FROM raw_articles") == [0]


@pytest.mark.parametrize("is_table", [False, True])
def test_rows_of_a_query_without_a_day_are_recorded_once(workspace: Workspace, is_table: bool) -> None:
    write(workspace, "a.csv", f"id,body,published_at\n1,x,{DAY}\n2,y,soon\n3,,{DAY}\n4,z,{NEXT_DAY}\n")
    source = f"SELECT * FROM read_csv('{workspace.folder}/*.csv', all_varchar = true, filename = true)"
    if is_table:
        with workspace.database.writing() as connection:
            connection.execute(f"CREATE TABLE feed AS {source}")
        source = "table:feed"
    for day in (DAY, NEXT_DAY, DAY):
        assert read(workspace, source, day=day).undated == 1
    assert rejected(workspace) == [("a.csv", 2, None, "undated", False), ("a.csv", 3, None, "empty_body", True)]


def test_a_query_gives_the_ids_of_two_feeds_the_names_of_their_files(workspace: Workspace) -> None:
    for name in "ab":
        write(workspace, f"{name}.csv", f"id,body,published_at\n1,{name} 1,{DAY}\n2,{name} 2,{DAY}\n")
    options: dict[str, Any] = {"all_varchar": "true", "filename": "true"}
    reader = ", ".join([f"'{workspace.folder}/*.csv'", *(f"{name} = {value}" for name, value in options.items())])
    source = f"SELECT parse_filename(filename) || '#' || id AS id, * EXCLUDE (id) FROM read_csv({reader})"
    assert read(workspace, source).articles == 4
    assert texts(workspace) == {"a.csv#1": "a 1", "a.csv#2": "a 2", "b.csv#1": "b 1", "b.csv#2": "b 2"}
