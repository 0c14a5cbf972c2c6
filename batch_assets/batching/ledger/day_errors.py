"""What has no answer on a day, and why: articles by status and code, lines in quarantine, and rows that are none."""

import shlex
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import duckdb

from batch_assets.batching.ledger.day_figures import ARTICLE, parameters_of_articles
from batch_assets.batching.ledger.outcomes import outcome_of
from batch_assets.batching.ledger.result_tables import create_view_of_results
from batch_assets.batching.ledger.states import RequestState
from batch_assets.batching.task_day import TaskDay

ARTICLE_IDS = 10  # of a group

# The articles are those that `figures_of_days` counts.
UNANSWERED = f"""
    WITH {ARTICLE},
    unanswered AS (FROM article WHERE task = $task AND status <> 'answered'),
    failure AS (
        SELECT custom_id, code AS error_code, arg_max(http_status, failed_at) AS http_status
        FROM failed_request WHERE custom_id IN (SELECT custom_id FROM unanswered) GROUP BY custom_id, code
    )
    SELECT
        status, error_code, count(*), mode(error_message), count(DISTINCT error_message), mode(http_status),
        min(article_id, {ARTICLE_IDS})
    FROM unanswered LEFT JOIN failure USING (custom_id, error_code)
    GROUP BY status, error_code ORDER BY count(*) DESC, status, error_code
"""
QUARANTINED = """
    SELECT batch_id, path, reason, count(*), min(line_number) FROM quarantined_line
    WHERE batch_id IN (SELECT batch_id FROM openai_batch WHERE task = $task AND partition_date = $day)
    GROUP BY ALL ORDER BY ALL
"""
REJECTED = """
    SELECT
        reason, partition_date IS NOT NULL AS is_of_day, count(*), any_value(message),
        first(source_file ORDER BY source_file, source_line, source_row),
        first(source_row ORDER BY source_file, source_line, source_row),
        first(source_line ORDER BY source_file, source_line, source_row)
    FROM rejected_article WHERE source = $source AND (partition_date = $day OR partition_date IS NULL)
    GROUP BY reason, is_of_day ORDER BY is_of_day DESC, reason
"""
# What to do about an article that has no failure of its own; `docs/operations.md` has all of it.
NEXT_STEPS = {
    RequestState.IN_FLIGHT: "It is in a batch, or in a file to be sent: `batch-assets status` says what it waits for.",
    RequestState.PENDING: "The sensor starts a run that sends it. At once: materialize `batch_request_file` and "
    "`openai_batch`.",
    RequestState.CANCELLED: "The user cancelled it. To send it: materialize `batch_request_file` and `openai_batch`.",
    RequestState.BLOCKED: "A process asks it outside of a batch now. After 15 minutes, the sensor starts a run that "
    "sends it.",
}
OF_BUDGET = {
    "over_budget": "Raise the limit, and materialize `openai_batch`; or `batch-assets cancel DAY`.",
    "price_unknown": "Set the price in `prices` of the task, and materialize `openai_batch`.",
}


@dataclass(frozen=True)
class ErrorGroup:
    """The articles of one status and code. message: the most frequent one of `messages`, how many there are.

    article_ids: the first ones. what_to_do: with the command.
    """

    status: str
    code: str | None
    articles: int
    message: str | None
    messages: int
    article_ids: list[str]
    what_to_do: str


class QuarantinedLines(NamedTuple):
    """Lines of a result file in quarantine, by reason. first_line: from 1; 0: the file as a whole."""

    batch_id: str
    path: str
    reason: str
    lines: int
    first_line: int


class RejectedRows(NamedTuple):
    """Rows of the source that are no article. is_of_day: they belong to the day; others belong to none.

    first_file, first_row, first_line: where the first one is, if that is known.
    """

    reason: str
    is_of_day: bool
    rows: int
    message: str | None
    first_file: str | None
    first_row: int | None
    first_line: int | None


@dataclass(frozen=True)
class DayErrors:
    """All of it, the largest groups first. is_planned: False if no run has planned the day for the task."""

    articles: list[ErrorGroup]
    quarantined: list[QuarantinedLines]
    rejected: list[RejectedRows]
    is_planned: bool


def errors_of_day(connection: duckdb.DuckDBPyConnection, day: TaskDay, source: str) -> DayErrors:
    """What the task has no answer for on the day. source: whose articles it reads."""
    create_view_of_results(connection)
    of_day = {"task": day.task, "day": date.fromisoformat(day.day)}
    of_articles = {**parameters_of_articles(day.day, day.day), "task": day.task}
    groups = connection.execute(UNANSWERED, of_articles).fetchall()
    quarantined = connection.execute(QUARANTINED, of_day).fetchall()
    rejected = connection.execute(REJECTED, {"source": source, "day": of_day["day"]}).fetchall()
    plans = connection.execute("FROM day_plan WHERE task = $task AND partition_date = $day", of_day).fetchall()
    return DayErrors(
        [_group(day, *row) for row in groups],
        [QuarantinedLines(*row) for row in quarantined],
        [RejectedRows(*row) for row in rejected],
        is_planned=bool(plans or groups),
    )


def _group(
    day: TaskDay,
    status: str,
    code: str | None,
    articles: int,
    message: str | None,
    messages: int,
    http_status: int | None,
    article_ids: list[str],
) -> ErrorGroup:
    what_to_do = _what_to_do(day, RequestState(status), code, message, http_status)
    return ErrorGroup(status, code, articles, message, messages, article_ids, what_to_do)


def _what_to_do(
    day: TaskDay, status: RequestState, code: str | None, message: str | None, http_status: int | None
) -> str:
    retry = f"`batch-assets retry {day.arguments}"
    if code in OF_BUDGET:
        return OF_BUDGET[code].replace("DAY", day.arguments)
    if status not in (RequestState.FAILED, RequestState.BLOCKED) or code is None:
        return NEXT_STEPS.get(status, f"{retry}` sends it again.")
    remedy = outcome_of(code, message, http_status).remedy.replace("`batch-assets retry DAY`", f"{retry}`")
    if "batch-assets retry" in remedy:
        return remedy
    if status is RequestState.BLOCKED:
        return f"{remedy} Then {retry}`, or wait for the end of the pause."
    if "plan the day again" in remedy:
        return remedy
    return f"{remedy} It was the last round: {retry} --code {shlex.quote(code)}` sends it again."
