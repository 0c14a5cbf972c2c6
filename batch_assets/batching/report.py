"""A day in figures, and a few of its summaries, for people."""

from dataclasses import dataclass

from batch_assets.batching.database import Database
from batch_assets.batching.outside_text import as_shown

CELL_CHARACTERS = 300


@dataclass(frozen=True)
class DayReport:
    """What a day came to. Equal articles share a request: tokens and cost count each request once.

    `cost_usd` is at OpenAI's batch prices, and None where the model's price is not known. `preview` holds
    (article_id, title, status, summary or reason).
    """

    day: str
    articles: int
    by_status: dict[str, int]
    rejected: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    preview: list[tuple[str, str, str, str]]

    def cells(self) -> list[dict[str, str]]:
        """The preview as rows of a table: plain text on one line, cut where it is long."""
        return [{"article": _cell(title), "summary": _cell(text)} for _, title, _, text in self.preview]


def day_report(database: Database, day: str, *, preview_rows: int) -> DayReport:
    """Read a day from `summaries`."""
    with database.reading() as connection:
        connection.execute("SET VARIABLE day = CAST(? AS DATE)", [day])
        by_status = dict(
            connection.execute(
                """
                SELECT status, count(*) FROM summaries WHERE partition_date = getvariable('day')
                GROUP BY status ORDER BY status
                """
            ).fetchall()
        )
        totals = connection.execute(
            """
            SELECT coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),
                CASE WHEN count(cost_usd) = count(*) THEN coalesce(sum(cost_usd), 0) END
            FROM (
                SELECT any_value(input_tokens) AS input_tokens, any_value(output_tokens) AS output_tokens,
                    any_value(cost_usd) AS cost_usd
                FROM summaries WHERE partition_date = getvariable('day') AND status = 'summarised'
                GROUP BY custom_id
            )
            """
        ).fetchone()
        rejected = connection.execute(
            "SELECT count(*) FROM rejected_article WHERE partition_date = getvariable('day')"
        ).fetchone()
        preview = connection.execute(
            """
            SELECT article_id, coalesce(title, ''), status, coalesce(summary, error_message, '')
            FROM summaries WHERE partition_date = getvariable('day') ORDER BY published_at, article_id LIMIT ?
            """,
            [preview_rows],
        ).fetchall()
    input_tokens, output_tokens, cost = totals or (0, 0, None)
    return DayReport(
        day=day,
        articles=sum(by_status.values()),
        by_status=by_status,
        rejected=rejected[0] if rejected else 0,
        input_tokens=int(input_tokens),
        output_tokens=int(output_tokens),
        cost_usd=cost,
        preview=preview,
    )


def _cell(text: str) -> str:
    flat = as_shown(" ".join(text.split()))
    return flat if len(flat) <= CELL_CHARACTERS else flat[:CELL_CHARACTERS].rsplit(" ", 1)[0] + " …"
