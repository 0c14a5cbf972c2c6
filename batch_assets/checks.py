"""Asset checks: the budgets before a submission, and the tables after the collection. Each day keeps its own result.

The run that materializes an asset evaluates its checks. Dagster gives the result that an asset check returns no
partition in a run of several days, so the run writes an evaluation of each day to the event log.
"""

import warnings

import dagster as dg
import duckdb

from batch_assets.batching.collection.day_results import ResultTable, is_pruned_day
from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.day_spending import unattributed_batches
from batch_assets.batching.planning.estimate import Estimate, estimate_day
from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.task_set import DeclaredTask

BUDGET, ARTICLES, USAGE = "day_is_within_budget", "every_article_is_accounted_for", "usage_adds_up"


def daily_check(name: str, declared: DeclaredTask, asset: dg.AssetKey, description: str) -> dg.AssetCheckSpec:
    """An asset check with partitions. Without them, the result of a day would replace that of another.

    Dagster calls the partitions of a check a preview, and warns each process that loads it. `test_checks.py` tests what
    this project relies on.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(name, asset=asset, description=description, partitions_def=declared.partitions_def)


def budget_check(declared: DeclaredTask) -> dg.AssetCheckSpec:
    return daily_check(
        BUDGET,
        declared,
        declared.keys.batch_request_file,
        "Fails for a day whose estimate is above a budget: the run uploads none of its files.\n\nThe budgets are "
        "BATCH_ASSETS_MAX_COST_USD and BATCH_ASSETS_MAX_COST_USD_PER_MONTH, for all tasks together, and `max_cost_usd` "
        "of the task. They count everything that was spent, earlier prompts and refreshes included. `openai_batch` "
        "checks them again before it creates a batch.",
    )


def articles_check(declared: DeclaredTask) -> dg.AssetCheckSpec:
    return daily_check(
        ARTICLES,
        declared,
        declared.keys.results,
        "Each article has exactly one row: answered, in flight, pending, blocked or failed with a reason."
        "\n\nThe results of a day whose articles were pruned (`batch-assets prune --tables`) are checked, and not "
        "compared with articles.",
    )


def usage_check(declared: DeclaredTask) -> dg.AssetCheckSpec:
    return daily_check(
        USAGE,
        declared,
        declared.keys.results,
        "The tokens that a batch billed are the sum of the tokens of its requests' lines.\n\nThe rest is in `spending` "
        "as `unattributed`: OpenAI billed it, and no article shows it.",
    )


def evaluation_of_day(
    asset: dg.AssetKey,
    check: str,
    day: str,
    *,
    passed: bool,
    description: str | None,
    metadata: dict[str, dg.MetadataValue | int | float | bool],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=asset,
        check_name=check,
        passed=passed,
        metadata=metadata,
        severity=severity,
        description=description,
        partition=day,
    )


def check_budget(
    connection: duckdb.DuckDBPyConnection, declared: DeclaredTask, limits: Limits, api: ApiIdentity, day: str
) -> tuple[dg.AssetCheckEvaluation, Estimate | None]:
    """Evaluate `day_is_within_budget`; with the estimate, if the API is known."""
    asset = declared.keys.batch_request_file
    if api.is_assumed:  # its prices may differ
        answer = "The API does not answer; `openai_batch` checks the budgets when it does."
        return evaluation_of_day(asset, BUDGET, day, passed=True, description=answer, metadata={}), None
    estimate = estimate_day(connection, declared.task.on(day), api=api.name, own_prices=limits.own_prices)
    budget = limits.budget
    figures: dict[str, float | None] = {
        "spent_usd": estimate.spent_usd,
        "estimated_usd": estimate.expected_usd,
        "other_tasks_usd": estimate.other_tasks_usd or None,
        "month_usd": estimate.month_usd,
        "limit_usd": budget.max_cost_usd_per_day,
        "task_limit_usd": budget.tasks.get(declared.name),
        "month_limit_usd": budget.max_cost_usd_per_month,
    }
    why_not = estimate.why_not_within(budget)
    evaluation = evaluation_of_day(
        asset,
        BUDGET,
        day,
        passed=why_not is None,
        description=None if why_not is None else why_not.message,
        metadata={
            "requests": estimate.requests,
            "is_calibrated": estimate.is_calibrated,
            **{name: figure for name, figure in figures.items() if figure is not None},
        },
    )
    return evaluation, estimate


ACCOUNTED = """
    WITH article AS (
        SELECT article_id FROM raw_articles WHERE source = $source AND partition_date = CAST($day AS DATE)
    ),
    result AS (SELECT * FROM {table} WHERE partition_date = CAST($day AS DATE)),
    comparable AS (
        SELECT * FROM result ANTI JOIN (SELECT partition_date FROM pruned_day WHERE source = $source) AS pruned
        USING (partition_date)
    )
    SELECT
        (SELECT count(*) FROM article) AS articles,
        (SELECT count(*) FROM article ANTI JOIN result USING (article_id)) AS without_row,
        (SELECT count(*) FROM comparable ANTI JOIN article USING (article_id)) AS without_article,
        (SELECT count(*) - count(DISTINCT article_id) FROM result) AS duplicate_rows,
        (SELECT count(*) FROM result WHERE status = 'answered' AND {has_no_answer}) AS without_answer,
        (SELECT count(*) FROM result WHERE status = 'failed' AND error_code IS NULL) AS without_reason
"""


def check_articles(
    connection: duckdb.DuckDBPyConnection, declared: DeclaredTask, results: ResultTable, day: str
) -> dg.AssetCheckEvaluation:
    """Evaluate `every_article_is_accounted_for`."""
    # every field of an answer with an output schema may be null
    has_no_answer = f"{results.column_names[0]} IS NULL" if results.schema is None else "answered_at IS NULL"
    statement = ACCOUNTED.format(table=results.name, has_no_answer=has_no_answer)
    found = connection.execute(statement, {"source": results.source, "day": day})
    names = [column[0] for column in found.description]
    counts: dict[str, int] = dict(zip(names, found.fetchall()[0], strict=True))
    is_pruned = is_pruned_day(connection, results.source, day)
    return evaluation_of_day(
        declared.keys.results,
        ARTICLES,
        day,
        passed=not any(count for name, count in counts.items() if name != "articles"),
        description="The articles of the day were pruned: its results are not compared with them."
        if is_pruned
        else None,
        metadata={**counts},
    )


def check_usage(connection: duckdb.DuckDBPyConnection, declared: DeclaredTask, day: str) -> dg.AssetCheckEvaluation:
    """Evaluate `usage_adds_up`."""
    rows = unattributed_batches(connection, declared.task.on(day))
    batches = counted(len(rows), "batch", "batches")
    return evaluation_of_day(
        declared.keys.results,
        USAGE,
        day,
        passed=not rows,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{batches} billed more tokens than the lines of the requests." if rows else None,
        metadata={
            # not in the description, which Dagster renders as Markdown: an API may return any text as an id
            "batches_off": dg.MetadataValue.json([row.batch_id for row in rows]),
            "input_tokens_more_than_the_lines": sum(row.input_tokens for row in rows),
            "output_tokens_more_than_the_lines": sum(row.output_tokens for row in rows),
        },
    )
