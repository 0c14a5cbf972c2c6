"""Writes a day of a task's result table: one row for each article, with its answer or the reason why there is none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import duckdb

from batch_assets.batching.collection.result_table import (
    prepare_result_table,
    text_answers,
    typed_answers,
    vector_answers,
)
from batch_assets.batching.ledger.database import Database, fixed_join_order, parsed, transaction
from batch_assets.batching.ledger.requests import DayStates, RequestStateRules, find_states
from batch_assets.batching.ledger.result_tables import article_columns
from batch_assets.batching.task_day import TaskDay
from batch_assets.output_schema.columns import AnswerColumn, quoted, structure

# The articles without their bodies. An article that is newer than the last plan has no request yet.
DAY_ARTICLES = """
    CREATE OR REPLACE TEMP MACRO day_article(of_source, of_task, day) AS TABLE
    SELECT article_id, title, url, published_at, custom_id
    FROM raw_articles LEFT JOIN day_request(of_task, day) USING (article_id)
    WHERE source = of_source AND partition_date = day::DATE
"""
# MATERIALIZED: DuckDB computes `value` once for each answer, and not again for each column.
ANSWERED = """
    INSERT INTO {table} (
        partition_date, article_id, {article}, {columns}, status, finish_reason, model, api,
        input_tokens, output_tokens, cost_usd, custom_id, batch_id, answered_at, task_version
    )
    WITH typed AS {materialized} (
        SELECT *, {value} AS answer FROM valid_completion($api) WHERE place BETWEEN $first AND $last
    )
    SELECT
        CAST($day AS DATE), article_id, title, url, published_at, {values}, 'answered', finish_reason, model, api,
        input_tokens, output_tokens, cost_usd, custom_id, batch_id, completed_at, $version
    FROM typed JOIN day_article($source, $task, $day) USING (custom_id)
"""
FIND_UNANSWERED_ARTICLES = """
    CREATE OR REPLACE TEMP TABLE unanswered_article AS
    SELECT article_id FROM day_article($source, $task, $day) LEFT JOIN unanswered_request USING (custom_id)
    WHERE state IS NOT NULL OR custom_id IS NULL
"""
# The last answer for an article stays until its replacement is loaded, also if the prompt or the article has changed: a
# budget may keep a run from sending the new request.
KEEP_ANSWERS = """
    CREATE OR REPLACE TEMP TABLE kept_answer AS
    SELECT
        article_id, {answers}, finish_reason, model, api, input_tokens, output_tokens, cost_usd, batch_id, answered_at,
        task_version
    FROM {table} SEMI JOIN unanswered_article USING (article_id)
    WHERE partition_date = CAST($day AS DATE) AND ({has_answer}) AND counts_at(api, $api)
"""
# A refresh has an answer, which stays, too.
NOT_ANSWERED = """
    INSERT INTO {table} (
        partition_date, article_id, {article}, {answers}, status, error_code, error_message,
        finish_reason, model, api, input_tokens, output_tokens, cost_usd, custom_id, batch_id, answered_at, task_version
    )
    SELECT
        CAST($day AS DATE), article_id, title, url, published_at, {kept_answers}, coalesce(state, 'pending'),
        coalesce(blocked_request.code, failure.code), coalesce(blocked_request.message, reasons), finish_reason,
        model, api, input_tokens, output_tokens, cost_usd, article.custom_id, batch_id, answered_at, task_version
    FROM day_article($source, $task, $day) AS article SEMI JOIN unanswered_article USING (article_id)
    LEFT JOIN unanswered_request USING (custom_id) LEFT JOIN failure USING (custom_id)
    LEFT JOIN blocked_request USING (custom_id) LEFT JOIN kept_answer AS kept USING (article_id)
    ANTI JOIN (
        SELECT custom_id FROM valid_completion($api) SEMI JOIN unanswered_request USING (custom_id)
        WHERE place BETWEEN $first AND $last
    ) AS replaced_later ON replaced_later.custom_id = article.custom_id
"""


# With the name of the API, whose answers count; returns how many requests went on.
Escalate = Callable[[duckdb.DuckDBPyConnection, str], int]


@dataclass(frozen=True)
class ResultTable:
    """The table with the results of a task, which has the task's name.

    source: whose articles it has. columns: of the answers. schema: of the answers; None: the one column is their text.
    version: of what the task asks. is_vector: an answer is a vector, and no text.
    """

    task: str
    source: str
    columns: tuple[AnswerColumn, ...]
    schema: Mapping[str, Any] | None = None
    version: str | None = None
    is_vector: bool = False

    @property
    def name(self) -> str:
        """The name of the table, quoted."""
        return quoted(self.task)

    @property
    def column_names(self) -> list[str]:
        """The names of the columns of the answers, quoted."""
        return [quoted(column.name) for column in self.columns]

    @property
    def article_columns(self) -> dict[str, str]:
        """The columns of the article, and their types."""
        return article_columns(has_schema=self.schema is not None)

    def statement(self, template: str, **parts: str) -> str:
        """The statement for this table."""
        names = self.column_names
        return template.format(
            table=self.name,
            article=", ".join(self.article_columns),
            answers=", ".join(names),
            kept_answers=", ".join(f"kept.{name}" for name in names),
            has_answer=" OR ".join(f"{name} IS NOT NULL" for name in names),
            **parts,
        )


class WrittenDay(NamedTuple):
    """How many of the day's distinct requests are in each state, and when the pending ones may be sent.

    blocked: how many are blocked by what, see `BlockedBy`. next_attempt_at: UTC, without zone; None: at once, or none
    is pending.
    """

    requests: dict[str, int]
    blocked: dict[str, int]
    next_attempt_at: datetime | None


def prepare_table(connection: duckdb.DuckDBPyConnection, results: ResultTable) -> tuple[AnswerColumn, ...]:
    """Create the result table, or give it the columns that it lacks, in the present transaction. Returns the columns
    of the answers as the table has them: see `prepare_result_table`.
    """
    return prepare_result_table(connection, results.task, results.columns, has_schema=results.schema is not None)


def write_results(
    database: Database,
    results: ResultTable,
    day: str,
    rules: RequestStateRules,
    escalate: Escalate = lambda connection, api: 0,
) -> WrittenDay:
    """Replace the day in the result table. A day whose articles were pruned keeps what it has.

    escalate: gives requests that their step could not answer the name of the next step.
    """
    with database.writing() as connection:
        with transaction(connection):
            columns = prepare_table(connection, results)
            states = find_states(connection, TaskDay(results.task, day), rules)
            if not is_pruned_day(connection, results.source, day):
                _replace(connection, results, columns, states)
                if escalate(connection, rules.api):
                    # again, and after the first time: an answer that was cut stays until there is a better one
                    states = find_states(connection, TaskDay(results.task, day), rules)
                    _replace(connection, results, columns, states)
        return WrittenDay(states.counts(connection), states.blocked(connection), states.next_attempt_at(connection))


def _replace(
    connection: duckdb.DuckDBPyConnection,
    results: ResultTable,
    columns: Sequence[AnswerColumn],
    states: DayStates,
) -> None:
    connection.execute(parsed(DAY_ARTICLES))
    of_day = {"source": results.source, **states.day._asdict()}
    (unanswered,) = connection.execute(parsed(FIND_UNANSWERED_ARTICLES), of_day).fetchone() or (0,)
    if unanswered:
        kept = {"day": states.day.day, "api": states.rules.api}
        connection.execute(parsed(results.statement(KEEP_ANSWERS)), kept)
    connection.execute(f"DELETE FROM {results.name} WHERE partition_date = CAST(? AS DATE)", [states.day.day])
    parameters = {**of_day, **states.answer_range}
    with fixed_join_order(connection):
        more = {}
        if results.schema is not None:
            answers, more = typed_answers(results.columns, columns), {"structure": structure(results.schema)}
        else:
            answers = vector_answers(columns) if results.is_vector else text_answers(columns)
        materialized = "" if results.schema is None else "MATERIALIZED"
        statement = results.statement(ANSWERED, **answers._asdict(), materialized=materialized)
        connection.execute(parsed(statement), {**parameters, "version": results.version, **more})
    if unanswered:
        connection.execute(parsed(results.statement(NOT_ANSWERED)), parameters)


def is_pruned_day(connection: duckdb.DuckDBPyConnection, source: str, day: str) -> bool:
    """Whether `prune` deleted the articles of the day, and none were ingested since."""
    statement = "SELECT 1 FROM pruned_day WHERE source = ? AND partition_date = CAST(? AS DATE)"
    return connection.execute(statement, [source, day]).fetchone() is not None
