"""Compares the answers of two tasks for the articles of a day, with their tokens and costs. Changes nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from batch_assets.batching.collection.day_results import ResultTable
from batch_assets.batching.collection.result_table import FIND_COLUMNS
from batch_assets.batching.ledger.result_tables import tasks_with_results
from batch_assets.batching.ledger.synchronous_calls import CALL_PREFIX
from batch_assets.output_schema.columns import folded, quoted

ANSWER, VECTOR = "answer", "vector"  # what the answer of a task without fields is called, whatever its column is called

# `answer` has all fields as JSON, `common` those that both tasks have: these are compared.
SIDE = """
    CREATE OR REPLACE TEMP TABLE {side} AS
    SELECT
        article_id, result.{title} AS title, result.{published_at} AS published_at, status,
        status = 'answered' AS is_answered,
        CASE WHEN is_answered THEN to_json({answer})::VARCHAR END AS answer,
        CASE WHEN is_answered THEN to_json({common})::VARCHAR END AS common,
        CASE WHEN NOT is_answered THEN concat_ws(': ', error_code, error_message) END AS reason,
        result.model, result.api, result.input_tokens, result.output_tokens,
        coalesce(result.cost_usd, completion.simulated_cost_usd) AS usd,
        completion.simulated_cost_usd IS NOT NULL AS is_simulated, result.custom_id,
        coalesce(starts_with(result.batch_id, $call_prefix), false) AS is_synchronous
    FROM {table} AS result LEFT JOIN completion USING (custom_id)
    WHERE partition_date = CAST($day AS DATE)
"""
TOTALS = """
    WITH request AS (
        SELECT
            any_value(input_tokens) AS input_tokens, any_value(output_tokens) AS output_tokens, any_value(usd) AS usd,
            any_value(is_simulated) AS is_simulated, any_value(is_synchronous) AS is_synchronous
        FROM {side} WHERE is_answered GROUP BY custom_id
    )
    SELECT
        (SELECT count(*) FROM {side}), (SELECT count(*) FROM {side} WHERE is_answered),
        (SELECT count(*) FROM {side} WHERE status = 'failed'),
        coalesce(sum(input_tokens), 0)::BIGINT, coalesce(sum(output_tokens), 0)::BIGINT,
        CASE WHEN bool_and(usd IS NOT NULL) THEN sum(usd) END, coalesce(bool_or(is_simulated), false),
        count(*) FILTER (is_synchronous),
        (SELECT list(DISTINCT model ORDER BY model) FROM {side} WHERE is_answered AND model IS NOT NULL)
    FROM request
"""
COUNT_EQUAL = """
    SELECT count(*), count(*) FILTER (a.common = b.common)
    FROM side_a AS a JOIN side_b AS b USING (article_id) WHERE a.is_answered AND b.is_answered
"""
ARTICLES = """
    SELECT
        article_id, coalesce(a.title, b.title, ''),
        a.status, a.answer, a.reason, a.input_tokens, a.output_tokens, a.usd,
        b.status, b.answer, b.reason, b.input_tokens, b.output_tokens, b.usd
    FROM side_a AS a FULL JOIN side_b AS b USING (article_id)
    ORDER BY coalesce(a.published_at, b.published_at), article_id LIMIT $limit
"""


class ComparisonError(Exception):
    """The tasks cannot be compared; the message says what to do."""


@dataclass(frozen=True)
class Side:
    """What a task has for an article.

    status: as in its table; None: the task has no such article. values: the fields of the answer; None: it is not
    answered. Of a vector, `values` has only its length. usd: None if the price is not known.
    """

    status: str | None
    values: Mapping[str, Any] | None
    reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    usd: float | None


@dataclass(frozen=True)
class ComparedArticle:
    """An article with what both tasks have for it. differing: the fields that both have, with other values."""

    article_id: str
    title: str
    sides: tuple[Side, Side]
    differing: frozenset[str]


@dataclass(frozen=True)
class Totals:
    """The sums of a task's day. Tokens and USD are those of the answers; equal articles share one.

    usd: None if a price is not known. is_simulated: of the built-in engine, which bills nothing.
    synchronous: how many of the answers were asked outside of a batch, at the standard price.
    """

    articles: int
    answered: int
    failed: int
    input_tokens: int
    output_tokens: int
    usd: float | None
    is_simulated: bool
    synchronous: int
    models: tuple[str, ...]

    @property
    def usd_per_1000_articles(self) -> float | None:
        return None if self.usd is None or not self.answered else self.usd / self.answered * 1000


@dataclass(frozen=True)
class Comparison:
    """Two tasks of a day. fields: of either, in the order of the tables. common: those that both have.

    both_answered, equal: of the articles that both tasks have answered, and of these those whose common fields are
    equal. Vectors are not compared: those of two models have nothing in common.
    """

    day: str
    tasks: tuple[str, str]
    fields: tuple[str, ...]
    common: frozenset[str]
    totals: tuple[Totals, Totals]
    both_answered: int
    equal: int
    articles: Sequence[ComparedArticle]

    @property
    def equal_share(self) -> float | None:
        """None if nothing can be compared."""
        return self.equal / self.both_answered if self.both_answered and self.common else None


def compare_day(
    connection: duckdb.DuckDBPyConnection, day: str, tables: tuple[ResultTable, ResultTable], limit: int
) -> Comparison:
    """Compare the tables of two tasks for the day, and list the first `limit` articles. Raises ComparisonError."""
    known = tasks_with_results(connection)
    for table in tables:
        if table.task not in known:
            raise ComparisonError(f"The task {table.task} has no results yet: materialize a day of it first.")
    fields = [_fields(connection, table) for table in tables]
    common = [name for name in fields[0] if name in fields[1] and name != VECTOR]
    for side, table, of_table in zip(("side_a", "side_b"), tables, fields, strict=True):
        title, _, published_at = table.article_columns
        statement = SIDE.format(
            side=side,
            table=table.name,
            title=title,
            published_at=published_at,
            answer=_struct(of_table),
            common=_struct({name: of_table[name] for name in common}),
        )
        connection.execute(statement, {"day": day, "call_prefix": CALL_PREFIX})
    totals = _totals(connection, "side_a"), _totals(connection, "side_b")
    if not totals[0].articles and not totals[1].articles:
        names = " and ".join(table.task for table in tables)
        raise ComparisonError(f"{names} have no results of {day}: materialize the day first.")
    both_answered, equal = connection.execute(COUNT_EQUAL).fetchone() or (0, 0)
    rows = connection.execute(ARTICLES, {"limit": limit}).fetchall()
    return Comparison(
        day=day,
        tasks=(tables[0].task, tables[1].task),
        fields=tuple(dict.fromkeys((*fields[0], *fields[1]))),
        common=frozenset(common),
        totals=totals,
        both_answered=both_answered,
        equal=equal,
        articles=[_article(row, common) for row in rows],
    )


def _fields(connection: duckdb.DuckDBPyConnection, table: ResultTable) -> dict[str, str]:
    """SQL of each field of an answer that the table has, by its name."""
    if table.is_vector:
        return {VECTOR: f"len(result.{table.column_names[0]})"}
    if table.schema is None:
        return {ANSWER: f"result.{table.column_names[0]}"}
    found = connection.execute(FIND_COLUMNS, {"table": table.task}).fetchall()
    present = {folded(name) for name, *_ in found}
    names = [column.name for column in table.columns if folded(column.name) in present]
    return {name: f"result.{quoted(name)}" for name in names}


def _struct(fields: Mapping[str, str]) -> str:
    return (
        f"struct_pack({', '.join(f'{quoted(name)} := {value}' for name, value in fields.items())})" if fields else "''"
    )


def _totals(connection: duckdb.DuckDBPyConnection, side: str) -> Totals:
    row = connection.execute(TOTALS.format(side=side)).fetchone()
    assert row is not None  # an aggregate without GROUP BY has one row
    articles, answered, failed, inputs, outputs, usd, is_simulated, synchronous, models = row
    return Totals(articles, answered, failed, inputs, outputs, usd, is_simulated, synchronous, tuple(models or ()))


def _article(row: Sequence[Any], common: Sequence[str]) -> ComparedArticle:
    article_id, title, *rest = row
    a, b = _side(rest[:6]), _side(rest[6:])
    differing: frozenset[str] = frozenset()
    if a.values is not None and b.values is not None:
        differing = frozenset(name for name in common if a.values[name] != b.values[name])
    return ComparedArticle(article_id, title, (a, b), differing)


def _side(row: Sequence[Any]) -> Side:
    status, answer, reason, input_tokens, output_tokens, usd = row
    return Side(
        status, None if answer is None else json.loads(answer), reason or None, input_tokens, output_tokens, usd
    )
