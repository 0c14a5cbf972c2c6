"""The asset `summaries`: the table that users read, with a summary for each article of the day."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC
from typing import Any

import dagster as dg
import openai as openai_client

from batch_assets.asset_keys import GROUP, OPENAI_BATCH, SUMMARIES
from batch_assets.assets.day_run import DayRun, known_days, on_each_day, raise_failures
from batch_assets.assets.openai_batch import why_over_budget
from batch_assets.batching.collection.collect import Collected, collect_day
from batch_assets.batching.collection.fetch import CollectionError
from batch_assets.batching.collection.report import DayReport, day_report
from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.requests import BlockedBy
from batch_assets.batching.ledger.schema import read_warehouse_id
from batch_assets.batching.ledger.spending import DaySpending
from batch_assets.batching.once import Once
from batch_assets.batching.planning.plan import planned_task
from batch_assets.batching.provider.identity import ApiIdentity, identify
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.checks import check_articles, check_usage, every_article_is_accounted_for, usage_adds_up
from batch_assets.day_events import (
    ERROR,
    REQUESTS_BLOCKED,
    REQUESTS_IN_FLIGHT,
    REQUESTS_PENDING,
    Origin,
    next_attempt_metadata,
)
from batch_assets.partitions import daily_partitions, days_per_run
from batch_assets.resources import BatchApi, SummaryTask, Warehouse
from batch_assets.same_warehouse import stop_if_batches_are_unknown, stop_if_of_another_warehouse

PREVIEW_ROWS = 5
PREVIEW = dg.TableSchema([dg.TableColumn("article", "string"), dg.TableColumn("summary", "string")])


SPEC = dg.AssetSpec(
    SUMMARIES,
    # As Dagster sees it, no day of `summaries` needs one of `openai_batch`: the sensor materializes it hours later. So
    # a backfill of several days ("Materialize all") has no days of `summaries`, which it would count as failed.
    deps=[dg.AssetDep(OPENAI_BATCH, partition_mapping=dg.SpecificPartitionsPartitionMapping([]))],
    description="One row for each article of the day: its summary, or why there is none yet.\n\nWhile batches of the "
    "day run, a run loads those that have ended and does not materialize the asset. The sensor requests another run "
    "when all have ended. The result files stay in `results/` of the data folder.",
    partitions_def=daily_partitions,
    group_name=GROUP,
    kinds={"duckdb"},
    skippable=True,
)


@dg.multi_asset(
    name="summaries",
    specs=[SPEC],
    check_specs=[every_article_is_accounted_for, usage_adds_up],
    can_subset=True,
    partitions_def=daily_partitions,
    backfill_policy=days_per_run,
)
@without_secrets_in_errors
def summaries(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    openai: dg.ResourceParam[BatchApi],
    task: dg.ResourceParam[SummaryTask],
) -> Iterator[dg.MaterializeResult]:
    """Collect each day of the run, several at a time. A day whose batches still run is not materialized."""
    run = DayRun(context, warehouse, openai, task)
    with ExitStack() as stack:
        client = Once(lambda: stack.enter_context(openai.get_client(context)))
        api = Once(lambda: identify(client(), warehouse.tables.warehouse_id()))
        known = Once(lambda: known_days(run))

        def one_day(day: str) -> None:
            collected = None
            if run.makes(SUMMARIES):
                stop_if_of_another_warehouse(day, known().events.get(day), known().warehouse_id)
                stop_if_batches_are_unknown(day, known().events.get(day), known().batches)
                run.stand_in()
                collected = _collect(run, client(), api, day)
                _log(run, collected, day)
                if _is_running(run, collected, day):
                    return
            _report(run, collected, day)

        errors = on_each_day(run, one_day)
    raise_failures(run, errors)
    yield from ()  # the materializations are in the event log


CHECKS = ((every_article_is_accounted_for, check_articles), (usage_adds_up, check_usage))


def _is_running(run: DayRun, collected: Collected, day: str) -> bool:
    """Whether the day is not complete: batches run, or request files wait. The run then does not materialize it."""
    still_running = len(collected.fetched.still_running)
    if not collected.requests_in_files and not still_running:
        return False
    run.info(
        day,
        f"{counted(collected.requests_in_files, 'request')} of {day} in flight; "
        f"{counted(still_running, 'batch', 'batches')} still running. The sensor materializes `summaries` when all "
        "batches have ended.",
    )
    return True


def _report(run: DayRun, collected: Collected | None, day: str) -> None:
    """Report the materialization of the day, if the run has collected it, and the checks that the run evaluates."""
    with run.warehouse.tables.reading() as connection:
        report = None if collected is None else day_report(connection, day, preview_rows=PREVIEW_ROWS)
        evaluations = [evaluate(connection, day) for check, evaluate in CHECKS if run.checks(check.key)]
        origin = Origin(run.location, read_warehouse_id(connection))
    if collected is not None and report is not None:
        metadata = _metadata(run.warehouse, origin, collected, report)
        run.report(dg.AssetMaterialization(SUMMARIES, partition=day, metadata=metadata))
    for evaluation in evaluations:
        run.report(evaluation)


def _collect(run: DayRun, client: openai_client.OpenAI, api: Once[ApiIdentity], day: str) -> Collected:
    warehouse, task = run.warehouse, run.task
    planned = planned_task(warehouse.tables, day)
    try:
        return collect_day(
            warehouse.tables,
            client,
            day=day,
            data_folder=warehouse.files,
            max_rounds=task.max_rounds,
            max_output_tokens=planned.max_output_tokens if planned else task.max_output_tokens,
            own_prices=task.prices,
            refusal=lambda name: why_over_budget(warehouse, task, day, name),
            timing=run.openai.timing,
            identify_api=api,
        )
    except CollectionError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def _log(run: DayRun, collected: Collected, day: str) -> None:
    for batch_id, loaded in collected.batches.items():
        run.info(day, f"{batch_id}: {loaded.answered} answered, {loaded.failed} not answered.")
        if loaded.quarantined:
            run.warning(day, f"{batch_id}: {counted(loaded.quarantined, 'line')} stored in `quarantined_line`.")
    for sentence in collected.fetched.elsewhere:
        run.warning(day, sentence)
    for batch_id in collected.fetched.missing:
        run.warning(day, f"The API does not find {batch_id} with the present key. Does another account have it?")
    for batch_id in collected.fetched.requeued:
        run.warning(day, f"{batch_id}: OpenAI had no capacity for it. A run sends its requests again.")


def _metadata(warehouse: Warehouse, origin: Origin, collected: Collected, report: DayReport) -> dict[str, Any]:
    next_attempt_at, database_bytes = collected.next_attempt_at, warehouse.tables.file_bytes
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
        **origin.as_metadata(),
        **({} if database_bytes is None else {"database_bytes": database_bytes}),
        # never Markdown: the browser of the user would fetch an image in a title
        "preview": dg.MetadataValue.table([dg.TableRecord(row) for row in report.cells()], schema=PREVIEW),
    }


def _costs(spending: DaySpending) -> dict[str, float]:
    """In USD: what was billed, unless a price is not known; and what the built-in engine simulated, if it did."""
    billed = {} if spending.cost_usd is None else {"cost_usd": round(spending.cost_usd, 6)}
    simulated = spending.simulated_cost_usd
    return {**billed, **({"simulated_cost_usd": round(simulated, 6)} if simulated else {})}
