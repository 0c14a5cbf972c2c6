"""Of several rows with one id, the newest counts; the others are counted and kept in `rejected_article`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace
from batch_assets_tests.batching.ingest.support import HEADER, read, rejected, texts, write

EARLY, NOON, LATE = (f"{DAY}T{hour}:00:00Z" for hour in ("06", "12", "18"))


def row(body: str, time: str, **more: Any) -> str:
    return json.dumps({"id": "x", "body": body, "published_at": time, **more}) + "\n"


@pytest.mark.parametrize(
    ("rows", "by_time", "by_order"),
    [
        ([row("old", EARLY), row("new", LATE)], "new", "new"),
        ([row("new", LATE), row("old", EARLY)], "new", "old"),
        ([row("first", DAY), row("second", DAY)], "second", "second"),
        ([row("first", NOON), row("corrected", NOON), row("old", EARLY)], "corrected", "old"),
        ([row("text", EARLY), row(" ", LATE)], "text", "text"),
        ([row("text", EARLY), row("", NOON), row("of noon", f"{DAY} 13:00+01:00")], "of noon", "of noon"),
    ],
)
def test_the_newest_row_with_a_text_counts(workspace: Workspace, rows: list[str], by_time: str, by_order: str) -> None:
    source = write(workspace, "wire.jsonl", "".join(rows))
    found = read(workspace, source)
    assert texts(workspace) == {"x": by_time}
    assert sum(found.rejected.values()) == len(rows) - 1
    assert len(rejected(workspace)) == len(rows) - 1
    assert read(workspace, source, newest_by="order").rejected == found.rejected
    assert texts(workspace) == {"x": by_order}


def test_of_several_files_the_last_by_name_counts(workspace: Workspace) -> None:
    for name, body in (("b", "corrected"), ("a", "first"), ("c", "first")):
        write(workspace, f"{name}.jsonl", row(body, DAY))
    assert read(workspace, workspace.folder / "*.jsonl").rejected == {"duplicate_id": 1, "older_version": 1}
    assert texts(workspace) == {"x": "first"}
    assert [(file, reason) for file, _, _, reason, _ in rejected(workspace)] == [
        ("a.jsonl", "duplicate_id"),
        ("b.jsonl", "older_version"),
    ]


def test_a_row_of_another_format_may_be_the_newest(workspace: Workspace) -> None:
    write(workspace, "feed.jsonl", row("from JSON", NOON))
    write(workspace, "feed.csv", f"{HEADER}x,,from CSV,,{LATE}\n")
    read(workspace, workspace.folder / "feed.*")
    assert texts(workspace) == {"x": "from CSV"}


@pytest.mark.parametrize(
    ("older", "reason"),
    [
        ({}, "duplicate_id"),
        ({"title": "Another title"}, "older_version"),
        ({"url": "https://x.org/2"}, "older_version"),
        ({"body": "text "}, "older_version"),
        ({"note": "not an article's column"}, "duplicate_id"),
    ],
)
def test_a_version_differs_in_title_text_or_url(workspace: Workspace, older: dict[str, str], reason: str) -> None:
    rows = [{"id": "x", "body": "text", "title": "T", "url": "https://x.org/1", "published_at": DAY}] * 2
    content = "".join(json.dumps(entry) + "\n" for entry in ({**rows[0], **older}, rows[1]))
    assert read(workspace, write(workspace, "a.jsonl", content)).rejected == {reason: 1}


def test_a_correction_of_another_day_is_an_article_of_that_day(workspace: Workspace) -> None:
    source = write(workspace, "a.jsonl", row("first", DAY) + row("corrected", NEXT_DAY))
    assert not read(workspace, source).rejected
    assert not read(workspace, source, day=NEXT_DAY).rejected
    assert (texts(workspace), texts(workspace, day=NEXT_DAY)) == ({"x": "first"}, {"x": "corrected"})


def test_ids_of_two_feeds_are_counted_and_a_query_tells_them_apart(workspace: Workspace) -> None:
    for feed in ("one", "two", "three"):
        write(workspace, f"{feed}.csv", f"{HEADER}" + "".join(f"{n},,{feed} {n},,{DAY}\n" for n in range(1, 5)))
    files = workspace.folder / "*.csv"
    found = read(workspace, files)
    assert (found.articles, found.rejected, found.in_several_files) == (4, {"older_version": 8}, 4)
    query = (
        f"SELECT parse_filename(filename) || '#' || id AS id, * EXCLUDE (id) FROM read_csv('{files}', filename = true)"
    )
    found = read(workspace, query)
    assert (found.articles, found.rejected, found.in_several_files) == (12, {}, 0)
    assert texts(workspace)["two.csv#3"] == "two 3"
