"""Sources that are queries: what selects the day, and what an error says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from batch_assets.batching.ingest.articles import Ingested, SourceError, ingest_day
from batch_assets.batching.ingest.source import Source
from batch_assets_tests.batching.conftest import DAY, Workspace


def ingest(workspace: Workspace, location: str, **columns: str) -> Ingested:
    return ingest_day(workspace.database, source=Source(location, columns), day=DAY)


def wrapped(folder: Path, number: int, item: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{number:02}.json").write_text(json.dumps({"status": "ok", "items": [item]}, indent=2))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_json('{folder}/{{partition}}.jsonl')",
        "SELECT * FROM read_json('{folder}/' || $day || '.jsonl')",
        "CREATE VIEW day AS FROM read_json('{folder}/{{partition}}.jsonl');\nFROM day;\n",
    ],
)
def test_a_sql_file_may_have_the_day_in_it(workspace: Workspace, statement: str) -> None:
    source = workspace.source(f"{DAY}.jsonl", [{"id": "1", "body": "A text."}])
    query = workspace.folder / "articles.sql"
    query.write_text(statement.format(folder=source.parent))
    assert ingest(workspace, str(query)).articles == 1


@pytest.mark.parametrize("name", ["query", "articles.sql"])
def test_files_that_a_query_does_not_find_are_named(workspace: Workspace, name: str) -> None:
    location = statement = f"FROM read_json('{workspace.folder}/none/*.jsonl')"
    if name != "query":
        location = str(workspace.folder / name)
        Path(location).write_text(statement)
    with pytest.raises(SourceError, match=r"No files found.*none/\*\.jsonl") as error:
        ingest(workspace, location)
    assert "where there is no file" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("location", ["SELECT 'A text.' AS body", "table:batch_request"])
def test_the_remedy_for_a_query_without_a_time_is_one_for_queries(workspace: Workspace, location: str) -> None:
    with pytest.raises(SourceError, match=r"no column `published_at`.*\$day") as error:
        ingest(workspace, location, body="custom_id" if location.startswith("table:") else "body")
    assert "{partition}" not in str(error.value)
    assert len(str(error.value)) < 600


def test_the_query_that_the_error_recommends_for_a_list_of_rows_loses_and_changes_nothing(workspace: Workspace) -> None:
    """With types of its own choice, DuckDB writes ids in lower case, and forgets a key that only a later file has."""
    folder = workspace.folder / "wrapped"
    for number in range(40):  # DuckDB looks at the first 32 to know the keys
        item = {"id": f"A080F99A-07D9-47D1-8244-26A5400000{number:02}", "title": f"2026-1-{number % 9 + 1}"}
        wrapped(folder, number, {**item, "text" if number == 39 else "html": f"Text {number}."})
    with pytest.raises(SourceError, match="the list `items`") as error:
        ingest(workspace, f"{folder}/*.json")
    assert len(str(error.value)) < 600
    found = re.search(r"the query (SELECT .*\}\)),", str(error.value))
    assert found is not None
    query = f"{found[1].replace('…', f'{folder}/*.json')} WHERE $day IS NOT NULL"
    assert ingest(workspace, query, id="item.id", title="item.title", body="item.text").articles == 1
    assert workspace.rows("SELECT article_id, title, body FROM raw_articles") == [
        ("A080F99A-07D9-47D1-8244-26A540000039", "2026-1-4", "Text 39.")
    ]
    assert ingest(workspace, query, id="item.id", title="item.title", body="item.html").articles == 39
