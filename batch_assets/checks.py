"""What must hold of the tables."""

import dagster as dg

from batch_assets.assets import batch_request_file, summaries
from batch_assets.batching.clean_errors import without_secrets_in_errors
from batch_assets.batching.costs import estimate_day
from batch_assets.resources import SummaryTask, Warehouse


@dg.asset_check(asset=batch_request_file, blocking=True)
@without_secrets_in_errors
def day_is_within_budget(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse], task: dg.ResourceParam[SummaryTask]
) -> dg.AssetCheckResult:
    """A day that is estimated dearer than BATCH_ASSETS_MAX_COST_USD goes no further: nothing of it is uploaded."""
    if not context.has_partition_key:
        return dg.AssetCheckResult(passed=True, description="Looks at the day of a run; executed by itself, at none.")
    with warehouse.tables.reading() as connection:
        estimate = estimate_day(connection, context.partition_key)
    limit = task.max_cost_usd
    figures: dict[str, float | None] = {
        "spent_usd": estimate.spent_usd,
        "estimated_usd": estimate.expected_usd,
        "limit_usd": limit,
    }
    is_within = limit is None or estimate.is_within(limit)
    return dg.AssetCheckResult(
        passed=is_within,
        description=None if is_within or limit is None else estimate.sentence(limit),
        metadata={
            "requests": estimate.requests,
            "is_calibrated": estimate.is_calibrated,
            **{name: figure for name, figure in figures.items() if figure is not None},
        },
    )


@dg.asset_check(asset=summaries)
@without_secrets_in_errors
def every_article_is_accounted_for(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """Each article has exactly one row in `summaries`: summarised, in flight, owed, or failed with a reason.

    Looks at the day of the run; executed by itself, at all days that have summaries.
    """
    day = context.partition_key if context.has_partition_key else None
    with warehouse.tables.reading() as connection:
        found = connection.execute(
            """
            WITH days AS (
                SELECT DISTINCT partition_date FROM summaries WHERE $day IS NULL
                UNION SELECT CAST($day AS DATE) WHERE $day IS NOT NULL
            ),
            article AS (SELECT partition_date, article_id FROM raw_articles SEMI JOIN days USING (partition_date)),
            summary AS (SELECT * FROM summaries SEMI JOIN days USING (partition_date))
            SELECT
                (SELECT count(*) FROM article) AS articles,
                (SELECT count(*) FROM article ANTI JOIN summary USING (partition_date, article_id)) AS without_row,
                (SELECT count(*) FROM summary ANTI JOIN article USING (partition_date, article_id)) AS without_article,
                (SELECT count(*) - count(DISTINCT (partition_date, article_id)) FROM summary) AS rows_too_many,
                (SELECT count(*) FROM summary WHERE status = 'summarised' AND summary IS NULL) AS without_summary,
                (SELECT count(*) FROM summary WHERE status = 'failed' AND error_code IS NULL) AS without_reason
            """,
            {"day": day},
        )
        names = [column[0] for column in found.description]
        counts: dict[str, int] = dict(zip(names, found.fetchall()[0], strict=True))
    return dg.AssetCheckResult(
        passed=not any(count for name, count in counts.items() if name != "articles"), metadata=counts
    )


@dg.asset_check(asset=summaries)
@without_secrets_in_errors
def usage_adds_up(
    context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
) -> dg.AssetCheckResult:
    """What OpenAI says that a batch used is the sum of what it says that its answers used.

    Looks at the batches whose requests were all answered, and that report their usage at all. A difference means that
    costs in the tables are not those of the bill; the answers themselves are as good as ever, so it only warns.
    """
    day = context.partition_key if context.has_partition_key else None
    with warehouse.tables.reading() as connection:
        rows = connection.execute(
            """
            SELECT batch_id, openai_batch.input_tokens - sum(completion.input_tokens),
                openai_batch.output_tokens - sum(completion.output_tokens)
            FROM openai_batch JOIN completion USING (batch_id)
            WHERE ($day IS NULL OR partition_date = CAST($day AS DATE)) AND openai_batch.input_tokens IS NOT NULL
            GROUP BY batch_id, openai_batch.input_tokens, openai_batch.output_tokens, requests_total
            HAVING count(*) = requests_total
            """,
            {"day": day},
        ).fetchall()
    off = [batch_id for batch_id, input_tokens, output_tokens in rows if input_tokens or output_tokens]
    return dg.AssetCheckResult(
        passed=not off,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"The usage of {len(off)} batches is not the sum over their lines." if off else None,
        metadata={
            "batches_compared": len(rows),
            # not in the description, which Dagster renders as Markdown: ids are the API's words
            "batches_off": dg.MetadataValue.json(off),
            "input_tokens_more_than_the_lines": sum(row[1] for row in rows),
            "output_tokens_more_than_the_lines": sum(row[2] for row in rows),
        },
    )
