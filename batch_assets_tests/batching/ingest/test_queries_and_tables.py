"""Queries, files of SQL and tables of the warehouse as sources."""

from __future__ import annotations

import re

import duckdb
import pytest

from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace
from batch_assets_tests.batching.ingest.support import read, refusal, rejected, texts, write

ROWS = f"(VALUES (1, 'one', DATE '{DAY}'), (2, 'two', DATE '{NEXT_DAY}')) AS t(id, text, day)"


@pytest.mark.parametrize(
    "query",
    [
        f"SELECT id, text AS body, day AS published_at FROM {ROWS}",
        f"select id, text AS body FROM {ROWS} WHERE day = $day",
        f"FROM {ROWS} SELECT id, text AS body WHERE day = $day",
        f"  WITH t AS (FROM {ROWS}) SELECT id, text AS body FROM t WHERE day = $day",
        f"SELECT id, text AS body FROM {ROWS} WHERE day = '{{partition}}'",
        f"SELECT id, text AS body, '2001-01-01' AS published_at FROM {ROWS} WHERE day = $day;",
        f"SELECT id, text AS body FROM {ROWS} WHERE day = $day -- the day",
        f"SELECT\n id, text AS body FROM {ROWS} WHERE day = $day ; ",
    ],
)
def test_a_query_selects_the_rows_of_the_day(workspace: Workspace, query: str) -> None:
    for day, expected in ((DAY, {"1": "one"}), (NEXT_DAY, {"2": "two"})):
        read(workspace, query, day=day)
        assert texts(workspace, day=day) == expected


def test_columns_of_a_query_may_be_mapped(workspace: Workspace) -> None:
    query = f'SELECT id, text AS "Article Text", day FROM {ROWS}'
    read(workspace, query, columns={"body": "article text", "published_at": "day"})
    assert texts(workspace) == {"1": "one"}


def test_a_rejected_row_of_a_query_has_its_file_if_the_query_selects_it(workspace: Workspace) -> None:
    for name in ("a", "b"):
        write(workspace, f"{name}.csv", f"id,body,published_at\n{name},,{DAY}\n{name}2,text,{DAY}\n")
    read(workspace, f"FROM read_csv('{workspace.folder}/*.csv', filename = true)")
    assert [(file, reason) for file, _, _, reason, _ in rejected(workspace)] == [
        ("a.csv", "empty_body"),
        ("b.csv", "empty_body"),
    ]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT 1 AS body WHERE $other", r"has the parameter \$other; only \$day"),
        ("SELECT 1 AS body; SELECT 2 AS body", "several statements"),
        ("SELECT body FROM nowhere", "nowhere"),
        ("SELECT (", "could not be read"),
        ("FROM 'nowhere/*.parquet'", "nowhere"),
        ("SELECT 1 AS text, DATE '2026-01-05' AS published_at", "has no column `body`.* text, published_at"),
        ("SELECT 1 AS body", r"has no column `published_at`.*\$day"),
        (f"SELECT '{'x' * 5000}' AS other", "has no column `body`"),
    ],
)
def test_a_query_that_cannot_be_read_is_refused(workspace: Workspace, query: str, words: str) -> None:
    message = refusal(workspace, query)
    assert re.search(words, message, re.DOTALL)
    assert "x" * 300 not in message


def test_a_query_does_not_reach_the_warehouse(workspace: Workspace) -> None:
    workspace.ingest({"a": "text"})
    assert "raw_articles" in refusal(workspace, "SELECT * FROM raw_articles")


@pytest.mark.parametrize(
    "statements",
    [
        "ATTACH '{other}' AS news (READ_ONLY);\nSELECT id, story AS body FROM news.article WHERE sent = $day;\n",
        "-- comment\nATTACH '{other}' AS news;\nCREATE TEMP VIEW v AS FROM news.article;\n"
        "SELECT id, story AS body, sent AS published_at FROM v -- end",
        "SET VARIABLE d = $day; ATTACH '{other}' AS news; FROM news.article SELECT id, story AS body "
        "WHERE sent = getvariable('d') AND $day IS NOT NULL",
    ],
)
def test_a_file_of_sql_may_attach_another_database(workspace: Workspace, statements: str) -> None:
    other = workspace.folder / "it's news.duckdb"
    with duckdb.connect(str(other)) as connection:
        connection.execute(f"CREATE TABLE article AS SELECT id, text AS story, day AS sent FROM {ROWS}")
    text = statements.replace("{other}", str(other).replace("'", "''"))
    source = write(workspace, "news.sql", text)
    for _ in range(2):
        read(workspace, source)
        assert texts(workspace) == {"1": "one"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "does not end with a query"),
        ("-- nothing", "does not end with a query"),
        ("CREATE TABLE t AS SELECT 1", "does not end with a query"),
        ("SELECT 1 AS body; DROP TABLE t", "does not end with a query"),
        ("ATTACH 'nowhere/x.duckdb' AS n (READ_ONLY); SELECT 1 AS body", "could not be read"),
        ("ATTACH 'x.sqlite' AS n (TYPE sqlite); SELECT $day AS body", "sqlite"),
        ("ATTACH 'dbname=x' AS n (TYPE postgres); SELECT $day AS body", "postgres"),
    ],
)
def test_a_file_of_sql_that_cannot_be_run_is_refused(workspace: Workspace, content: str, words: str) -> None:
    assert words in refusal(workspace, write(workspace, "a.sql", content))


def test_a_file_of_sql_that_does_not_exist_is_named(workspace: Workspace) -> None:
    assert "nowhere.sql" in refusal(workspace, workspace.folder / "nowhere.sql")


@pytest.mark.parametrize(
    ("create", "name"),
    [
        ("CREATE TABLE feed AS FROM rows", "feed"),
        ("CREATE VIEW feed AS FROM rows", "FEED"),
        ("CREATE SCHEMA news; CREATE TABLE news.feed AS FROM rows", "news.feed"),
        ('CREATE TABLE "a.b; c" AS FROM rows', '"a.b; c"'),
        ('CREATE TABLE "it\'s ""x""" AS FROM rows', '"it\'s ""x"""'),
        ('CREATE TABLE "select" AS FROM rows', "select"),
    ],
)
def test_a_table_of_the_warehouse_is_a_source(workspace: Workspace, create: str, name: str) -> None:
    with workspace.database.writing() as connection:
        connection.execute(f"CREATE TABLE rows AS SELECT id, text AS body, day AS published_at FROM {ROWS}")
        connection.execute(create)
    read(workspace, f"table:{name}")
    assert texts(workspace) == {"1": "one"}


@pytest.mark.parametrize("name", ["nowhere", "a.b.c.d", "", "feed; DROP TABLE raw_articles", "feed WHERE true", "x)--"])
def test_a_name_that_is_no_table_is_refused_and_never_executed(workspace: Workspace, name: str) -> None:
    workspace.ingest({"kept": "text"})
    refusal(workspace, f"table:{name}")
    assert texts(workspace) == {"kept": "text"}
