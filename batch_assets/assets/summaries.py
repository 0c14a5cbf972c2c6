"""The table that users read: a summary for each article of the day."""

from collections.abc import Iterator
from datetime import UTC
from typing import Any

import dagster as dg

from batch_assets.assets.openai_batch import openai_batch, why_over_budget
from batch_assets.batching.collection.collect import Collected, collect_day
from batch_assets.batching.collection.fetch import CollectionError
from batch_assets.batching.collection.report import day_report
from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.requests import BlockedBy
from batch_assets.batching.ledger.spending import DaySpending
from batch_assets.batching.planning.plan import planned_task
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.day_events import (
    ERROR,
    REQUESTS_BLOCKED,
    REQUESTS_IN_FLIGHT,
    REQUESTS_PENDING,
    Origin,
    location_of_run,
    next_attempt_metadata,
)
from batch_assets.partitions import daily_partitions
from batch_assets.resources import BatchApi, SummaryTask, Warehouse
from batch_assets.same_warehouse import stop_if_batches_are_unknown, stop_if_the_stand_in_was_not_chosen

BACKFILL_TAG = "dagster/backfill"
PREVIEW_ROWS = 5
PREVIEW = dg.TableSchema([dg.TableColumn("article", "string"), dg.TableColumn("summary", "string")])


@dg.asset(
    deps=[openai_batch],
    partitions_def=daily_partitions,
    group_name="articles",
    kinds={"duckdb"},
    output_required=False,
)
@without_secrets_in_errors
def summaries(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    openai: dg.ResourceParam[BatchApi],
    task: dg.ResourceParam[SummaryTask],
) -> Iterator[dg.MaterializeResult]:
    """One row for each article of the day: its summary, or why there is none yet.

    While batches of the day run, the run loads those that have ended and does not materialize the asset, except in a
    backfill: Dagster would count the day as failed. The sensor requests another run when all have ended. The result
    files stay in `results/` of the data folder.
    """
    stop_if_batches_are_unknown(context, warehouse, openai_batch.key)
    if openai.is_stand_in:
        stop_if_the_stand_in_was_not_chosen(warehouse, openai, openai.identify(context, warehouse))
    collected = _collect(context, warehouse, openai, task)
    _log(context, collected)
    still_running = len(collected.fetched.still_running)
    if collected.requests_in_files or still_running:
        context.log.info(
            f"{counted(collected.requests_in_files, 'request')} of {context.partition_key} in flight; "
            f"{counted(still_running, 'batch', 'batches')} still running. The sensor materializes `summaries` when all "
            "batches have ended."
        )
        if BACKFILL_TAG not in context.run.tags:
            return
    yield dg.MaterializeResult(metadata=_metadata(context, warehouse, collected))


def _collect(context: dg.AssetExecutionContext, warehouse: Warehouse, openai: BatchApi, task: SummaryTask) -> Collected:
    planned = planned_task(warehouse.tables, context.partition_key)
    with openai.get_client(context) as client:
        try:
            return collect_day(
                warehouse.tables,
                client,
                day=context.partition_key,
                data_folder=warehouse.files,
                max_rounds=task.max_rounds,
                max_output_tokens=planned.max_output_tokens if planned else task.max_output_tokens,
                own_prices=task.prices,
                refusal=lambda api: why_over_budget(warehouse, task, context.partition_key, api),
                timing=openai.timing,
            )
        except CollectionError as error:
            raise dg.Failure(str(error)) from error


def _log(context: dg.AssetExecutionContext, collected: Collected) -> None:
    for batch_id, loaded in collected.batches.items():
        context.log.info(f"{batch_id}: {loaded.answered} answered, {loaded.failed} not answered.")
        if loaded.quarantined:
            context.log.warning(f"{batch_id}: {counted(loaded.quarantined, 'line')} stored in `quarantined_line`.")
    for sentence in collected.fetched.elsewhere:
        context.log.warning(sentence)
    for batch_id in collected.fetched.missing:
        context.log.warning(f"The API does not find {batch_id} with the present key. Does another account have it?")
    for batch_id in collected.fetched.requeued:
        context.log.warning(f"{batch_id}: OpenAI had no capacity for it. A run sends its requests again.")


def _metadata(context: dg.AssetExecutionContext, warehouse: Warehouse, collected: Collected) -> dict[str, Any]:
    next_attempt_at = collected.next_attempt_at
    report = day_report(warehouse.tables, context.partition_key, preview_rows=PREVIEW_ROWS)
    database_bytes = warehouse.tables.file_bytes
    return {
        "dagster/partition_row_count": report.articles,
        "answered": report.by_status.get("answered", 0),
        "failed": report.by_status.get("failed", 0),
        # articles, not requests: an article that is newer than the last plan has no request yet
        REQUESTS_PENDING: report.by_status.get("pending", 0) + collected.blocked.get(BlockedBy.ACCOUNT, 0),
        REQUESTS_BLOCKED: collected.blocked.get(BlockedBy.FILE, 0),
        REQUESTS_IN_FLIGHT: collected.requests_in_files or len(collected.fetched.still_running),
        **({} if report.blocked_by is None else {ERROR: as_message(report.blocked_by)}),
        **next_attempt_metadata(None if next_attempt_at is None else next_attempt_at.replace(tzinfo=UTC)),
        "answered_by": ", ".join(report.apis),
        "input_tokens": report.spending.input_tokens,
        "output_tokens": report.spending.output_tokens,
        "reasoning_share": round(report.spending.reasoning_share, 3),
        **_costs(report.spending),
        **Origin(location_of_run(context.run), warehouse.tables.warehouse_id()).as_metadata(),
        **({} if database_bytes is None else {"database_bytes": database_bytes}),
        # never Markdown: the browser of the user would fetch an image in a title
        "preview": dg.MetadataValue.table([dg.TableRecord(row) for row in report.cells()], schema=PREVIEW),
    }


def _costs(spending: DaySpending) -> dict[str, float]:
    """In USD: what was billed, unless a price is not known; and what the built-in engine simulated, if it did."""
    billed = {} if spending.cost_usd is None else {"cost_usd": round(spending.cost_usd, 6)}
    simulated = spending.simulated_cost_usd
    return {**billed, **({"simulated_cost_usd": round(simulated, 6)} if simulated else {})}
