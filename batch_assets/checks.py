"""Asset checks: the budgets before a submission, and the tables after the collection. Each day keeps its own result."""

import warnings
from collections.abc import Callable

import dagster as dg

from batch_assets.assets import batch_request_file, openai_batch, summaries
from batch_assets.assets.openai_batch import PAUSE_WHILE_OVER_BUDGET, report_to_sensor
from batch_assets.batching.collection.day_summaries import is_pruned_day
from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.spending import unattributed_batches
from batch_assets.batching.planning.estimate import estimate_day
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.day_events import Origin, location_of_run
from batch_assets.partitions import daily_partitions
from batch_assets.resources import BatchApi, SummaryTask, Warehouse


def _daily_check(
    asset: dg.AssetsDefinition, *, blocking: bool = False
) -> Callable[[Callable[..., dg.AssetCheckResult]], dg.AssetChecksDefinition]:
    """An asset check with the partitions of its asset. Without them, the result of a day would replace that of another.

    Dagster calls the partitions of a check a preview, and warns each process that loads it. `test_checks.py` tests what
    this project relies on.
    """

    def decorate(function: Callable[..., dg.AssetCheckResult]) -> dg.AssetChecksDefinition:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.PreviewWarning)
            return dg.asset_check(asset=asset, blocking=blocking, partitions_def=daily_partitions)(function)

    return decorate


@_daily_check(batch_request_file, blocking=True)
@without_secrets_in_errors
def day_is_within_budget(
    context: dg.AssetCheckExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    task: dg.ResourceParam[SummaryTask],
    openai: dg.ResourceParam[BatchApi],
) -> dg.AssetCheckResult:
    """Blocks a day whose estimate is above a budget: no run uploads its files.

    The budgets are BATCH_ASSETS_MAX_COST_USD and BATCH_ASSETS_MAX_COST_USD_PER_MONTH. They count everything that was
    spent, earlier prompts and refreshes included. `openai_batch` checks them again before it creates a batch.
    """
    api = openai.identify(context, warehouse)
    if api.is_assumed:  # its prices may differ, and no later run would submit a day that is blocked here
        return dg.AssetCheckResult(
            passed=True, description="The API does not answer; `openai_batch` checks the budgets when it does."
        )
    with warehouse.tables.reading() as connection:
        estimate = estimate_day(connection, context.partition_key, api=api.name, own_prices=task.prices)
    budget = task.limits.budget
    figures: dict[str, float | None] = {
        "spent_usd": estimate.spent_usd,
        "estimated_usd": estimate.expected_usd,
        "month_usd": estimate.month_usd,
        "limit_usd": budget.max_cost_usd_per_day,
        "month_limit_usd": budget.max_cost_usd_per_month,
    }
    why_not = estimate.why_not_within(budget)
    if why_not is not None and openai_batch.key in context.job_def.asset_layer.executable_asset_keys:
        # the check stops `openai_batch` of this run, so it is the check that lets the sensor name the day
        origin = Origin(location_of_run(context.run), warehouse.tables.warehouse_id(), api.name)
        report_to_sensor(context, warehouse, origin, PAUSE_WHILE_OVER_BUDGET, why_not.message)
    return dg.AssetCheckResult(
        passed=why_not is None,
        description=None if why_not is None else why_not.message,
        metadata={
            "requests": estimate.requests,
            "is_calibrated": estimate.is_calibrated,
            **{name: figure for name, figure in figures.items() if figure is not None},
        },
    )


@_daily_check(summaries)
@without_secrets_in_errors
def every_article_is_accounted_for(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Each article has exactly one row in `summaries`: answered, in flight, pending, blocked or failed with a
    reason.

    The summaries of a day whose articles were pruned (`batch-assets prune --tables`) are checked, and not compared with
    articles.
    """
    with warehouse.tables.reading() as connection:
        found = connection.execute(
            """
            WITH article AS (SELECT article_id FROM raw_articles WHERE partition_date = CAST($day AS DATE)),
            summary AS (SELECT * FROM summaries WHERE partition_date = CAST($day AS DATE)),
            comparable AS (SELECT * FROM summary ANTI JOIN pruned_day USING (partition_date))
            SELECT
                (SELECT count(*) FROM article) AS articles,
                (SELECT count(*) FROM article ANTI JOIN summary USING (article_id)) AS without_row,
                (SELECT count(*) FROM comparable ANTI JOIN article USING (article_id)) AS without_article,
                (SELECT count(*) - count(DISTINCT article_id) FROM summary) AS duplicate_rows,
                (SELECT count(*) FROM summary WHERE status = 'answered' AND summary IS NULL) AS without_summary,
                (SELECT count(*) FROM summary WHERE status = 'failed' AND error_code IS NULL) AS without_reason
            """,
            {"day": context.partition_key},
        )
        names = [column[0] for column in found.description]
        counts: dict[str, int] = dict(zip(names, found.fetchall()[0], strict=True))
        is_pruned = is_pruned_day(connection, context.partition_key)
    return dg.AssetCheckResult(
        passed=not any(count for name, count in counts.items() if name != "articles"),
        description="The articles of the day were pruned: its summaries are not compared with them."
        if is_pruned
        else None,
        metadata=counts,
    )


@_daily_check(summaries)
@without_secrets_in_errors
def usage_adds_up(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """The tokens that a batch billed are the sum of the tokens of its requests' lines.

    The rest is in `spending` as `unattributed`: OpenAI billed it, and no article shows it.
    """
    with warehouse.tables.reading() as connection:
        rows = unattributed_batches(connection, context.partition_key)
    batches = counted(len(rows), "batch", "batches")
    return dg.AssetCheckResult(
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
