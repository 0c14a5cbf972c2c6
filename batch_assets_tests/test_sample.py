"""The sample is the first input of a user, and it has the most unusual articles of all tests. Both must stay so."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pytest

from batch_assets.local_api.engines.extractive import summarise

SAMPLE = files("batch_assets.sample").joinpath("articles.jsonl")
RAW = SAMPLE.read_bytes()
# Split at \n only: str.splitlines would break articles at U+2028.
ARTICLES: list[dict[str, Any]] = [json.loads(line) for line in RAW.decode().removesuffix("\n").split("\n")]
BY_ID = {article["id"]: article for article in ARTICLES}
README_FIVE = {
    "climate-farm-calendar": "climate",
    "ai-factory-floor": "artificial intelligence",
    "remote-work-settles": "remote work",
    "ecommerce-returns": "e-commerce",
    "renewables-pass-coal": "renewable energy",
}


def utc_day(article: dict[str, Any]) -> str:
    return datetime.fromisoformat(article["published_at"]).astimezone(UTC).date().isoformat()


def test_every_line_is_an_article_with_exactly_these_keys() -> None:
    assert RAW.endswith(b"}\n")
    assert b"\r" not in RAW
    assert 30 <= len(ARTICLES) <= 36
    for article in ARTICLES:
        assert list(article) == ["id", "title", "body", "url", "published_at"]
        assert article["url"].startswith("https://news.example/")
        assert isinstance(article["body"], str)


def test_it_is_utf_8_and_not_escaped() -> None:
    assert rb"\u" not in RAW.replace(b"\\\\", b"").replace(rb"\u00", b"")
    assert "日本" in RAW.decode() or "自動運転" in RAW.decode()


def test_five_days_of_which_the_first_has_the_most() -> None:
    days = Counter(utc_day(article) for article in ARTICLES)

    assert sorted(days) == [f"2026-01-0{n}" for n in range(5, 10)]
    assert days["2026-01-05"] >= 8
    assert max(days, key=lambda day: days[day]) == "2026-01-05"
    assert min(days.values()) >= 3


def test_times_carry_an_offset_and_some_local_days_are_not_the_utc_day() -> None:
    elsewhere = [article for article in ARTICLES if article["published_at"][:10] != utc_day(article)]

    assert all(datetime.fromisoformat(article["published_at"]).tzinfo for article in ARTICLES)
    assert {article["published_at"][:10] > utc_day(article) for article in elsewhere} == {True, False}
    assert any(article["published_at"].endswith("+09:00") for article in elsewhere)


def test_ids_are_unique_within_a_day_but_for_one_correction() -> None:
    counted = Counter((utc_day(article), article["id"]) for article in ARTICLES)
    first, second = (article for article in ARTICLES if article["id"] == "ferry-skarholm")

    assert [key for key, n in counted.items() if n > 1] == [("2026-01-05", "ferry-skarholm")]
    assert first["body"] != second["body"]
    assert first["published_at"] < second["published_at"]
    assert [article["id"] for article in ARTICLES].count(None) == 1


@pytest.mark.parametrize(("article_id", "subject"), README_FIVE.items())
def test_the_five_of_the_readme_are_on_day_one_and_read_well(article_id: str, subject: str) -> None:
    article = BY_ID[article_id]
    summary = summarise(article["body"], title=article["title"], max_tokens=200)

    assert utc_day(article) == "2026-01-05"
    assert 300 <= len(article["body"].split()) <= 600
    assert subject in (article["title"] + article["body"]).lower()
    assert len(re.findall(r"[.]( |$)", summary)) == 3
    assert 40 <= len(summary.split()) <= 120
    assert not re.match(r"(?:He|She|It|They|This|That)\b", summary)


def test_lengths_are_those_of_articles() -> None:
    broken = {"pictures-first-frost", "video-harbour-seals", "short-bridge", "council-minutes-upper-stanmoor"}
    for article in ARTICLES:
        words = len(article["body"].split())
        spaced = not re.search("[\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff]", article["body"])
        if article["id"] not in broken and spaced:
            assert 100 <= words <= 900, article["id"]


def script(text: str) -> str:
    """The script that most letters of ``text`` are in, by the first word of their Unicode names."""
    letters = Counter(unicodedata.name(char).split()[0] for char in text[:5_000] if char.isalpha())
    return letters.most_common(1)[0][0] if letters else "none"


def test_many_scripts_and_languages() -> None:
    scripts = Counter(script(article["body"]) for article in ARTICLES)

    assert {"LATIN", "CJK", "HANGUL", "ARABIC", "DEVANAGARI", "CYRILLIC", "GREEK", "THAI"} <= set(scripts)
    assert "HIRAGANA" in scripts or any("の" in article["body"] for article in ARTICLES)
    words = {
        "English": " the ", "German": " und ", "French": " les ", "Spanish": " los ", "Portuguese": " uma ",
    }  # fmt: skip
    found = Counter(
        max(words, key=lambda language: article["body"].count(words[language]))
        for article in ARTICLES
        if script(article["body"]) == "LATIN"
    )
    assert set(found) == set(words)
    assert 0.4 <= found["English"] / len(ARTICLES) <= 0.6


def has(article_id: str, pattern: str) -> bool:
    return re.search(pattern, BY_ID[article_id]["body"]) is not None


def test_awkward_bodies() -> None:
    assert BY_ID["pictures-first-frost"]["body"] == ""
    blank = BY_ID["video-harbour-seals"]["body"]
    assert blank
    assert not blank.strip()
    assert len(BY_ID["short-bridge"]["body"].split(". ")) == 1
    assert BY_ID["no-title-tide-mill"]["title"] is None
    assert max(len(line) for line in BY_ID["no-title-tide-mill"]["body"].split("\n")) <= 72  # hard-wrapped


def test_a_syndicated_report_is_also_on_another_day() -> None:
    original, copy = BY_ID["de-agentur-moorbrand"], BY_ID["syndicated-7719"]

    assert original["body"] == copy["body"]
    assert original["title"] != copy["title"]
    assert utc_day(original) < utc_day(copy)


def test_awkward_characters() -> None:
    assert has("pt-pracinha", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466")  # a family
    assert has("pt-pracinha", "\U0001f1e7\U0001f1f7")  # a flag
    assert has("pt-pracinha", "[\U0001f3fb-\U0001f3ff]")  # a skin tone
    assert has("u2028-interview", "\u2028")
    assert has("u2028-interview", "\u2029")
    assert has("u2028-interview", "\u200d")
    assert has("u2028-interview", "\t")
    assert has("path-with-backslashes", r"C:\\transfer\\new")
    assert all(has("path-with-backslashes", mark) for mark in "\"'“”")
    assert has("fr-phare", "«")
    assert all(has("html-museum-night", part) for part in ("<script", "&nbsp;", "&amp;", "&mdash;", "<br>", "<!--"))


def test_text_that_looks_like_a_template_or_an_instruction() -> None:
    body = BY_ID["templating-braces"]["body"]
    assert all(part in body for part in ("{title}", "{body}", "{{ ", "${HOME}", "{0}", "%s"))

    article = BY_ID["injection-allotments"]
    assert "Ignore previous instructions" in article["body"]
    assert "Ignore" not in summarise(article["body"], title=article["title"], max_tokens=200)


def test_one_article_is_200_kilobytes_and_does_not_repeat_itself() -> None:
    article = BY_ID["council-minutes-upper-stanmoor"]
    paragraphs = article["body"].split("\n\n")

    assert utc_day(article) == "2026-01-07"
    assert 195_000 <= len(article["body"].encode()) <= 205_000
    assert len(set(paragraphs)) == len(paragraphs) > 500
    assert len(RAW) < 300_000


def test_every_article_with_text_gets_a_summary() -> None:
    for article in ARTICLES:
        summary = summarise(article["body"], title=article["title"], max_tokens=200)
        assert bool(summary) == bool(article["body"].strip())
