"""Guards against wrong figures: a shared request counts once, and an unknown cost is not zero."""

from __future__ import annotations

import pytest

from batch_assets.batching.collection.report import CELL_CHARACTERS, DayReport, PreviewRow, day_report
from batch_assets.batching.ledger.day_figures import DayFigures, figures_of_collected_day
from batch_assets.batching.planning.task import Task
from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace
from batch_assets_tests.first_task import RESULTS
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of


def report_of(workspace: Workspace, day: str, *, preview_rows: int) -> DayReport:
    with workspace.database.reading() as connection:
        figures = figures_of_collected_day(connection, of(day))
        return day_report(connection, RESULTS, figures, preview_rows=preview_rows)


def test_equal_articles_each_have_a_row_and_their_request_counts_once(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": "same", "b": "same", "c": "same", "d": f"other of {workspace.folder.name}", "e": ""})
    workspace.whole_day(api)
    report = report_of(workspace, DAY, preview_rows=2)
    ((requests, input_tokens, output_tokens, cost_usd),) = workspace.rows(
        "SELECT count(*), sum(input_tokens), sum(output_tokens), sum(cost_usd) FROM completion"
    )
    assert requests == 2
    assert (report.figures.articles, report.figures.by_status, report.rejected) == (4, {"answered": 4}, 1)
    assert (report.figures.input_tokens, report.figures.output_tokens) == (input_tokens, output_tokens)
    assert report.figures.cost_usd == pytest.approx(cost_usd)
    assert report.figures.cost_usd == pytest.approx(input_tokens * 0.05e-6 + output_tokens * 0.2e-6)
    assert report.preview == [("a", "", "answered", "same"), ("b", "", "answered", "same")]


def test_a_cost_that_is_not_known_is_none(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest({"a": f"one of {workspace.folder.name}"})
    workspace.whole_day(api, task=Task("mistral-small"))
    report = report_of(workspace, DAY, preview_rows=0)
    assert report.figures.by_status == {"answered": 1}
    assert report.figures.cost_usd is None
    assert report.figures.input_tokens > 0
    workspace.execute("INSERT INTO spending SELECT * REPLACE ('x' AS batch_id, 1.0 AS cost_usd) FROM spending")
    assert report_of(workspace, DAY, preview_rows=0).figures.cost_usd is None


def test_a_day_of_which_nothing_is_known_is_empty(workspace: Workspace) -> None:
    assert report_of(workspace, NEXT_DAY, preview_rows=5) == DayReport(
        NEXT_DAY, DayFigures("summaries", NEXT_DAY), 0, [], []
    )


def test_what_has_no_summary_shows_its_reason_and_costs_nothing(workspace: Workspace) -> None:
    workspace.ingest({"a": "one"})
    workspace.plan()
    workspace.execute(
        """
        INSERT INTO summaries (partition_date, article_id, title, status, error_message) VALUES
            (CAST(? AS DATE), 'a', 'Title', 'failed', 'code: Its words.'), ('2020-01-01', 'b', 'T', 'pending', 'x')
        """,
        [DAY],
    )
    report = report_of(workspace, DAY, preview_rows=5)
    assert report.figures.by_status == {"failed": 1}
    assert report.preview == [("a", "Title", "failed", "code: Its words.")]
    assert (report.figures.input_tokens, report.figures.cost_usd) == (0, 0)


def test_the_cells_of_the_preview_hold_text_on_one_line_and_not_too_long() -> None:
    preview = [
        PreviewRow("a", "A | B\nC\x1b[2J", "answered", "<script>\r\n\t| x \u202e"),
        PreviewRow("b", "", "pending", "y" * 1_000),
    ]
    assert DayReport(DAY, DayFigures("summaries", DAY), 0, [], preview).cells() == [
        {"article": "A | B C[2J", "status": "answered", "answer": "<script> | x "},
        {"article": "", "status": "pending", "answer": f"{'y' * CELL_CHARACTERS} …"},
    ]
