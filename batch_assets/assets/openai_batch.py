"""The day's batches at OpenAI. Only this asset spends money."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import duckdb
import openai as openai_client

from batch_assets.assets.batch_request_file import batch_request_file
from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.database import DatabaseBusyError
from batch_assets.batching.ledger.requests import BudgetRefusal
from batch_assets.batching.ledger.retries import end_account_pauses
from batch_assets.batching.ledger.submissions import why_deferred
from batch_assets.batching.operations.cancel import stop_submitting
from batch_assets.batching.planning.estimate import estimate_day
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets.batching.submission.reconcile import search_for_unknown_batches
from batch_assets.batching.submission.submit import Submitted, submit_day
from batch_assets.batching.submission.submitter import Submitter, make_submitter
from batch_assets.day_events import DEDUP_TAG, ERROR, Origin, location_of_run, newest_event, submission_metadata
from batch_assets.partitions import daily_partitions
from batch_assets.resources import IDENTIFY_SECONDS, BatchApi, SummaryTask, Warehouse
from batch_assets.runless_events import announce_days_without_event, report_of_submission
from batch_assets.same_warehouse import (
    stop_if_of_another_warehouse,
    stop_until_there_is_a_key,
    unknown_batches,
)

PAUSE_WHILE_UNREACHABLE, PAUSE_AFTER_A_REFUSAL = timedelta(minutes=10), timedelta(hours=1)
PAUSE_WHILE_OVER_BUDGET = timedelta(days=1)
PAUSE_AFTER_TERMINATION = timedelta(seconds=30)  # then a run searches for a batch whose creation was interrupted
# Safe here: a retry searches for the batch of the first attempt. Dagster waits 10, 30, 70, 150 and 310 s.
RETRY_POLICY = dg.RetryPolicy(max_retries=5, delay=10, backoff=dg.Backoff.EXPONENTIAL)


@dg.asset(
    deps=[batch_request_file],
    partitions_def=daily_partitions,
    group_name="articles",
    kinds={"openai"},
    retry_policy=RETRY_POLICY,
)
@without_secrets_in_errors
def openai_batch(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    openai: dg.ResourceParam[BatchApi],
    task: dg.ResourceParam[SummaryTask],
) -> dg.MaterializeResult:
    """One batch at OpenAI for each request file. Each materialization submits only the files without a batch.

    Files for which OpenAI's limits have no capacity are deferred, and submitted when other batches end. The sensor
    `openai_batch_sensor` polls the batches and materializes `summaries` when they have ended.
    """
    stop_if_of_another_warehouse(context, warehouse, openai_batch.key)
    origin = Origin(location_of_run(context.run), warehouse.tables.warehouse_id())
    with openai.get_client(context) as client:
        with _reported_to_sensor(context, warehouse, origin):
            submitter = _submitter(context, warehouse, client, openai, task)
        origin = replace(origin, api=submitter.api.name)
        with _days_announced(context, warehouse, origin), _reported_to_sensor(context, warehouse, origin):
            stop_until_there_is_a_key(context, warehouse, openai, submitter.api, openai_batch.key)
            _recover_unknown_batches(context, warehouse, submitter)
            if DEDUP_TAG not in context.run.tags:  # the user's run tries at once; the sensor's runs wait
                end_account_pauses(warehouse.tables, context.partition_key)
            over_budget = why_over_budget(warehouse, task, context.partition_key, submitter.api.name)
            submitted = submit_day(
                submitter,
                context.partition_key,
                is_run_alive=_is_run_alive(context.instance),
                only_begun=over_budget is not None,
            )
    if over_budget is not None:
        # the sensor names the day, and collects batches of an earlier run
        report_to_sensor(context, warehouse, origin, PAUSE_WHILE_OVER_BUDGET, over_budget.message)
        raise dg.Failure(over_budget.message, allow_retries=False)
    context.log.info(f"Sent to {submitted.api}.")
    error = why_deferred(warehouse.tables, context.partition_key) if submitted.deferred else None
    if submitted.deferred:
        waiting = counted(submitted.deferred, "request file")
        cause = error or "OpenAI's limits have no capacity."
        context.log.info(f"{waiting} deferred: {as_message(cause)} The sensor requests another run.")
    return dg.MaterializeResult(metadata=_metadata(origin, submitted, error))


def _is_run_alive(instance: dg.DagsterInstance) -> Callable[[str], bool]:
    def is_run_alive(run_id: str) -> bool:
        run = instance.get_run_by_id(run_id)
        return run is not None and not run.is_finished

    return is_run_alive


def _submitter(
    context: dg.AssetExecutionContext,
    warehouse: Warehouse,
    client: openai_client.OpenAI,
    openai: BatchApi,
    task: SummaryTask,
) -> Submitter:
    """The submitter of this run. Raises SubmissionError if the API does not answer."""
    return make_submitter(
        warehouse.tables,
        client,
        warehouse.files,
        context.run.run_id,
        limits=task.limits,
        timing=openai.timing,
        identify_timeout_seconds=IDENTIFY_SECONDS,
    )


@contextmanager
def _reported_to_sensor(context: dg.AssetExecutionContext, warehouse: Warehouse, origin: Origin) -> Iterator[None]:
    """Raise an error of the submission as dagster.Failure, and report it to the sensor, which tries again later.

    Whatever ends the submission, batches may have been created before. The sensor polls only batches that an event
    names, so each error leaves one. `PAUSE_WHILE_UNREACHABLE` is longer than all of Dagster's retries of the step.
    """
    try:
        yield
    except SubmissionError as error:
        pause = PAUSE_AFTER_A_REFUSAL if error.is_final else PAUSE_WHILE_UNREACHABLE
        report_to_sensor(context, warehouse, origin, pause, str(error))
        raise dg.Failure(str(error), allow_retries=not error.is_final) from error
    except dg.Failure:
        raise  # before anything was submitted: the user has to do something first
    except dg.DagsterExecutionInterruptedError:
        run = context.instance.get_run_by_id(context.run.run_id)
        if run is None or run.status is not dg.DagsterRunStatus.CANCELING:
            raise  # its host shuts down, and Dagster retries the run
        stop_submitting(warehouse.tables, day=context.partition_key, data_folder=warehouse.files)
        report_to_sensor(context, warehouse, origin, PAUSE_AFTER_TERMINATION, "The run was terminated.")
        # Dagster would retry the step after the interrupt, as after any other error
        raise dg.Failure("The run was terminated. It submits nothing more.", allow_retries=False) from None
    except Exception as error:
        report_to_sensor(context, warehouse, origin, PAUSE_WHILE_UNREACHABLE, error_message(error))
        raise


@contextmanager
def _days_announced(context: dg.AssetExecutionContext, warehouse: Warehouse, origin: Origin) -> Iterator[None]:
    """At the end, also after an error, report the other days of which this run has entered batches."""
    try:
        yield
    finally:
        announce_days_without_event(
            context.instance, openai_batch.key, warehouse.tables, warehouse.files, origin, context.partition_key
        )


def _recover_unknown_batches(context: dg.AssetExecutionContext, warehouse: Warehouse, submitter: Submitter) -> None:
    """Enter the batches that the event log names and that the ledger, restored from a backup, does not know.

    Raises dagster.Failure, before the run buys anything, if one of them cannot be entered.
    """
    if not unknown_batches(context, warehouse, openai_batch.key):
        return
    search_for_unknown_batches(submitter, _is_run_alive(context.instance))
    unknown = unknown_batches(context, warehouse, openai_batch.key)
    if unknown:
        day = context.partition_key
        raise dg.Failure(
            f"Dagster's event log names {', '.join(unknown)} of {day}. The ledger does not know them, and the run "
            f"could not enter them from {submitter.api.name}. The run sent nothing. Materialize `raw_articles` and "
            "`batch_request_file` of the day, then this one. Adopt a batch that you created yourself with "
            "`batch-assets adopt`. If they no longer exist, wipe the materializations of "
            f"`{openai_batch.key.to_user_string()}` for {day}.",
            allow_retries=False,
        )


def report_to_sensor(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext,
    warehouse: Warehouse,
    origin: Origin,
    pause: timedelta,
    reason: str,
) -> None:
    """Report an unfinished submission: the sensor collects its batches, and requests a run for the rest.

    If the tables cannot be read, the event repeats the batches of the newest one. The next run finds the others.
    """
    day, next_attempt_at = context.partition_key, datetime.now(UTC) + pause
    try:
        event = report_of_submission(
            openai_batch.key, warehouse.tables, warehouse.files, origin, day, next_attempt_at, error=reason
        )
    except (DatabaseBusyError, duckdb.Error, OSError) as error:
        context.log.warning(f"The tables cannot be read: {error_message(error)}")
        newest = newest_event(context.instance, openai_batch.key, day, origin.location)
        batch_ids = () if newest is None else newest.batch_ids
        metadata = submission_metadata(origin, batch_ids, deferred_files=1, next_attempt_at=next_attempt_at)
        event = dg.AssetMaterialization(openai_batch.key, partition=day, metadata={**metadata, "error": reason})
    context.instance.report_runless_asset_event(event)


def _metadata(origin: Origin, submitted: Submitted, error: str | None) -> dict[str, Any]:
    next_attempt = submitted.next_attempt_at
    return {
        **submission_metadata(
            origin,
            submitted.batch_ids,
            submitted.deferred,
            None if next_attempt is None else next_attempt.replace(tzinfo=UTC),
        ),
        **({} if error is None else {ERROR: as_message(error)}),
        "batches": len(submitted.batch_ids),
        "batches_created": submitted.created,
        "batches_adopted": submitted.adopted,
        "batches_recovered": submitted.recovered,
        "batches_rejected_token_limit": submitted.requeued,
    }


def why_over_budget(warehouse: Warehouse, task: SummaryTask, day: str, api: str) -> BudgetRefusal | None:
    """Why the run may begin no new submission; None if the budget allows it.

    The check `day_is_within_budget` stops a run before this asset, but not a run of this asset alone.
    """
    if not task.limits.budget.is_set:
        return None
    with warehouse.tables.reading() as connection:
        estimate = estimate_day(connection, day, api=api, own_prices=task.prices)
    return estimate.why_not_within(task.limits.budget)
