"""The bundled stream of articles and pictures: each day has some, without end, and the first five days never change."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import pytest

from batch_assets.settings import SAMPLE, SAMPLE_FIRST_DAY
from batch_assets_tests.batching.conftest import Workspace
from batch_assets_tests.batching.ingest.support import articles, read

FIRST = date.fromisoformat(SAMPLE_FIRST_DAY)
ROWS = "SELECT * EXCLUDE (source) FROM raw_articles WHERE partition_date = ? ORDER BY article_id"
REASONS = """
    SELECT parse_filename(source_file), source_row IS NOT NULL, reason FROM rejected_article
    WHERE partition_date = ? ORDER BY ALL
"""


def day_of(number: int) -> str:
    return (FIRST + timedelta(days=number)).isoformat()


@pytest.mark.parametrize("number", range(5))
def test_the_first_five_days_are_those_of_the_file(workspace: Workspace, number: int) -> None:
    day, found = day_of(number), []
    for location in (SAMPLE.with_suffix(".jsonl"), SAMPLE):
        assert read(workspace, location, day=day).articles >= 3
        found.append((workspace.rows(ROWS, [day]), workspace.rows(REASONS, [day])))
    assert found[0] == found[1]


@pytest.mark.parametrize("later", [5, 40])
def test_a_later_day_has_the_articles_of_a_day_of_the_file_with_other_texts(workspace: Workspace, later: int) -> None:
    for number in range(5):
        first_day, day = day_of(number), day_of(number + later)
        for one in (first_day, day):
            read(workspace, SAMPLE, day=one)
        first, moved = articles(workspace, day=first_day), articles(workspace, day=day)
        ending = f"\n\nFirst published on {date.fromisoformat(day):%-d %B %Y}."
        # without the ids: one article has none, and its text determines the id
        assert {row[1:] for row in moved} == {(title, body + ending, url) for _, title, body, url in first}
        assert workspace.rows(REASONS, [day]) == workspace.rows(REASONS, [first_day])
        times = "SELECT published_at FROM raw_articles WHERE partition_date = ? ORDER BY published_at, url"
        pairs = zip(workspace.rows(times, [first_day]), workspace.rows(times, [day]), strict=True)
        assert {moved_at - first_at for [first_at], [moved_at] in pairs} == {timedelta(days=later)}


def test_there_are_no_articles_before_the_first_day(workspace: Workspace) -> None:
    assert read(workspace, SAMPLE, day=day_of(-5)).articles == 0


def test_each_day_has_the_pictures_and_a_text_is_never_the_same_on_two_days(workspace: Workspace) -> None:
    pictures = SAMPLE.with_name("pictures.sql")
    days = [day_of(number) for number in (0, 1, 5, 10, 100)]
    for day in days:
        read(workspace, SAMPLE, day=day)
        assert read(workspace, pictures, day=day, name="captions", extra=("picture",), needs_body=False).articles == 6
    bodies = [{body for _, _, body, _ in articles(workspace, day=day) if body} for day in days]
    assert all(one.isdisjoint(other) for one, other in pairwise(bodies))


def test_a_sql_file_finds_files_in_the_working_directory_and_then_beside_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace.folder / "queries"
    for place, body in ((folder, "beside"), (workspace.folder, "here")):
        place.mkdir(exist_ok=True)
        (place / "rows.csv").write_text(f"id,body\n1,{body}\n")
        monkeypatch.chdir(workspace.folder)
        source = folder / "source.sql"
        source.write_text("SELECT *, $day AS published_at FROM 'rows.csv'")
        read(workspace, source)
        assert [row[2] for row in articles(workspace)] == [body]
