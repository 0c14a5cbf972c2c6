"""Articles do not change and are not lost: "007" does not become 7, no row is dropped silently, the UTC date decides
about the day, and no text is executed as SQL."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_assets.batching.ingest.articles import Ingested, SourceError, ingest_day
from batch_assets.batching.ingest.errors import explain
from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace

COLUMNS = ("id", "title", "body", "url", "published_at")
ROWS: list[dict[str, str | None]] = [
    dict(zip(COLUMNS, values, strict=True))
    for values in (
        (
            "007",
            "Ünïcode — 漢字 🦆",
            'He said "no", twice;\nthen\tleft.\n\nIt\'s 5 | 6.',
            "https://x.org/?a=1&b=2",
            DAY,
        ),
        ("1e5", "NULL", "{title} {body} {{}} $1 %s \\n \\", None, f"{DAY}T23:59:59Z"),
        (" b ", None, "'; DROP TABLE raw_articles; --", "a,b", f"{DAY} 01:30:00+01:00"),
        ("true", "-", "مقال بالعربية \u200f. 日本語の記事。\u2028 A line separator.", None, f"{DAY}T12:00:00.5"),
    )
]
TABLE = [  # times in UTC, without zone
    ("007", ROWS[0]["title"], ROWS[0]["body"], ROWS[0]["url"], datetime.fromisoformat("2026-11-20")),
    ("1e5", "NULL", ROWS[1]["body"], None, datetime.fromisoformat("2026-11-20 23:59:59")),
    ("b", None, ROWS[2]["body"], "a,b", datetime.fromisoformat("2026-11-20 00:30")),
    ("true", "-", ROWS[3]["body"], None, datetime.fromisoformat("2026-11-20 12:00:00.500")),
]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def separated(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    text = StringIO()
    writer = csv.DictWriter(text, fieldnames=rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: list[dict[str, Any]], path: Path, types: str = "VARCHAR") -> None:
    columns = ", ".join(f"CAST(value ->> '{name}' AS {types}) AS {name}" for name in rows[0])
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE source AS SELECT unnest(?)::JSON AS value", [[json.dumps(row) for row in rows]]
        )
        connection.execute(f"COPY (SELECT {columns} FROM source) TO '{path}' (FORMAT parquet)")


WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.jsonl": lambda path: path.write_bytes(jsonl(ROWS)),
    "rows.ndjson": lambda path: path.write_bytes(b"\n" + jsonl(ROWS).replace(b"\n", b"\r\n").rstrip()),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(jsonl(ROWS))),
    "array.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "rows.csv": lambda path: path.write_bytes(separated(ROWS, ",")),
    "semicolons.csv": lambda path: path.write_bytes(separated(ROWS, ";")),
    "rows.csv.gz": lambda path: path.write_bytes(gzip.compress(separated(ROWS, ","))),
    "rows.tsv": lambda path: path.write_bytes(separated(ROWS, "\t")),
    "rows.parquet": lambda path: parquet(ROWS, path),
    "ROWS.JSONL": lambda path: path.write_bytes(jsonl(ROWS)),
}


def ingest(workspace: Workspace, source: Path | str, *, day: str = DAY) -> Ingested:
    return ingest_day(workspace.database, source=str(source), day=day)


def table(workspace: Workspace, *, day: str = DAY) -> list[tuple[Any, ...]]:
    return workspace.rows(
        "SELECT article_id, title, body, url, published_at FROM raw_articles WHERE partition_date = ?", [day]
    )


def rejected(workspace: Workspace) -> list[tuple[Any, ...]]:
    return workspace.rows("SELECT source_row, article_id, reason FROM rejected_article ORDER BY source_row")


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_table(workspace: Workspace, name: str) -> None:
    WRITERS[name](workspace.folder / name)
    assert ingest(workspace, workspace.folder / name) == Ingested(articles=4, files=1)
    assert table(workspace) == TABLE


def test_a_glob_reads_all_its_files_with_columns_in_any_order(workspace: Workspace) -> None:
    (workspace.folder / "a.csv").write_text(f"id,body,published_at\n1,one,{DAY}\n")
    (workspace.folder / "b.csv").write_text(f"body,published_at,id\ntwo,{DAY},2\n")
    assert ingest(workspace, workspace.folder / "*.csv") == Ingested(articles=2, files=2)
    assert [(row[0], row[2]) for row in table(workspace)] == [("1", "one"), ("2", "two")]


def test_a_partition_in_the_path_selects_the_day(workspace: Workspace) -> None:
    for day in (DAY, NEXT_DAY):
        workspace.source(f"{day}.jsonl", [{"id": day, "body": f"of {day}"}])
    source = workspace.folder / "sources" / "{partition}.jsonl"
    for day in (DAY, NEXT_DAY):
        assert ingest(workspace, source, day=day) == Ingested(articles=1, files=1)
        assert table(workspace, day=day) == [(day, None, f"of {day}", None, None)]


def test_with_a_partition_in_the_path_dates_do_not_matter(workspace: Workspace) -> None:
    dates = ["2001-01-01", "yesterday", None]
    rows = [{"body": f"text {number}", "published_at": date} for number, date in enumerate(dates)]
    assert workspace.ingest(rows) == Ingested(articles=3, files=1)
    assert [row[4] for row in table(workspace)] == [datetime.fromisoformat("2001-01-01"), None, None]


def test_the_utc_date_decides_about_the_day(workspace: Workspace) -> None:
    day_of = {
        "2026-11-20": "2026-11-20",
        "2026-11-20T00:00:00Z": "2026-11-20",
        "2026-11-20T23:59:59.999999Z": "2026-11-20",
        "2026-11-20T23:30:00-05:00": "2026-11-21",
        "2026-11-20T00:30:00+01:00": "2026-11-19",
        "2026-11-20 12:00:00": "2026-11-20",  # no zone: UTC
    }
    source = workspace.source("all.jsonl", [{"id": date, "body": "text", "published_at": date} for date in day_of])
    for day in set(day_of.values()):
        ingest(workspace, source, day=day)
    assert dict(workspace.rows("SELECT article_id, partition_date::VARCHAR FROM raw_articles")) == day_of


def test_the_time_zone_of_the_machine_does_not_matter(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    source = workspace.source("all.jsonl", [{"id": "x", "body": "text", "published_at": f"{DAY}T23:00:00"}])
    assert ingest(workspace, source).articles == 1


def test_parquet_may_have_typed_columns(workspace: Workspace) -> None:
    with duckdb.connect() as connection:
        connection.execute(
            f"""COPY (SELECT 7 AS id, 'text' AS body, TIMESTAMPTZ '2026-11-20 23:30:00-05:00' AS published_at)
            TO '{workspace.folder}/typed.parquet' (FORMAT parquet)"""
        )
    assert ingest(workspace, workspace.folder / "typed.parquet", day=NEXT_DAY).articles == 1
    assert table(workspace, day=NEXT_DAY) == [("7", None, "text", None, datetime.fromisoformat("2026-11-21 04:30"))]


def test_rows_without_a_date_are_counted(workspace: Workspace) -> None:
    dates = [DAY, NEXT_DAY, None, "soon", "", "2026-02-30", 5]
    source = workspace.source("all.jsonl", [{"body": f"text {date}", "published_at": date} for date in dates])
    assert ingest(workspace, source) == Ingested(articles=1, undated=5, files=1)


def test_a_source_without_any_readable_time_is_refused(workspace: Workspace) -> None:
    rows = [{"body": f"text {number}", "published_at": date} for number, date in enumerate(("01/05/26", "soon"))]
    source = workspace.source("all.jsonl", rows)
    with pytest.raises(SourceError, match=r"has 2 rows, and none of them has a `published_at` that is a time"):
        ingest(workspace, source)


def test_a_month_of_another_language_is_no_month(workspace: Workspace) -> None:
    """`marraskuuta` is November, and begins as March does. Its row is undated, not in the wrong day."""
    times = ("5 marraskuuta 2026", "20 November 2026", "20 Nov 2026", "20-NOV-26", "Fri, 20 Nov. 2026 08:00 CET")
    rows = [{"id": str(number), "body": "A text.", "published_at": time} for number, time in enumerate(times)]
    ingested = ingest(workspace, workspace.source("rows.jsonl", rows))
    assert (ingested.articles, ingested.undated) == (4, 1)


def test_column_names_are_found_in_any_case(workspace: Workspace) -> None:
    source = workspace.source("all.jsonl", [{"ID": "x", "Body": "text", "TITLE": "T", "Published_At": DAY}])
    ingest(workspace, source)
    (workspace.folder / "all.csv").write_text(f"Id,BODY,Title,PUBLISHED_AT\ny,text,T,{DAY}\n")
    assert [row[:3] for row in table(workspace)] == [("x", "T", "text")]
    ingest(workspace, workspace.folder / "all.csv")
    assert [row[:3] for row in table(workspace)] == [("y", "T", "text")]


def test_a_row_may_lack_columns_of_other_rows(workspace: Workspace) -> None:
    workspace.ingest([{"id": "1", "body": "a", "title": "T"}, {"body": "b", "id": "2", "extra": {"x": [1]}}])
    assert [row[:3] for row in table(workspace)] == [("1", "T", "a"), ("2", None, "b")]


def test_missing_ids_are_derived_from_the_text(workspace: Workspace) -> None:
    rows: list[dict[str, Any]] = [
        {"body": "a"},
        {"id": None, "body": "b"},
        {"id": "  ", "body": "c"},
        {"title": "a", "body": "c"},
        {"id": "own", "body": "a"},
    ]
    workspace.ingest(rows)
    first = [row[0] for row in table(workspace)]
    workspace.ingest(list(reversed(rows)), day=NEXT_DAY)
    second = [row[0] for row in table(workspace, day=NEXT_DAY)]
    assert first == list(reversed(second))
    assert len(set(first)) == 5
    assert first[4] == "own"


def test_the_same_text_without_id_is_one_article(workspace: Workspace) -> None:
    assert workspace.ingest([{"body": "a"}, {"body": "a"}]) == Ingested(
        articles=1, rejected={"duplicate_id": 1}, files=1
    )


EMPTY_BODIES = [
    None,
    "",
    " ",
    "\n\t\r\n",
    "\u00a0\u3000",
    "\u200b\u200d\ufeff",
    "\u2028\u2029",
    "\x00\x07",
    " \u200b \u00ad",
]


def test_bodies_without_a_readable_character_are_rejected(workspace: Workspace) -> None:
    rows = [{"id": str(number), "body": body} for number, body in enumerate(EMPTY_BODIES)]
    assert workspace.ingest([*rows, {"id": "good", "body": "."}]) == Ingested(
        articles=1, rejected={"empty_body": len(EMPTY_BODIES)}, files=1
    )
    assert rejected(workspace) == [(number + 1, str(number), "empty_body") for number in range(len(EMPTY_BODIES))]
    assert workspace.column("SELECT body FROM rejected_article ORDER BY source_row") == EMPTY_BODIES


def test_a_single_character_is_a_text(workspace: Workspace) -> None:
    bodies = ["0", "🦆", "।", "\u200bx", "null", "ا"]
    assert workspace.ingest({body: body for body in bodies}) == Ingested(articles=len(bodies), files=1)


def test_of_several_rows_with_one_id_the_last_with_a_text_counts(workspace: Workspace) -> None:
    rows = [
        {"id": "x", "body": "first"},
        {"id": "x", "body": "second"},
        {"id": "x", "body": "second"},
        {"id": "x", "body": ""},
        {"id": "y", "body": "z"},
    ]
    assert workspace.ingest(rows).articles == 2
    assert [row[2] for row in table(workspace)] == ["second", "z"]
    assert rejected(workspace) == [(1, "x", "older_version"), (2, "x", "duplicate_id"), (4, "x", "empty_body")]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"id": st.sampled_from(["1", "2", ""]), "body": st.sampled_from(["a", "b", "", None])}
        ),
        max_size=8,
    )
)
def test_no_row_is_lost(workspace: Workspace, rows: list[dict[str, str | None]]) -> None:
    marked = [{"body": None, **row, "url": f"row {number}"} for number, row in enumerate(rows)]
    found = workspace.ingest([*marked, {"id": "last", "body": "last"}])
    assert found.articles + sum(found.rejected.values()) == len(rows) + 1
    kept = workspace.column("SELECT url FROM raw_articles UNION ALL SELECT url FROM rejected_article")
    assert sorted(kept, key=str) == sorted([row["url"] for row in marked] + [None], key=str)


def test_reading_a_day_again_replaces_it_and_no_other(workspace: Workspace) -> None:
    workspace.ingest({"a": "old", "gone": "old", "empty": ""})
    workspace.ingest({"a": "other day", "empty": ""}, day=NEXT_DAY)
    workspace.ingest({"a": "new", "b": "new"})
    assert [row[:3] for row in table(workspace)] == [("a", None, "new"), ("b", None, "new")]
    assert [row[:3] for row in table(workspace, day=NEXT_DAY)] == [("a", None, "other day")]
    assert [str(day) for day in workspace.column("SELECT partition_date FROM rejected_article")] == [NEXT_DAY]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_quotes_count_in_any_row_of_a_file(workspace: Workspace, name: str) -> None:
    delimiter = "," if name == "rows.csv" else "\t"
    plain: list[dict[str, Any]] = [
        {"id": str(number), "body": "plain", "published_at": DAY} for number in range(25_000)
    ]
    last = {"id": "last", "body": 'a "quoted", text\nof two lines\tand more', "published_at": DAY}
    (workspace.folder / name).write_bytes(separated([*plain, last], delimiter))
    assert ingest(workspace, workspace.folder / name).articles == 25_001
    assert workspace.column("SELECT body FROM raw_articles WHERE article_id = 'last'") == [last["body"]]


def test_a_source_without_rows_is_a_day_without_articles(workspace: Workspace) -> None:
    workspace.ingest({"a": "old"})
    (workspace.folder / "empty.csv").write_text("id,body,published_at\n")
    assert ingest(workspace, workspace.folder / "empty.csv") == Ingested(articles=0, files=1, articles_before=1)
    assert table(workspace) == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"id": "1", "text": "x", "when": "y"}\n', "no column `body`.* id, text, when"),
        ("a.csv", "id,text,when\n1,x,y\n", "no column `body`.* id, text, when"),
        ("a.jsonl", '{"id": "1", "body": "x"}\n', "no column `published_at`.*{partition}"),
        ("a.xlsx", "", r"none of the kinds .*\.jsonl"),
        ("a", "", r"none of the kinds .*\.parquet"),
        ("a.jsonl", '{"body": "x", "published_at": "2026-11-20"}\n{"body": \n', r"a\.jsonl could not be read.*line \d"),
        ("a.jsonl", '{"body": "x", "published_at": "2026-11-20"}\nnot json\n', r"a\.jsonl could not be read.*line \d"),
        ("a.csv", "id,body,published_at\n1,x,2026-11-20,extra\n", r"a\.csv could not be read.*1 of 1 row.*line 2"),
        ("latin.csv", "id,body,published_at\n1,caf\udce9,2026-11-20\n", r"latin\.csv could not be read.*UTF-8"),
        ("a.parquet", "no parquet", r"a\.parquet could not be read"),
    ],
)
def test_a_source_that_cannot_be_read_raises_an_error_and_leaves_the_day(
    workspace: Workspace, name: str, content: str, words: str
) -> None:
    workspace.ingest({"kept": "text"})
    (workspace.folder / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(SourceError, match=f"(?s){words}") as raised:
        ingest(workspace, workspace.folder / name)
    assert str(workspace.folder / name) in str(raised.value)
    assert [row[0] for row in table(workspace)] == ["kept"]


@pytest.mark.parametrize("name", ["nowhere.jsonl", "no*.csv", "nowhere/{partition}.parquet"])
def test_the_error_names_a_source_that_does_not_exist(workspace: Workspace, name: str) -> None:
    with pytest.raises(SourceError, match="where there is no file") as raised:
        ingest(workspace, workspace.folder / name)
    assert name.replace("{partition}", DAY) in str(raised.value)


def test_no_text_of_a_source_is_executed_as_sql(workspace: Workspace) -> None:
    hostile = "'); DROP TABLE raw_articles; SELECT getvariable('day') || '\"{body}\" -- "
    row = {"id": hostile, "title": hostile, "body": hostile, "url": hostile, 'x"; DROP TABLE raw_articles; --': hostile}
    workspace.ingest({"other": "text"}, day=NEXT_DAY)
    workspace.ingest([row])
    assert table(workspace) == [(hostile.strip(), hostile, hostile, hostile, None)]
    assert len(table(workspace, day=NEXT_DAY)) == 1


def test_a_folder_may_have_any_name(workspace: Workspace) -> None:
    folder = workspace.folder / "it's; a {folder}"
    folder.mkdir()
    (folder / 'a "b".jsonl').write_bytes(jsonl(ROWS))
    assert ingest(workspace, folder / 'a "b".jsonl').articles == 4


@pytest.mark.parametrize(
    "url_in_error",
    ["https://me:SECRET@x.org/a.csv?sig=SECRET", "https://x.org:443/a.csv?sig=SECRET", "me:SECRET@x.org"],
)
def test_errors_have_no_secrets_of_a_url_in_any_spelling(url_in_error: str) -> None:
    message = explain(duckdb.IOException(f"HTTP 403 on {url_in_error}"), "https://me:SECRET@x.org/a.csv?sig=SECRET")
    assert "HTTP 403" in message
    assert "SECRET" not in message
