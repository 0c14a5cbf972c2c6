"""The asset with the results of a task: the table that users read, with an answer for each article of the day."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC
from typing import Any

import dagster as dg
import openai as openai_client
from dagster._core.definitions.data_version import CODE_VERSION_TAG

from batch_assets.asset_tables import result_metadata, uri_metadata
from batch_assets.assets.day_metadata import (
    PREVIEW_ROWS,
    batches_metadata,
    figures_metadata,
    preview_metadata,
    steps_metadata,
)
from batch_assets.assets.day_run import DayRun, TaskRun, known_days, on_each_day, raise_failures
from batch_assets.assets.openai_batch import why_over_budget
from batch_assets.batching.collection.collect import Collected, collect_day
from batch_assets.batching.collection.day_results import ResultTable, prepare_table
from batch_assets.batching.collection.fetch import CollectionError
from batch_assets.batching.collection.report import DayReport, day_report
from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.batch_figures import BatchFigures, batches_of_days
from batch_assets.batching.ledger.database import transaction
from batch_assets.batching.ledger.day_figures import figures_of_collected_day
from batch_assets.batching.ledger.requests import BlockedBy
from batch_assets.batching.ledger.schema import read_warehouse_id
from batch_assets.batching.ledger.step_spending import spending_by_step
from batch_assets.batching.once import Once
from batch_assets.batching.planning.escalation import escalate
from batch_assets.batching.planning.plan import planned_task
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.identity import ApiIdentity, identify
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.checks import ARTICLES, USAGE, articles_check, check_articles, check_usage, usage_check
from batch_assets.day_events import (
    REQUESTS_BLOCKED,
    REQUESTS_IN_FLIGHT,
    REQUESTS_PENDING,
    Cause,
    Origin,
    error_metadata,
    next_attempt_metadata,
)
from batch_assets.figure_checks import RESULTS_CHECKS, results_checks
from batch_assets.resources import WAREHOUSE, Warehouse
from batch_assets.same_warehouse import stop_if_batches_are_unknown, stop_if_of_another_warehouse
from batch_assets.task_set import DeclaredTask, TaskSet


def results_spec(declared: DeclaredTask) -> dg.AssetSpec:
    return dg.AssetSpec(
        declared.keys.results,
        # As Dagster sees it, no day of the results needs one of `openai_batch`: the sensor materializes it hours later.
        # So a backfill of several days ("Materialize all") has no days of the results, which it would count as failed.
        deps=[
            dg.AssetDep(declared.keys.openai_batch, partition_mapping=dg.SpecificPartitionsPartitionMapping([])),
        ],
        description=(f"{declared.description}\n\n" if declared.description else "")
        + "One row for each article of the day: its answer, or why there is none yet.\n\nWhile batches of the "
        "day run, a run loads those that have ended and does not materialize the asset. The sensor requests another "
        "run when all have ended. The result files stay in `results/` of the data folder.",
        partitions_def=declared.partitions_def,
        group_name=declared.group_name,
        owners=list(declared.owners),
        tags=declared.tags,
        kinds={"duckdb"},
        code_version=declared.task.version,
        metadata=result_metadata(declared),
        skippable=True,
    )


def make_results(tasks: TaskSet, declared: DeclaredTask) -> dg.AssetsDefinition:
    """The result table of the task."""
    key = declared.keys.results

    @without_secrets_in_errors
    def results(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
        """Collect each day of the run, several at a time. A day whose batches still run is not materialized."""
        resources = context.resources
        run = DayRun(context, getattr(resources, WAREHOUSE), getattr(resources, declared.openai), tasks)
        _collect_days(run.of(declared))
        yield from ()  # the materializations are in the event log

    return dg.multi_asset(
        name="__".join(key.path),
        specs=[results_spec(declared)],
        check_specs=[articles_check(declared), usage_check(declared), *results_checks(declared)],
        can_subset=True,
        partitions_def=declared.partitions_def,
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=tasks.days_per_run),
        required_resource_keys={WAREHOUSE, declared.openai},
    )(results)


def _collect_days(task: TaskRun) -> None:
    run, keys = task.run, task.keys
    with ExitStack() as stack:
        client = Once(lambda: stack.enter_context(run.openai.get_client(run.context)))
        api = Once(lambda: identify(client(), run.warehouse.tables.warehouse_id()))
        known = Once(lambda: known_days(task))

        def one_day(day: str) -> None:
            collected = None
            if run.makes(keys.results):
                event = known().events.get(day)
                stop_if_of_another_warehouse(keys.openai_batch, day, event, known().warehouse_id)
                stop_if_batches_are_unknown(keys.openai_batch, day, event, known().batches)
                run.stand_in()
            # what the task asked in the last plan of the day: its configuration may have changed since
            asked = planned_task(run.warehouse.tables, task.on(day)) or task.task
            if run.makes(keys.results):
                collected = _collect(task, client(), api, asked, day)
                _log(task, collected, day)
                if _is_running(task, collected, day):
                    return
            _report(task, task.declared.table_of(asked), collected, day)

        errors = on_each_day(run, one_day)
    raise_failures(run, errors)


def _is_running(task: TaskRun, collected: Collected, day: str) -> bool:
    """Whether the day is not complete: batches run, or request files wait. The run then does not materialize it."""
    still_running = len(collected.fetched.still_running)
    if not collected.requests_in_files and not still_running:
        return False
    task.info(
        day,
        f"{counted(collected.requests_in_files, 'request')} of {day} in flight; "
        f"{counted(still_running, 'batch', 'batches')} still running. The sensor materializes "
        f"`{task.keys.results.to_user_string()}` when all batches have ended.",
    )
    return True


def _report(task: TaskRun, results: ResultTable, collected: Collected | None, day: str) -> None:
    """Report the materialization of the day, if the run has collected it, and the checks that the run evaluates."""
    run, declared = task.run, task.declared
    if collected is None:  # a run of the checks alone
        with run.warehouse.tables.writing() as connection, transaction(connection):
            prepare_table(connection, results)
    of_day, key = task.on(day), task.keys.results
    with run.warehouse.tables.reading() as connection:
        figures = figures_of_collected_day(connection, of_day)
        batches = batches_of_days(connection, day, day, task.task.name)
        report = None if collected is None else day_report(connection, results, figures, preview_rows=PREVIEW_ROWS)
        steps = spending_by_step(connection, of_day) if report is not None else []
        evaluations = []
        if run.checks(key, ARTICLES):
            evaluations.append(check_articles(connection, declared, results, day))
        if run.checks(key, USAGE):
            evaluations.append(check_usage(connection, declared, day))
        evaluations += [
            check(declared, figures, batches) for name, check in RESULTS_CHECKS.items() if run.checks(key, name)
        ]
        origin = Origin(run.location, read_warehouse_id(connection))
    if collected is not None and report is not None:
        metadata = {**_metadata(run.warehouse, origin, collected, report, batches), **steps_metadata(steps)}
        # by the version of what was asked, the UI shows that a day is stale after the prompt was changed
        version = {} if results.version is None else {CODE_VERSION_TAG: results.version}
        run.report(dg.AssetMaterialization(key, partition=day, metadata=metadata, tags=version))
    for evaluation in evaluations:
        run.report(evaluation)


def _collect(task: TaskRun, client: openai_client.OpenAI, api: Once[ApiIdentity], asked: Task, day: str) -> Collected:
    warehouse, of_task = task.warehouse, task.on(day)
    try:
        return collect_day(
            warehouse.tables,
            client,
            day=day,
            results=task.declared.table_of(asked),
            data_folder=warehouse.files,
            max_rounds=task.declared.max_rounds,
            max_output_tokens=asked.max_output_tokens,
            own_prices=task.limits.own_prices,
            refusal=lambda name: why_over_budget(warehouse, task.limits, of_task, name),
            timing=task.run.openai.timing,
            identify_api=api,
            escalate=lambda connection, name: escalate(
                connection, asked, task.declared.feed.name, day, name, task.declared.image_folder
            ),
        )
    except CollectionError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def _log(task: TaskRun, collected: Collected, day: str) -> None:
    for batch_id, loaded in collected.batches.items():
        task.info(day, f"{batch_id}: {loaded.answered} answered, {loaded.failed} not answered.")
        if loaded.quarantined:
            task.warning(day, f"{batch_id}: {counted(loaded.quarantined, 'line')} stored in `quarantined_line`.")
    for sentence in collected.fetched.elsewhere:
        task.warning(day, sentence)
    for batch_id in collected.fetched.missing:
        task.warning(day, f"The API does not find {batch_id} with the present key. Does another account have it?")
    for batch_id in collected.fetched.requeued:
        task.warning(day, f"{batch_id}: OpenAI had no capacity for it. A run sends its requests again.")


def _metadata(
    warehouse: Warehouse, origin: Origin, collected: Collected, report: DayReport, batches: Sequence[BatchFigures]
) -> dict[str, Any]:
    next_attempt_at, tables, figures = collected.next_attempt_at, warehouse.tables, report.figures
    database_bytes = tables.file_bytes
    return {
        "dagster/partition_row_count": figures.articles,
        **uri_metadata(tables.path if tables.is_file else None),
        **figures_metadata(figures),
        # articles, not requests: an article that is newer than the last plan has no request yet
        REQUESTS_PENDING: figures.pending + collected.in_pause,
        REQUESTS_BLOCKED: collected.blocked.get(BlockedBy.FILE, 0),
        REQUESTS_IN_FLIGHT: collected.requests_in_files or len(collected.fetched.still_running),
        **error_metadata(
            None if report.blocked_by is None else as_message(report.blocked_by),
            Cause.ACCOUNT if collected.blocked.get(BlockedBy.ACCOUNT) else None,
        ),
        **next_attempt_metadata(None if next_attempt_at is None else next_attempt_at.replace(tzinfo=UTC)),
        "answered_by": ", ".join(report.apis),
        **origin.as_metadata(),
        **({} if database_bytes is None else {"database_bytes": database_bytes}),
        **batches_metadata(batches),
        "preview": preview_metadata(report),
    }
