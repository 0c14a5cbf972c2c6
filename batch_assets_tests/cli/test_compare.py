"""What `batch-assets compare` shows: a table, JSON, or a page that loads nothing. No text of others has an effect."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from batch_assets.batching.collection import comparison as module
from batch_assets.batching.collection.comparison import ComparedArticle, Comparison, Side, Totals
from batch_assets.batching.ledger.database import Database
from batch_assets.cli.comparison_page import page_of
from batch_assets.cli.main import main
from batch_assets.task_set import TaskSet
from batch_assets_tests.first_task import first_task
from batch_assets_tests.nasty_texts import ESCAPES, MARKUP, TEXTS
from batch_assets_tests.project import DAY

Run = Callable[..., Result]
CONTROLS = set("\x1b\x07\x9b\u202e\x00")
KEY = "sk-proj-0123456789"
TOTALS = Totals(3, 2, 1, 1200, 80, 0.004, False, 0, ("gpt-6-luna",))
OTHER = Totals(3, 3, 0, 1300, 90, None, False, 1, ("gpt-6-sol",))


def side(**values: object) -> Side:
    return Side("answered", values, None, 400, 30, 0.002)


def comparison_of(*texts: str) -> Comparison:
    """Each text is a title, an answer and a reason."""
    failed = [Side("failed", None, text, None, None, None) for text in texts]
    articles = [
        ComparedArticle(f"a{number}", text, (side(topic=text, score=1), side(topic="x", score=1)), frozenset({"topic"}))
        for number, text in enumerate(texts)
    ]
    articles += [
        ComparedArticle(text, "", (failed[n], side(topic=text, score=2)), frozenset()) for n, text in enumerate(texts)
    ]
    names = ("topic", "score")
    return Comparison(DAY, ("summaries", "keywords"), names, frozenset(names), (TOTALS, OTHER), 2, 1, articles)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("BATCH_ASSETS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    [declared] = first_task().tasks
    twin = replace(declared, task=replace(declared.task, name="keywords"))
    monkeypatch.setattr("batch_assets.project_tasks.read_tasks", lambda _: TaskSet((declared, twin)))

    def run_command(*arguments: str, shown: Comparison | None = None) -> Result:
        if shown is not None:
            Database(str(tmp_path / "data" / "batch_assets.duckdb")).warehouse_id()
            monkeypatch.setattr(module, "compare_day", lambda *_: shown)
        return CliRunner().invoke(main, ["compare", "summaries", *arguments], env={"COLUMNS": "160"})

    return run_command


def test_the_terminal_shows_answers_and_sums(run: Run) -> None:
    done = run("keywords", DAY, shown=comparison_of("Harbour"))
    assert done.exit_code == 0, done.output
    for text in (
        "≠ topic: Harbour", "≠ topic: x", "score: 1", "failed: Harbour", "gpt-6-sol", "$0.004000", "$2.000000",
        "unknown",
        "1 of 2 answers that both have are equal in the fields score, topic: 50.0%.",
        "1 answer of keywords at the standard price, from outside of a batch.", "The first 2 articles shown",
    ):  # fmt: skip
        assert text in done.stdout, text
    assert "≠ score" not in done.stdout


@pytest.mark.parametrize("text", [*MARKUP, f"before{ESCAPES}after {KEY}"])
def test_texts_of_others_have_no_effect_on_the_terminal(run: Run, text: str) -> None:
    done = run("keywords", DAY, shown=comparison_of(text))
    assert not set(done.stdout) & CONTROLS
    assert KEY not in done.stdout
    assert text not in MARKUP or done.stdout.count(text) >= 3  # and once over two lines


def test_json_has_everything(run: Run) -> None:
    done = run("keywords", DAY, "--json", shown=comparison_of(f"Größe {ESCAPES}{KEY}"))
    report = json.loads(done.stdout)
    assert (report["equal_share"], report["compared_fields"]) == (0.5, ["score", "topic"])
    assert [task["usd_per_1000_articles"] for task in report["tasks"]] == [pytest.approx(2.0), None]
    assert report["articles"][0]["answers"][0]["values"]["topic"].startswith("Größe \x1b")
    assert not set(done.stdout) & CONTROLS
    assert KEY not in done.stdout


def test_the_page_is_written_to_the_file(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run("keywords", DAY, "--html", str(page), shown=comparison_of("Harbour"))
    assert done.exit_code == 0, done.output
    assert page.read_text(encoding="utf-8") == page_of(comparison_of("Harbour"))


class Page(HTMLParser):
    """The elements of a page, their attributes, and the texts of its answers."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.answers: list[str] = []
        self.open: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.open.append(tag)
        if tag == "dd":
            self.answers.append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "dd" in self.open:
            self.answers[-1] += data


def test_the_page_shows_the_texts_of_others_and_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    content = page_of(comparison_of(*TEXTS, f"{ESCAPES}{KEY}"))
    assert KEY not in content
    assert not set(content) & CONTROLS
    page = Page(content)
    assert set(TEXTS) <= set(page.answers)
    assert page.elements == set(
        "html head meta title style body h1 table thead tbody tr th td p div dl dt dd strong span".split()  # noqa: SIM905
    )
    assert page.attributes == {"lang", "charset", "name", "content", "http-equiv", "class", "scope", "dir"}
    assert "default-src 'none'" in content
    assert "prefers-color-scheme: dark" in content
    assert "@media print" in content


def test_mistakes_are_sentences(run: Run) -> None:
    assert "There is no database" in run("keywords", DAY).stderr
    assert "There is no task other" in run("other", DAY).stderr
    assert "There is no day" in run("keywords", "1999-01-01").stderr
    assert run("keywords", DAY, "--json", "--html", "x").exit_code == 2
