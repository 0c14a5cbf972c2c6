"""Public data sets in their real form, read with the settings that docs/sources.md gives; and its other examples."""

import csv
import gzip
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

import batch_assets
from batch_assets.batching.ingest.articles import Ingested, SourceError, ingest_day
from batch_assets.batching.ingest.source import Source
from batch_assets.batching.ingest.times import possible_time, time_of_text
from batch_assets.batching.ledger.schema import TABLES
from batch_assets.settings import read_settings
from batch_assets_tests.batching.conftest import Workspace

PAGE = (Path(batch_assets.__file__).parent.parent / "docs" / "sources.md").read_text(encoding="utf-8")
DAY = "2026-01-05"
SHA = "0054d6d30dbcad772e20b22771153a2a9cbeaf62"


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under this heading, without its header."""
    _, _, section = PAGE.partition(f"\n{heading}\n")
    rows = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert rows is not None
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in rows.group().splitlines()[2:]]


SETTINGS = {
    re.sub(r"\[([^\]]*)\]\(.*?\).*", r"\1", name): shlex.split(setting.strip("`"))
    for name, _, setting in table("## Eight public data sets, each with one setting")
}


def parquet(path: Path, columns: str, rows: Sequence[tuple[Any, ...]]) -> None:
    names = columns.split()
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE rows ({', '.join(f'{name} VARCHAR' for name in names)})")
        connection.executemany(f"INSERT INTO rows VALUES ({', '.join('?' for _ in names)})", rows)
        connection.execute(f"COPY rows TO '{path}' (FORMAT parquet)")


def cc_news(folder: Path) -> None:
    parquet(
        folder / "cc_news" / "train-00000-of-00001.parquet",
        "title text domain date description url image_url",
        [
            ("Port reopens", "The port reopened.", "x.org", "2026-01-05 00:00:00", "", "http://x.org/1", ""),
            ("Late", "Closed at night.", "x.org", "2026-01-05 23:59:59", "A text.", "http://x.org/2", "http://x.org/i"),
            ("No date", "When was it?", "x.org", "", "", "http://x.org/3", ""),
            ("Other day", "The port closed.", "x.org", "2026-01-04 10:00:00", "", "http://x.org/4", ""),
        ],
    )


def cnn_dailymail(folder: Path) -> None:
    parquet(
        folder / "cnn_dailymail" / "train-00000-of-00003.parquet",
        "article highlights id",
        [
            ("(CNN) -- The port reopened.", "It reopened .\nShips left .", SHA.replace("0054d6", "000064")),  # 100
            ("Ships are waiting.", "They wait .", SHA.replace("0054d6", "000001")),
            (" ", "Nothing .", SHA.replace("0054d6", "000000")),
        ],
    )


def signal_1m(folder: Path) -> None:
    rows = [
        {
            "id": f"a080f99a-07d9-47d1-8244-26a54001774{number}",
            "content": f"KUALA LUMPUR -- Text {number}.",
            "title": "Pay up",
            "media-type": media_type,
            "source": "My Sinchew",
            "published": published,
        }
        for number, (media_type, published) in enumerate(
            [("News", f"{DAY}T10:17:53Z"), ("Blog", f"{DAY}T00:00:00Z"), ("News", "2026-01-06T00:00:00Z")]
        )
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "signal" / "sample-1M.jsonl.gz").write_bytes(gzip.compress(lines.encode()))


def wordpress(folder: Path) -> None:
    def post(number: int, content: str, date_gmt: str) -> dict[str, Any]:
        return {
            "id": number,
            "date": "2026-01-06T01:00:00",
            "date_gmt": date_gmt,
            "guid": {"rendered": f"https://x.org/?p={number}"},
            "slug": f"post-{number}",
            "status": "publish",
            "link": f"https://x.org/post-{number}/",
            "title": {"rendered": f"Post &#8211; {number}"},
            "content": {"rendered": content, "protected": False},
            "excerpt": {"rendered": "<p>Excerpt.</p>\n", "protected": False},
            "author": 1,
            "sticky": False,
            "meta": [],
            "categories": [1],
        }

    posts = [
        post(1, "\n<p>The port reopened.</p>\n", f"{DAY}T11:46:53"),
        post(2, "", f"{DAY}T12:00:00"),
        post(3, "<p>Other.</p>", "2026-01-06T00:00:00"),
    ]
    (folder / "wordpress" / "page-1.json").write_text(json.dumps(posts).replace("/", "\\/"))
    (folder / "wordpress" / "page-2.json").write_text(json.dumps([post(4, "<p>Two.</p>", f"{DAY}T23:00:00")], indent=2))
    (folder / "wordpress" / "page-3.json").write_text("[]")


def news_api(folder: Path) -> None:
    def article(number: int, content: str | None, published: str) -> dict[str, Any]:
        return {
            "source": {"id": "wired" if number else None, "name": "Wired"},
            "author": None,
            "title": f"Title {number}",
            "description": "A description.",
            "url": f"https://x.org/{number}",
            "urlToImage": None,
            "publishedAt": published,
            "content": content,
        }

    pages = [
        [article(0, "The port… [+2013 chars]", f"{DAY}T12:19:00Z"), article(1, None, f"{DAY}T12:19:00Z")],
        [article(2, "Ships left.\r\nThey", f"{DAY}T00:00:01Z"), article(3, "Other.", "2026-01-04T23:59:59Z")],
    ]
    for number, articles in enumerate(pages):
        whole = {"status": "ok", "totalResults": 4, "articles": articles}
        (folder / "newsapi" / f"{number}.json").write_text(json.dumps(whole))
    error = {"status": "error", "code": "rateLimited", "message": "Too many requests"}
    (folder / "newsapi" / "error.json").write_text(json.dumps(error))


def json_feed(folder: Path) -> None:
    items: list[dict[str, Any]] = [
        {"id": "https://x.org/2", "content_text": "The port reopened.", "date_published": f"{DAY}T22:00:00-01:00"},
        {
            "id": "A080F99A-07D9-47D1-8244-26A540017740",
            "url": "https://x.org/1",
            "title": "2026-1-5",
            "content_html": "<p>Hello</p>",
            "content_text": None,
            "date_published": f"{DAY}T10:00:00Z",
            "authors": [{"name": "A"}],
            "attachments": [{"url": "https://x.org/a.ogg", "mime_type": "audio/ogg"}],
        },
        {"id": "3", "content_text": "Without a time."},
        {"id": "4", "content_text": "Next day.", "date_published": f"{DAY}T23:30:00-01:00"},
    ]
    feed = {"version": "https://jsonfeed.org/version/1.1", "title": "Feed", "home_page_url": "https://x.org/"}
    (folder / "json_feed" / "a.json").write_text(json.dumps({**feed, "items": items[:1]}))
    (folder / "json_feed" / "b.json").write_text(json.dumps({**feed, "items": items[1:]}, indent=2))
    (folder / "json_feed" / "empty.json").write_text(json.dumps({**feed, "items": []}))


def babel_briefings(folder: Path) -> None:
    def headline(number: int, content: str | None, published: str, **more: str) -> dict[str, Any]:
        return {
            "author": f"author#{number}",
            "title": f"Schlagzeile {number}",
            "description": None,
            "url": f"https://x.org/{number}",
            "urlToImage": None,
            "publishedAt": published,
            "content": content,
            "instances": [{"collectedAt": f"{DAY}T09:52:00Z", "location": "at", "category": "science"}],
            "source-id": None,
            "source-name": "x.org",
            "ID": number,
            **more,
            "language": "de",
        }

    german = [
        headline(4494273, "Der Hafen… [+4411 chars]", f"{DAY}T23:17:42Z", **{"en-title": "Headline"}),
        headline(4494274, None, f"{DAY}T01:20:00Z"),
    ]
    french = [headline(7103370, "Le port", f"{DAY}T01:20:00Z"), headline(7103371, "Autre", "2026-01-06T01:20:00Z")]
    (folder / "babel" / "babel-briefings-v1-at.json").write_text(json.dumps(german))
    (folder / "babel" / "babel-briefings-v1-fr.json").write_text(json.dumps(french))


def rss(folder: Path) -> None:
    with (folder / "rss" / "feed.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "link", "description", "pubDate", "guid"])
        writer.writerow(
            ["One", "https://x.org/1", 'All about <b>#harbour</b>, "again"', "Mon, 05 Jan 2026 08:00:00 GMT", "1"]
        )
        writer.writerow(["Two", "https://x.org/2", "Two\nlines", "Mon, 05 Jan 2026 23:30:00 -0500", "#2"])
        writer.writerow(["Three", "https://x.org/3", "Three", "Mon, 5 Jan 2026 00:30 EST", "3"])
        writer.writerow(["Four", "https://x.org/4", "Four", "yesterday", "4"])


@dataclass(frozen=True)
class Shape:
    """A data set: what writes it, and what becomes of its rows on DAY; the others are rows of other days."""

    write: Callable[[Path], None]
    articles: Mapping[str, str]  # id → body; for rows without an id, title → body
    rejected: Mapping[str | None, str]  # title → reason
    other_days: int


SHAPES = {
    "CC-News": Shape(
        cc_news, {"Port reopens": "The port reopened.", "Late": "Closed at night."}, {None: "undated"}, other_days=1
    ),
    "CNN/DailyMail": Shape(
        cnn_dailymail,
        {SHA.replace("0054d6", "000064"): "(CNN) -- The port reopened."},
        {None: "empty_body"},
        other_days=1,
    ),
    "Signal-1M": Shape(
        signal_1m,
        {
            "a080f99a-07d9-47d1-8244-26a540017740": "KUALA LUMPUR -- Text 0.",
            "a080f99a-07d9-47d1-8244-26a540017741": "KUALA LUMPUR -- Text 1.",
        },
        {},
        other_days=1,
    ),
    "WordPress REST API": Shape(
        wordpress,
        {"1": "\n<p>The port reopened.</p>\n", "4": "<p>Two.</p>"},
        {"Post &#8211; 2": "empty_body"},
        other_days=1,
    ),
    "NewsAPI": Shape(
        news_api,
        {"https://x.org/0": "The port… [+2013 chars]", "https://x.org/2": "Ships left.\r\nThey"},
        {"Title 1": "empty_body"},
        other_days=1,
    ),
    "JSON Feed": Shape(
        json_feed,
        {"https://x.org/2": "The port reopened.", "A080F99A-07D9-47D1-8244-26A540017740": "<p>Hello</p>"},
        {None: "undated"},
        other_days=1,
    ),
    "babel-briefings": Shape(
        babel_briefings,
        {"4494273": "Der Hafen… [+4411 chars]", "7103370": "Le port"},
        {"Schlagzeile 4494274": "empty_body"},
        other_days=1,
    ),
    "an export of RSS items": Shape(
        rss,
        {"1": 'All about <b>#harbour</b>, "again"', "3": "Three"},
        {None: "undated"},
        other_days=1,
    ),
}
ROWS = {"CC-News": 4, "CNN/DailyMail": 3, "Signal-1M": 3, "WordPress REST API": 4, "NewsAPI": 4, "JSON Feed": 4}
ROWS |= {"babel-briefings": 4, "an export of RSS items": 4}


def source_of(settings: Sequence[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """What the environment variables say, with /data in this folder."""
    for setting in settings:
        name, _, value = setting.partition("=")
        monkeypatch.setenv(name, value.replace("/data/", f"{folder}/"))
    read = read_settings()
    return Source(read.source, read.columns)


def test_the_page_has_one_setting_for_each_data_set() -> None:
    assert set(SETTINGS) == set(SHAPES)
    for settings in SETTINGS.values():
        names = [setting.partition("=")[0] for setting in settings]
        # a query, or a path with the names of its columns
        is_query = settings[0].startswith("BATCH_ASSETS_SOURCE=SELECT")
        assert names == (["BATCH_ASSETS_SOURCE"] if is_query else ["BATCH_ASSETS_SOURCE", "BATCH_ASSETS_COLUMNS"])


@pytest.mark.parametrize("name", SHAPES)
def test_every_row_of_the_data_set_is_accounted_for(
    workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, settings = SHAPES[name], SETTINGS[name]
    for folder in ("cc_news", "cnn_dailymail", "signal", "wordpress", "newsapi", "json_feed", "babel", "rss"):
        (workspace.folder / folder).mkdir()
    shape.write(workspace.folder)
    source = source_of(settings, workspace.folder, monkeypatch)
    ingested = ingest_day(workspace.database, source=source, day=DAY)
    has_ids = name != "CC-News"
    found = workspace.rows(f"SELECT {'article_id' if has_ids else 'title'}, body FROM raw_articles")
    assert dict(found) == shape.articles
    assert ingested.articles == len(shape.articles)
    rejected = workspace.rows("SELECT title, reason, source_file FROM rejected_article")
    assert {title: reason for title, reason, _ in rejected} == shape.rejected
    assert len(rejected) == len(shape.rejected)
    if name != "CNN/DailyMail":  # whose query selects no file
        assert all(Path(file).is_relative_to(workspace.folder) for _, _, file in rejected)
    assert ingested.malformed == 0
    assert len(found) + len(rejected) + shape.other_days == ROWS[name]


def test_a_data_set_without_a_time_is_spread_over_its_days(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.folder / "cnn_dailymail").mkdir()
    cnn_dailymail(workspace.folder)
    source = source_of(SETTINGS["CNN/DailyMail"], workspace.folder, monkeypatch)
    articles = [
        ingest_day(workspace.database, source=source, day=day).articles for day in (DAY, "2026-01-06", "2026-01-07")
    ]
    assert articles == [1, 1, 0]


def test_the_sql_file_of_the_page_reads_another_database(workspace: Workspace) -> None:
    example = re.search(r"```sql\n(-- /data/news\.sql.*?)```", PAGE, re.DOTALL)
    assert example is not None
    query = workspace.folder / "news.sql"
    query.write_text(example[1].replace("/data/", f"{workspace.folder}/"))
    with duckdb.connect(str(workspace.folder / "news.duckdb")) as news:
        news.execute("CREATE TABLE article (id INT, headline TEXT, story TEXT, link TEXT, sent_at TIMESTAMP)")
        news.execute(
            "INSERT INTO article VALUES (1, 'A', 'Text.', 'https://x.org', '2026-01-05 23:59:59'), "
            "(2, 'B', 'Text 2.', NULL, '2026-01-06'), (3, 'C', NULL, NULL, '2026-01-05')"
        )
    ingested = ingest_day(workspace.database, source=str(query), day=DAY)
    assert (ingested.articles, dict(ingested.rejected)) == (1, {"empty_body": 1})


def exported() -> list[str]:
    """The values of BATCH_ASSETS_SOURCE in the other examples of the page."""
    return [shlex.split(line)[0].partition("=")[2] for line in re.findall(r"export (BATCH_ASSETS_SOURCE=.*)", PAGE)]


@pytest.mark.parametrize("location", [text for text in exported() if "://" not in text])
def test_the_other_queries_of_the_page_run(workspace: Workspace, location: str) -> None:
    values = "'1' AS id, 'T' AS headline, 'Text.' AS story, '<p>Text.</p>' AS body"
    columns = f"SELECT {values}, TIMESTAMP '2026-01-05 08:00' AS sent_at"
    for folder in ("wire", "feeds", "tagged"):
        (workspace.folder / folder).mkdir()
    with duckdb.connect() as connection:
        for path in ("wire/a.parquet", "feeds.parquet"):
            connection.execute(f"COPY ({columns}) TO '{workspace.folder}/{path}'")
        for path in ("feeds/a.csv", "feeds/b.csv", "tagged/a.parquet"):
            connection.execute(f"COPY ({columns}, sent_at AS published_at) TO '{workspace.folder}/{path}'")
    location = location.replace("/data/", f"{workspace.folder}/")
    assert ingest_day(workspace.database, source=location, day=DAY).articles == (2 if "filename" in location else 1)
    if "tagged" in location:
        assert workspace.rows("SELECT trim(body) FROM raw_articles") == [("Text.",)]


def times(heading: str, row: int) -> list[str]:
    return [time for cells in table(heading) for time in re.findall(r"`([^`]+)`", cells[row])]


def test_the_times_of_the_page_are_read_and_the_others_are_not() -> None:
    read = times("### Times", 1)
    _, _, section = PAGE.partition("| is not read |")
    refused = [
        time
        for line in section.split("\n\n")[0].splitlines()[2:]
        for time in re.findall(r"`([^`]+)`", line.split("|")[1])
    ]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        bounded = possible_time("time", datetime(2026, 3, 1, tzinfo=UTC))
        for texts, is_read in ((read, True), (refused, False)):
            assert len(texts) > 8
            for text in texts:
                [(time,)] = connection.execute(
                    f"SELECT {bounded} FROM (SELECT {time_of_text('text')} AS time FROM (SELECT ? AS text))", [text]
                ).fetchall()
                assert (time is not None) is is_read, text
                assert time is None or time.date().isoformat() == DAY


def test_the_page_names_every_reason() -> None:
    reasons = {cells[0].strip("`") for cells in table("## Rows that are no article")}
    comment = re.search(r"reason VARCHAR NOT NULL, +-- (.*)", TABLES["rejected_article"])
    assert comment is not None
    assert reasons == set(re.findall(r"\w+", comment[1]))


@pytest.mark.parametrize("ending", [".jsonl.zst", ".csv.zst", ".parq", ".ndjson.gz"])
def test_each_ending_of_the_page_is_read(workspace: Workspace, ending: str) -> None:
    path = workspace.folder / f"rows{ending}"
    kind = "csv" if "csv" in ending else "parquet" if "parq" in ending else "json"
    compression = (
        ", COMPRESSION zstd" if ending.endswith("zst") else ", COMPRESSION gzip" if ending.endswith("gz") else ""
    )
    header = ", HEADER" if kind == "csv" else ""
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT '007' AS id, 'Text.' AS body, '{DAY}' AS published_at) TO '{path}' "
            f"(FORMAT {kind}{compression}{header})"
        )
    assert ingest_day(workspace.database, source=str(path), day=DAY) == Ingested(articles=1, files=1)
    assert workspace.rows("SELECT article_id FROM raw_articles") == [("007",)]


def test_a_list_of_rows_without_its_query_is_refused_with_the_remedy(workspace: Workspace) -> None:
    (workspace.folder / "json_feed").mkdir()
    json_feed(workspace.folder)
    with pytest.raises(SourceError, match=r"unnest\(items\)"):
        ingest_day(workspace.database, source=f"{workspace.folder}/json_feed/*.json", day=DAY)
