"""Several rows with one id: one of them counts, and the others are set aside with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace
from batch_assets_tests.batching.ingest.support import read, refusal, rejected, texts, write

MORNING, EVENING = f"{DAY}T08:00:00Z", f"{DAY}T20:00:00Z"


def feed(workspace: Workspace, name: str, *rows: tuple[Any, ...]) -> None:
    content = "".join(json.dumps(dict(zip(("id", "body", "published_at"), row, strict=True))) + "\n" for row in rows)
    write(workspace, name, content)


@pytest.mark.parametrize(
    ("newest_by", "first", "second", "text"),
    [
        ("published_at", MORNING, EVENING, "second"),
        ("published_at", EVENING, MORNING, "first"),
        ("published_at", MORNING, MORNING, "second"),
        ("order", EVENING, MORNING, "second"),
        ("order", MORNING, EVENING, "second"),
    ],
)
@pytest.mark.parametrize("files", [("a", "a"), ("a", "b"), ("b", "a")])
def test_the_newest_row_counts(
    workspace: Workspace, newest_by: Any, first: str, second: str, text: str, files: tuple[str, str]
) -> None:
    rows = [("1", "first", first), ("1", "second", second)]
    if files[0] == files[1]:
        feed(workspace, "a.jsonl", *rows)
    else:
        for name, row in zip(sorted(files), rows, strict=True):
            feed(workspace, f"{name}.jsonl", row)
    found = read(workspace, workspace.folder / "*.jsonl", newest_by=newest_by)
    assert texts(workspace) == {"1": text}
    assert found.rejected == {"older_version": 1}
    assert found.in_several_files == (0 if files[0] == files[1] else 1)


def test_equal_rows_are_duplicates_and_others_are_older_versions(workspace: Workspace) -> None:
    rows = [("1", "new", EVENING), ("1", "old", MORNING), ("1", "new", MORNING), ("1", "", EVENING), ("2", "x", DAY)]
    feed(workspace, "a.jsonl", *rows)
    found = read(workspace, workspace.folder / "a.jsonl")
    assert texts(workspace) == {"1": "new", "2": "x"}
    assert found.rejected == {"duplicate_id": 1, "empty_body": 1, "older_version": 1}
    assert [row[1:4] for row in rejected(workspace)] == [
        (2, 2, "older_version"),
        (3, 3, "duplicate_id"),
        (4, 4, "empty_body"),
    ]


def test_a_correction_of_another_day_belongs_to_that_day(workspace: Workspace) -> None:
    feed(workspace, "a.jsonl", ("1", "old", DAY), ("1", "new", NEXT_DAY))
    for day, text in ((DAY, "old"), (NEXT_DAY, "new")):
        assert read(workspace, workspace.folder / "a.jsonl", day=day).rejected == {}
        assert texts(workspace, day=day) == {"1": text}


def test_two_feeds_with_the_same_ids_are_counted(workspace: Workspace) -> None:
    for name in "abc":
        feed(workspace, f"{name}.jsonl", *((number, f"{name} {number}", DAY) for number in range(3)))
    found = read(workspace, workspace.folder / "*.jsonl")
    assert (found.articles, found.in_several_files, found.rejected) == (3, 3, {"older_version": 6})
    assert texts(workspace) == {str(number): f"c {number}" for number in range(3)}


@pytest.mark.parametrize(
    ("broken", "share", "is_refused"), [(1, 0.01, False), (2, 0.01, True), (2, 0.02, False), (1, 0.0, True)]
)
@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_the_share_of_malformed_rows_decides(
    workspace: Workspace, format: str, broken: int, share: float, is_refused: bool
) -> None:
    if format == "csv":
        rows = [f"{number},x{number},{DAY}" for number in range(100 - broken)]
        content = "\n".join(["id,body,published_at", *rows, *["broken"] * broken])
    else:
        rows = [json.dumps({"id": number, "body": f"x{number}", "published_at": DAY}) for number in range(100 - broken)]
        content = "\n".join([*rows, *["broken"] * broken])
    path = write(workspace, f"a.{format}", content)
    if is_refused:
        assert f"{broken} of 100 rows are malformed" in refusal(workspace, path, max_malformed_share=share)
    else:
        found = read(workspace, path, max_malformed_share=share)
        assert (found.articles, found.malformed) == (100 - broken, broken)
    assert len(rejected(workspace)) == broken


def test_reading_again_changes_nothing_and_other_days_keep_what_was_recorded(workspace: Workspace) -> None:
    for day in (DAY, NEXT_DAY):
        rows = [json.dumps({"id": "1", "body": f"of {day}"}), json.dumps({"id": "2", "body": ""}), "no json"]
        write(workspace, f"{day}.jsonl", "\n".join(rows))
    source = workspace.folder / "{partition}.jsonl"
    read(workspace, source, day=NEXT_DAY, max_malformed_share=1.0)
    of_next_day = workspace.rows("SELECT * FROM rejected_article ORDER BY ALL")
    for _ in range(3):
        read(workspace, source, max_malformed_share=1.0)
        tables = [workspace.rows(f"FROM {name} ORDER BY ALL") for name in ("raw_articles", "rejected_article")]
        assert [len(rows) for rows in tables] == [2, 4]
        assert set(of_next_day) <= set(tables[1])
    assert texts(workspace, day=NEXT_DAY) == {"1": f"of {NEXT_DAY}"}
