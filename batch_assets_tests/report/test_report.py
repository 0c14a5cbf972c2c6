"""The numbers of the page and of the JSON are those of the ledger, and nothing that others wrote has an effect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from batch_assets.batching.ledger.reasons import Reason
from batch_assets.cli.day_range import as_json_text
from batch_assets.report.as_json import as_dict
from batch_assets.report.four_charts import charts_of
from batch_assets.report.page import page_of
from batch_assets.report.periods import periods_of
from batch_assets.report.read import Report, read_report
from batch_assets.report.texts import duration, share, usd_format
from batch_assets_tests.batching.conftest import Workspace
from batch_assets_tests.browser import open_page
from batch_assets_tests.nasty_texts import ESCAPES, TEXTS
from batch_assets_tests.report.conftest import (
    BLOCKED_DAY,
    CODE,
    DAYS,
    FAILED_DAY,
    MESSAGE,
    NOW,
    SIMULATED_DAY,
    UNPRICED_DAY,
)
from batch_assets_tests.report.made_up import report_with
from batch_assets_tests.report.reading import Page

KEY = "sk-proj-0123456789"
ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "h3", "p", "dl", "dt", "dd"),
    *("div", "span", "b", "small", "code", "wbr", "ul", "li", "figure", "figcaption", "details", "summary"),
    *("table", "thead", "tbody", "tr", "th", "td"),
    *("svg", "desc", "defs", "pattern", "line", "rect", "text"),
}


def test_the_lead_has_the_sums_of_the_tables(history: Workspace, report: Report) -> None:
    lead = Page(page_of(report)).lead
    [(cost, simulated)] = history.rows("SELECT sum(cost_usd), sum(simulated_cost_usd) FROM spending")
    [(tokens,)] = history.rows(
        "SELECT sum(input_tokens + output_tokens) FROM spending WHERE coalesce(cost_usd, simulated_cost_usd) IS NULL"
    )
    usd = usd_format([cost])
    assert lead["Spent"][0] == lead["Saved"][0] == f"at least {usd(cost)}"
    assert lead["Spent"][1:] == [
        f"The price of {tokens:,} tokens is not known.",
        f"{usd(simulated)} simulated by the built-in engine, not billed.",
    ]
    assert lead["Articles answered"] == ["6", "75.0% of 8."]
    assert lead["Failed"] == ["1", f"12.5%. Most frequent: {CODE}."]
    assert lead["Waiting now"] == ["1", "1 blocked."]


def test_the_tables_have_the_figures_of_the_ledger(history: Workspace, report: Report) -> None:
    page = Page(page_of(report))
    costs = page.table("task", "per 1,000 articles")
    rows = history.rows("SELECT model, sum(requests), sum(input_tokens) FROM spending GROUP BY model ORDER BY model")
    assert [(row["model"], int(row["requests"]), int(row["input tokens"])) for row in costs[:2]] == rows
    assert (costs[1]["billed"], costs[1]["saved"], costs[0]["per 1,000 articles"]) == ("unknown", "unknown", "unknown")
    [failure] = page.table("reason", "what to do")
    assert failure == {
        "reason": CODE, "articles": "1", "tasks": "summaries", "days": FAILED_DAY, "a message": MESSAGE,
        "what to do": "Change the article or the task, and plan the day again; or batch-assets retry DAY.",
    }  # fmt: skip
    [waiting] = page.table("day", "what ends it")
    assert (waiting["day"], waiting["articles"], waiting["what"]) == (BLOCKED_DAY, "1", "blocked: over_budget")
    assert "Raise the limit" in waiting["what ends it"]
    batches = {row["batch"] for row in page.table("day", "in all")}
    assert batches == set(history.column("SELECT batch_id FROM openai_batch WHERE batch_id IS NOT NULL"))


def test_each_day_of_a_chart_has_the_numbers_of_its_tables(history: Workspace, report: Report) -> None:
    page = Page(page_of(report))
    cost, articles = page.tables[1], page.tables[2]
    amounts = history.rows(
        "SELECT partition_date::VARCHAR, sum(cost_usd), sum(simulated_cost_usd) FROM spending GROUP BY ALL ORDER BY ALL"
    )
    usd = usd_format([max(billed or simulated or 0 for _, billed, simulated in amounts)])
    assert cost[0] == ["day", "summaries", "summaries, simulated", "price not known"]
    expected = {day: [usd(billed or 0), usd(simulated or 0)] for day, billed, simulated in amounts}
    assert {row[0]: row[1:3] for row in cost[1:] if row[0] in expected} == expected
    assert [row[0] for row in cost[1:] if row[3] != "–"] == [UNPRICED_DAY]
    assert len(cost) == len(articles) == 1 + 5  # with the day between them that has no articles
    assert articles[0] == ["day", "answered", "blocked", "failed"]
    assert [row[1:] for row in articles[1:]] == [
        ["2", "0", "1"], ["2", "0", "0"], ["2", "0", "0"], ["0", "0", "0"], ["0", "1", "0"],
    ]  # fmt: skip
    assert 'fill="url(#cost-h0)"' in page_of(report)  # what is simulated is hatched


def test_json_has_the_same_numbers(history: Workspace, report: Report) -> None:
    found = json.loads(as_json_text(as_dict(report)))
    assert (found["first_day"], found["last_day"], found["days_with_figures"]) == (DAYS[0], DAYS[-1], 4)
    assert (found["articles"], found["answered"], found["failed"], found["blocked"]) == (8, 6, 1, 1)
    assert (found["cost_usd"], found["saving_usd"]) == (None, None)
    assert found["known_cost_usd"] == pytest.approx(sum(history.column("SELECT coalesce(cost_usd, 0) FROM spending")))
    days = {day["day"]: day for day in found["days"]}
    assert (days[UNPRICED_DAY]["cost_usd"], days[SIMULATED_DAY]["cost_usd"]) == (None, 0)
    assert days[SIMULATED_DAY]["simulated_cost_usd"] == found["simulated_cost_usd"] > 0
    assert [(failure["code"], failure["articles"]) for failure in found["failures"]] == [(CODE, 1)]
    assert [(wait["day"], wait["code"]) for wait in found["waiting"]] == [(BLOCKED_DAY, "over_budget")]
    assert len(found["batches"]) == 3


def test_a_range_has_only_its_days_and_says_that_others_wait(history: Workspace) -> None:
    with history.database.reading() as connection:
        first = read_report(connection, (FAILED_DAY, SIMULATED_DAY), NOW)
        none = read_report(connection, ("2020-01-01", "2020-01-31"), NOW)
    page = Page(page_of(first))
    assert page.lead["Waiting now"] == ["0", "No article waits."]
    assert f"Days outside of this report wait, too: {BLOCKED_DAY}." in page.texts
    assert "No day from 2020-01-01 to 2020-01-31 has figures." in Page(page_of(none)).texts
    assert json.loads(as_json_text(as_dict(none)))["articles"] == 0


def test_a_day_of_which_only_a_failed_attempt_is_left_has_no_place_in_the_charts(history: Workspace) -> None:
    """Its request file was withdrawn, and its articles are gone: it has no figures."""
    for table, columns in (
        ("openai_batch", ", 'withdrawn' AS state, NULL AS batch_id, ['batch_of_before'] AS earlier_batch_ids"),
        ("batch_request_file", ""),
    ):
        values = f"'left' AS submission_id, DATE '2026-11-02' AS partition_date{columns}"
        history.execute(f"INSERT INTO {table} SELECT * REPLACE ({values}) FROM {table} LIMIT 1")
    try:
        with history.database.reading() as connection:
            found = read_report(connection, ("2026-11-01", "2026-11-30"), NOW)
    finally:
        for table in ("openai_batch", "batch_request_file"):
            history.execute(f"DELETE FROM {table} WHERE submission_id = 'left'")
    assert "Batches from" in page_of(found)
    assert "2026-11-02" not in {batch.day for batch in found.batches}


def test_an_empty_history_is_a_sentence() -> None:
    empty = Report(None, NOW, [], [], [], [], [], None)
    assert any("No day has figures yet." in text for text in Page(page_of(empty)).texts)
    assert json.loads(as_json_text(as_dict(empty)))["first_day"] is None


def test_texts_of_others_have_no_effect_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    texts = [*TEXTS, f"{ESCAPES}{KEY}"]
    report = report_with(texts, (TEXTS[7], f"{ESCAPES}{KEY}"))
    report = replace(report, reasons=[*report.reasons, Reason("t", "2026-01-01", "blocked", None, 1, None, "Do.")])
    content = page_of(report)
    page = Page(content)
    assert KEY not in content + as_json_text(as_dict(report))
    assert not set(content) & set("\x1b\x07\x9b\u202e\x00")
    assert page.elements <= ELEMENTS
    assert {name for name, _ in page.attributes if name.startswith("on")} == set()
    urls = [
        value for name, value in page.attributes if name in ("href", "src", "style", "xlink:href", "action", "data")
    ]
    assert urls == []
    assert all(value.startswith("url(#") for _, value in page.attributes if "url(" in value)
    assert "default-src 'none'" in content
    models = {row[1] for rows in page.tables for row in rows if rows[0][-1] == "per 1,000 articles"}
    assert set(TEXTS) <= models | {text for text in TEXTS if "\n" in text}


def test_ninety_days_of_three_tasks_are_a_small_page() -> None:
    report = report_with(["server_error", "content_refused", "timeout"], ("summaries", "keywords", "captions"), 90)
    assert len(page_of(report).encode()) < 200_000


@pytest.mark.parametrize(
    ("first", "last", "unit", "labels"),
    [
        ("2026-11-20", "2026-11-20", "day", ["2026-11-20"]),
        ("2026-02-27", "2026-03-01", "day", ["2026-02-27", "2026-02-28", "2026-03-01"]),
        ("2025-11-27", "2026-11-26", "week", ["2025-11-24", "2026-11-23"]),
        ("2020-01-31", "2026-11-26", "month", ["2020-01", "2026-11"]),
    ],
)
def test_days_weeks_or_months_are_so_few_that_they_can_be_seen(
    first: str, last: str, unit: str, labels: list[str]
) -> None:
    periods = periods_of(first, last)
    assert periods.unit == unit
    assert (periods.labels[0], periods.labels[-1]) == (labels[0], labels[-1])
    assert len(periods.labels) <= 100
    assert (periods.index_of(first), periods.index_of(last)) == (0, len(periods.labels) - 1)


def test_the_lines_of_a_chart_have_different_values(report: Report) -> None:
    for chart in charts_of(report, usd_format([1.0])):
        texts = [line.text for line in chart.lines]
        assert len(texts) == len(set(texts)) > 1, (chart.name, texts)


def test_amounts_and_shares_never_round_to_nothing() -> None:
    assert [usd_format([12.0])(amount) for amount in (0.0, 0.001, 1234.5)] == ["$0.00", "<$0.01", "$1,234.50"]
    assert usd_format([0.000451])(0.000451) == "$0.000451"
    assert [share(*parts) for parts in ((1, 10_000), (9_999, 10_000), (1, 3), (0, 0))] == [
        "<0.1%", ">99.9%", "33.3%", "–",
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (None, 59, 600, 5400)] == ["–", "59 s", "10 min", "1.5 h"]


def test_the_page_works_in_a_browser_in_light_and_dark_on_a_phone_and_on_paper(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page_of(report), encoding="utf-8")
    with open_page("about:blank") as (page, requests):
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(path.as_uri())
        colors = set()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            colors.add(page.evaluate("getComputedStyle(document.querySelector('rect.c0')).fill"))
            colors.add(page.evaluate("getComputedStyle(document.querySelector('.plot text')).fill"))
        assert len(colors) == 4
        bars = page.locator("figure svg.bar rect.answered")
        heights = [bars.nth(number).bounding_box() for number in range(3)]
        assert [box and round(box["height"]) for box in heights] == [100, 100, 100]  # 2 of the 3 that fill the chart
        page.set_viewport_size({"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        paper = page.pdf(prefer_css_page_size=True)
        assert paper.startswith(b"%PDF")
        assert messages == []
        assert requests == [path.as_uri()]
