"""The counts and costs of a day, and a few of its summaries, for the user."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import duckdb

from batch_assets.batching.collection.day_results import ResultTable
from batch_assets.batching.ledger.day_figures import DayFigures
from batch_assets.batching.safety.outside_text import as_shown

CELL_CHARACTERS = 300


class PreviewRow(NamedTuple):
    """An article of the day. `text` is its answer, or the reason why there is none."""

    article_id: str
    title: str
    status: str
    text: str


@dataclass(frozen=True)
class DayReport:
    """The result of a task's day.

    `apis` are the APIs whose
    answers are in the result table. `blocked_by` is the most frequent reason of blocked articles. `preview` has the
    first articles.
    """

    day: str
    figures: DayFigures
    rejected: int
    apis: list[str]
    preview: list[PreviewRow]
    blocked_by: str | None = None

    def cells(self) -> list[dict[str, str]]:
        """The preview as rows of a table: plain text on one line, cut if it is long."""
        return [{"article": _cell(row.title), "status": row.status, "answer": _cell(row.text)} for row in self.preview]


def day_report(
    connection: duckdb.DuckDBPyConnection, results: ResultTable, figures: DayFigures, *, preview_rows: int
) -> DayReport:
    """What else users see of a day with these figures: read from the result table."""
    day = figures.day

    def rows(statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        return connection.execute(statement, [day, *parameters]).fetchall()

    title, _, published_at = results.article_columns
    of_day = f"{results.name} WHERE partition_date = CAST(? AS DATE)"
    apis = rows(f"SELECT DISTINCT api FROM {of_day} AND api IS NOT NULL ORDER BY api")
    [(blocked_by,)] = rows(f"SELECT mode(error_message) FROM {of_day} AND status = 'blocked'")
    [(rejected,)] = rows(
        "SELECT count(*) FROM rejected_article WHERE partition_date = CAST(? AS DATE) AND source = ?", results.source
    )
    preview = rows(
        f"""
        SELECT article_id, coalesce({title}, ''), status, coalesce({_answer_text(results)}, error_message, '')
        FROM {of_day} ORDER BY {published_at}, article_id LIMIT ?
        """,
        preview_rows,
    )
    return DayReport(
        day=day,
        figures=figures,
        rejected=rejected,
        apis=[api for (api,) in apis],
        blocked_by=blocked_by,
        preview=[PreviewRow(*row) for row in preview],
    )


def _answer_text(results: ResultTable) -> str:
    """SQL of an answer as text: itself, or its fields as JSON; NULL if there is none."""
    names = results.column_names
    if results.is_vector:
        return f"'a vector of ' || len({names[0]}) || ' numbers'"
    if results.schema is None:
        return names[0]
    fields = ", ".join(f"{name} := {name}" for name in names)
    return f"CASE WHEN {' OR '.join(f'{name} IS NOT NULL' for name in names)} THEN to_json(struct_pack({fields})) END"


def _cell(text: str) -> str:
    flat = as_shown(" ".join(text.split()))
    return flat if len(flat) <= CELL_CHARACTERS else flat[:CELL_CHARACTERS].rsplit(" ", 1)[0] + " …"
