"""Times as feeds and exports have them: read exactly, or the row is set aside as undated and counted."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace
from batch_assets_tests.batching.ingest.support import read, refusal, rejected, texts, write

BEFORE = "2026-11-19"
DAY_OF: dict[str, str] = {
    DAY: DAY,
    f" {DAY} ": DAY,
    f"{DAY}T00:00:00Z": DAY,
    f"{DAY}t00:00:00z": DAY,
    f"{DAY}T23:59:59.999999999Z": DAY,
    f"{DAY} 23:59": DAY,
    f"{DAY}T23:30:00-05:00": NEXT_DAY,
    f"{DAY}T23:30:00-0500": NEXT_DAY,
    f"{DAY}T23:30:00 -05": NEXT_DAY,
    f"{DAY} 00:30:00+01": BEFORE,
    f"{DAY}T00:30:00+01:00[Europe/Paris]": BEFORE,
    f"{DAY} 12:00:00 UTC": DAY,
    "2026/11/20": DAY,
    "2026/11/20 12:00:00": DAY,
    "2026-11-20T12:00:00.5Z": DAY,
    "20261120": DAY,
    "20261120T120000Z": DAY,
    "20261120120000": DAY,
    "1795132800": DAY,
    "1795132799": BEFORE,
    "1795132800000": DAY,
    "1795132800000000": DAY,
    "1795132800000000000": DAY,
    "1795132800.5": DAY,
    "1.7951328e9": DAY,
    "Fri, 20 Nov 2026 08:00:00 GMT": DAY,
    "Fri, 20 Nov 2026 23:30:00 EST": NEXT_DAY,
    "20 Nov 2026 23:30:00 -0500": NEXT_DAY,
    "Fri, 20 Nov 26 08:00:00 +0000": DAY,
    "20 November 2026": DAY,
    "November 20, 2026": DAY,
    "Nov 20, 2026": DAY,
    "Fri Nov 20 08:00:00 2026": DAY,
    "Fri Nov 20 23:30:00 -0500 2026": NEXT_DAY,
}
NO_TIME = [
    "",
    "  ",
    "n/a",
    "soon",
    "yesterday",
    "11/20/26",
    "20/11/2026",
    "11/20/2026",
    "2026",
    "2026-11",
    "2026-02-30",
    "2026-13-01",
    "26-11-20",
    "0001-01-01",
    "0000-00-00 00:00:00",
    "1899-12-31",
    "2199-01-01",
    "infinity",
    "-infinity",
    "epoch",
    "now",
    "0",
    "-1",
    "5",
    "45981",
    "12:00",
    f"{DAY}T25:00:00Z",
    f"{DAY}T12:00:00 BST",
    f"{DAY}T12:00:00 Mars/Base",
    f"{DAY} and more",
    "Fri, 31 Nov 2026 08:00:00 GMT",
    "NaN",
    "[]",
    "x" * 5_000,
]


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_the_day_of_each_way_to_write_a_time(workspace: Workspace, format: str) -> None:
    rows = [(str(number), time) for number, time in enumerate([*DAY_OF, *NO_TIME])]
    if format == "csv":
        content = "id,body,published_at\n" + "".join(f'{number},x,"{time}"\n' for number, time in rows)
    else:
        content = "".join(json.dumps({"id": number, "body": "x", "published_at": time}) + "\n" for number, time in rows)
    path = write(workspace, f"a.{format}", content)
    found: dict[str, str] = {}
    for day in (BEFORE, DAY, NEXT_DAY):
        assert read(workspace, path, day=day).undated == len(NO_TIME)
        found |= dict.fromkeys(texts(workspace, day=day), day)
    assert {time: found[number] for number, time in rows if number in found} == DAY_OF
    first = 2 if format == "csv" else 1
    assert rejected(workspace) == [
        (f"a.{format}", number + 1, number + first, "undated", False) for number in range(len(DAY_OF), len(rows))
    ]


@pytest.mark.parametrize("value", [1795132800, 1795132800.0, 1795132800000, 1795132800.25, 20261120])
def test_a_time_may_be_a_number_of_json(workspace: Workspace, value: float) -> None:
    path = write(workspace, "a.jsonl", json.dumps({"id": "1", "body": "x", "published_at": value}))
    assert read(workspace, path).articles == 1


@pytest.mark.parametrize("value", ["{}", "[]", f'["{DAY}"]', "true", "null", "NaN", "1e300", "-1795132800"])
def test_a_value_that_is_no_time_is_counted(workspace: Workspace, value: str) -> None:
    good = json.dumps({"id": "1", "body": "x", "published_at": DAY})
    path = write(workspace, "a.jsonl", f'{good}\n{{"id": 2, "body": "y", "published_at": {value}}}\n')
    found = read(workspace, path)
    assert (found.articles, found.undated) == (1, 1)
    assert rejected(workspace) == [("a.jsonl", 2, 2, "undated", False)]


def test_tomorrow_is_a_time_and_the_day_after_is_none(workspace: Workspace) -> None:
    today = datetime.now(UTC).date()
    days = [str(today + timedelta(days=days)) for days in (1, 2)]
    rows = [{"id": day, "body": "x", "published_at": day} for day in days]
    path = write(workspace, "a.jsonl", "\n".join(map(json.dumps, rows)))
    found = read(workspace, path, day=days[0])
    assert (found.articles, found.undated) == (1, 1)


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_a_source_without_any_time_is_refused(workspace: Workspace, format: str) -> None:
    content = {"csv": "id,body,published_at\n1,x,01/05/26\n", "jsonl": '{"body": "x", "published_at": "01/05/26"}'}
    said = refusal(workspace, write(workspace, f"a.{format}", content[format]))
    assert "has 1 row, and none of them has a `published_at` that is a time" in said
