"""Several sources in one warehouse: reading one never changes the rows of another, with or without a day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batch_assets.batching.ingest.articles import Ingested, SourceError, ingest_day, read_source
from batch_assets.batching.ingest.source import Source
from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace
from batch_assets_tests.batching.ingest.support import write

KINDS = pytest.mark.parametrize("kind", ["files", "partition", "query", "$day", "sql", "table"])
TABLES = ("raw_articles", "rejected_article", "pruned_day")
# An article of each day, rows that are rejected with a day, and two that belong to none.
ROWS = [
    {"id": "1", "body": "one", "published_at": DAY},
    {"id": "2", "body": "two", "published_at": NEXT_DAY},
    {"id": "1", "body": "uno", "published_at": DAY},
    {"id": "3", "body": "", "published_at": NEXT_DAY},
    {"id": "4", "body": "four", "published_at": "soon"},
]


def location(workspace: Workspace, kind: str) -> str:
    """The rows as a source."""
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    path = write(workspace, f"{kind}.jsonl", text + ("no json\n" if kind == "files" else ""))
    for day in (DAY, NEXT_DAY):
        write(workspace, f"{day}.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS if row["published_at"] == day))
    query = f"SELECT * FROM read_json('{path}', columns = {{id: 'VARCHAR', body: 'VARCHAR', published_at: 'VARCHAR'}})"
    if kind == "table":
        with workspace.database.writing() as connection:
            connection.execute(f"CREATE OR REPLACE TABLE feed AS {query}")
    return {
        "files": str(path),
        "partition": str(workspace.folder / "{partition}.jsonl"),
        "query": query,
        "$day": f"{query} WHERE try_cast(published_at AS DATE) = $day",
        "sql": str(write(workspace, "rows.sql", f"{query};")),
        "table": "table:feed",
    }[kind]


def rows(workspace: Workspace, name: str) -> list[list[tuple[Any, ...]]]:
    """The rows of a source, without its name."""
    return [
        workspace.rows(f"SELECT * EXCLUDE (source) FROM {each} WHERE source = ? ORDER BY ALL", [name])
        for each in TABLES
    ]


def ingest(workspace: Workspace, source: Source, day: str = DAY, **options: Any) -> Ingested:
    return ingest_day(workspace.database, source=source, day=day, **options)


@KINDS
@pytest.mark.parametrize("other_kind", ["files", "table"])
def test_sources_with_the_same_rows_are_apart(workspace: Workspace, kind: str, other_kind: str) -> None:
    other = Source(location(workspace, other_kind), max_malformed_share=1.0, name="other")
    source = Source(location(workspace, kind), max_malformed_share=1.0, name="news/wire")
    for day in (DAY, NEXT_DAY):
        ingest(workspace, other, day)
    with workspace.database.writing() as connection:
        connection.execute("INSERT INTO pruned_day (source, partition_date) VALUES ('other', ?)", [DAY])
    of_other = rows(workspace, "other")
    assert [len(found) for found in of_other] == [2, 4 if other_kind == "files" else 3, 1]
    first: list[Ingested] = []
    for _ in range(2):
        found = [ingest(workspace, source, day) for day in (DAY, NEXT_DAY)]
        assert [(each.articles, sum(each.rejected.values())) for each in found] == [(1, 1), (1, 1)]
        assert [each.articles_before for each in found] == ([1, 1] if first else [0, 0])
        first = found
        assert rows(workspace, "other") == of_other
    of_source = rows(workspace, "news/wire")
    assert of_source[0] == of_other[0]
    with read_source(workspace.database, other, [DAY, NEXT_DAY]) as days:
        days.replace_day(NEXT_DAY)
        days.replace_day(DAY)
    assert rows(workspace, "other") == [*of_other[:2], []]
    assert rows(workspace, "news/wire") == of_source


@KINDS
def test_a_source_without_a_name_is_raw_articles(workspace: Workspace, kind: str) -> None:
    ingest(workspace, Source(location(workspace, kind), max_malformed_share=1.0))
    assert workspace.column("SELECT DISTINCT source FROM raw_articles") == ["raw_articles"]
    assert workspace.column("SELECT DISTINCT source FROM rejected_article") == ["raw_articles"]


def test_articles_of_another_source_do_not_keep_an_empty_day(workspace: Workspace) -> None:
    """Nor does the day of another source become empty."""
    name = location(workspace, "files")
    ingest(workspace, Source(name, max_malformed_share=1.0, name="other"))
    empty = Source(str(write(workspace, "empty.jsonl", "")), name="wire")
    found = ingest(workspace, empty, keep_if_empty=True)
    assert (found.is_kept, found.articles_before) == (False, 0)
    assert len(rows(workspace, "other")[0]) == 1
    ingest(workspace, Source(name, max_malformed_share=1.0, name="wire"))
    found = ingest(workspace, empty, keep_if_empty=True)
    assert (found.is_kept, found.articles_before) == (True, 1)
    ingest(workspace, empty)
    assert [len(rows(workspace, each)[0]) for each in ("wire", "other")] == [0, 1]


def test_a_source_that_is_refused_changes_no_other(workspace: Workspace) -> None:
    """Its malformed rows are recorded, as its own."""
    path = Path(location(workspace, "files"))
    ingest(workspace, Source(str(path), max_malformed_share=1.0, name="other"))
    of_other = rows(workspace, "other")
    path.write_text("no json\n" + path.read_text())
    with pytest.raises(SourceError, match="2 of 7 rows are malformed"):
        ingest(workspace, Source(str(path), name="wire"))
    assert rows(workspace, "other") == of_other
    assert len(rows(workspace, "wire")[1]) == 3


@pytest.mark.parametrize("name", ['it\'s "x"; DROP TABLE raw_articles; --', "", "é/漢字"])
def test_a_name_may_be_any_text(workspace: Workspace, name: str) -> None:
    ingest(workspace, Source(location(workspace, "table"), name=name))
    assert [len(found) for found in rows(workspace, name)] == [1, 2, 0]
