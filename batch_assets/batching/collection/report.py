"""The counts and costs of a day, and a few of its summaries, for the user."""

from dataclasses import dataclass
from typing import NamedTuple

import duckdb

from batch_assets.batching.ledger.spending import DaySpending, spending_of_day
from batch_assets.batching.safety.outside_text import as_shown

CELL_CHARACTERS = 300


class PreviewRow(NamedTuple):
    """An article of the day. `text` is its summary, or the reason why there is none."""

    article_id: str
    title: str
    status: str
    text: str


@dataclass(frozen=True)
class DayReport:
    """The result of a day.

    `spending` is everything that was billed for it, earlier prompts and refreshes included. `apis` are the APIs whose
    answers are in `summaries`. `blocked_by` is the most frequent reason of blocked articles. `preview` has the first
    articles.
    """

    day: str
    articles: int
    by_status: dict[str, int]
    rejected: int
    spending: DaySpending
    apis: list[str]
    preview: list[PreviewRow]
    blocked_by: str | None = None

    def cells(self) -> list[dict[str, str]]:
        """The preview as rows of a table: plain text on one line, cut if it is long."""
        return [{"article": _cell(row.title), "summary": _cell(row.text)} for row in self.preview]


def day_report(connection: duckdb.DuckDBPyConnection, day: str, *, preview_rows: int) -> DayReport:
    """Read a day from `summaries`."""
    by_status = dict(
        connection.execute(
            """
            SELECT status, count(*) FROM summaries WHERE partition_date = CAST(? AS DATE)
            GROUP BY status ORDER BY status
            """,
            [day],
        ).fetchall()
    )
    spending = spending_of_day(connection, day)
    apis = connection.execute(
        """
        SELECT DISTINCT api FROM summaries
        WHERE partition_date = CAST(? AS DATE) AND api IS NOT NULL ORDER BY api
        """,
        [day],
    ).fetchall()
    blocked_by = connection.execute(
        "SELECT mode(error_message) FROM summaries WHERE partition_date = CAST(? AS DATE) AND status = 'blocked'",
        [day],
    ).fetchone()
    rejected = connection.execute(
        "SELECT count(*) FROM rejected_article WHERE partition_date = CAST(? AS DATE)", [day]
    ).fetchone()
    preview = connection.execute(
        """
        SELECT article_id, coalesce(title, ''), status, coalesce(summary, error_message, '')
        FROM summaries WHERE partition_date = CAST(? AS DATE) ORDER BY published_at, article_id LIMIT ?
        """,
        [day, preview_rows],
    ).fetchall()
    return DayReport(
        day=day,
        articles=sum(by_status.values()),
        by_status=by_status,
        rejected=rejected[0] if rejected else 0,
        spending=spending,
        apis=[api for (api,) in apis],
        blocked_by=blocked_by[0] if blocked_by else None,
        preview=[PreviewRow(*row) for row in preview],
    )


def _cell(text: str) -> str:
    flat = as_shown(" ".join(text.split()))
    return flat if len(flat) <= CELL_CHARACTERS else flat[:CELL_CHARACTERS].rsplit(" ", 1)[0] + " …"
