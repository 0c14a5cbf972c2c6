"""Rows of another source in the same warehouse, which reading a source must not change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batch_assets_tests.batching.conftest import Workspace

OTHER = "other"


def add_other_source(workspace: Workspace, folder: Path, days: Sequence[str]) -> None:
    """Add an article and rejected rows of each day, and rows without a day: one of each file of the folder, as if both
    sources read it, and one of no file, as queries and tables have.
    """
    of_day = "source, partition_date, article_id, body"
    with workspace.database.writing() as connection:
        for day in days:
            connection.execute(f"INSERT INTO raw_articles ({of_day}) VALUES (?, ?, '1', 'x')", [OTHER, day])
            connection.execute(
                f"INSERT INTO rejected_article ({of_day}, reason) VALUES (?, ?, '1', 'x', 'duplicate_id')", [OTHER, day]
            )
            connection.execute("INSERT INTO pruned_day (source, partition_date) VALUES (?, ?)", [OTHER, day])
        for file in (None, *map(str, folder.iterdir())):
            connection.execute(
                "INSERT INTO rejected_article (source, source_file, source_row, reason) VALUES (?, ?, 1, 'undated')",
                [OTHER, file],
            )


def rows_of_other_source(workspace: Workspace) -> list[list[tuple[Any, ...]]]:
    tables = ("raw_articles", "rejected_article", "pruned_day")
    return [workspace.rows(f"FROM {table} WHERE source = ? ORDER BY ALL", [OTHER]) for table in tables]
