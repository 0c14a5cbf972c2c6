"""Steps of the tests of sources: write a file, read it, look at the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from batch_assets.batching.ingest.articles import Ingested, SourceError, ingest_day
from batch_assets.batching.ingest.source import Source
from batch_assets_tests.batching.conftest import DAY, Workspace

MAX_MESSAGE = 620
HEADER = "id,title,body,url,published_at\n"


def write(workspace: Workspace, name: str, content: str | bytes) -> Path:
    path = workspace.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_parquet(workspace: Workspace, name: str, select: str) -> Path:
    path = workspace.folder / name
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"COPY ({select}) TO '{path}' (FORMAT parquet)")
    return path


def read(workspace: Workspace, location: object, *, day: str = DAY, **options: Any) -> Ingested:
    return ingest_day(workspace.database, source=Source(str(location), **options), day=day)


def refusal(workspace: Workspace, location: object, *, day: str = DAY, **options: Any) -> str:
    """The message of the error. The day keeps the articles that it had."""
    before = articles(workspace, day=day)
    with pytest.raises(SourceError) as raised:
        read(workspace, location, day=day, **options)
    message = str(raised.value)
    assert len(message) <= MAX_MESSAGE
    assert articles(workspace, day=day) == before
    return message


def articles(workspace: Workspace, *, day: str = DAY) -> list[tuple[Any, ...]]:
    """id, title, body, url; by id."""
    return workspace.rows(
        "SELECT article_id, title, body, url FROM raw_articles WHERE partition_date = ? ORDER BY ALL", [day]
    )


def texts(workspace: Workspace, *, day: str = DAY) -> dict[str, str]:
    """The bodies, by id."""
    return {row[0]: row[2] for row in articles(workspace, day=day)}


def rejected(workspace: Workspace) -> list[tuple[Any, ...]]:
    """The name of the file, the row, the line, the reason, and whether it belongs to a day; by file and line."""
    return workspace.rows(
        "SELECT parse_filename(source_file), source_row, source_line, reason, partition_date IS NOT NULL"
        " FROM rejected_article ORDER BY source_file, source_line, source_row"
    )
