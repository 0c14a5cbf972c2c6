"""The day's batches at OpenAI: this is where money is spent, once."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import openai as openai_client

from batch_assets.assets.batch_request_file import batch_request_file
from batch_assets.batching.operations.cancel import stop_submitting
from batch_assets.batching.planning.estimate import estimate_day
from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.batching.submission.create import SubmissionError
from batch_assets.batching.submission.reconcile import search_for_unknown_batches
from batch_assets.batching.submission.submit import identify_api, submit_day
from batch_assets.day_events import Origin, location_of_run, submission_metadata
from batch_assets.partitions import daily_partitions
from batch_assets.resources import IDENTIFY_SECONDS, BatchApi, SummaryTask, Warehouse
from batch_assets.runless_events import announce_days_without_event, report_of_submission
from batch_assets.same_warehouse import (
    stop_if_of_another_warehouse,
    stop_if_the_stand_in_was_not_chosen,
    unknown_batches,
)

PAUSE_WHILE_UNREACHABLE, PAUSE_AFTER_A_REFUSAL = timedelta(minutes=10), timedelta(hours=1)
PAUSE_AFTER_TERMINATION = timedelta(seconds=30)  # before we look for a batch whose creation was cut off
# Safe here: a run that tries again looks for the batch of the first try. Dagster waits 10, 30, 70, 150 and 310 s.
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
    """One batch at OpenAI for each request file. Materialized again, it submits only what isn't there yet.

    Files that find no room in OpenAI's limits are deferred, and go out as others end. The sensor `openai_batch_sensor`
    watches the batches and materializes `summaries` when they have ended.
    """

    def is_run_alive(run_id: str) -> bool:
        run = context.instance.get_run_by_id(run_id)
        return run is not None and not run.is_finished

    day = context.partition_key
    stop_if_of_another_warehouse(context, warehouse, openai_batch.key)
    origin = Origin(location_of_run(context.run), warehouse.tables.warehouse_id())
    with openai.get_client(context) as client:
        try:
            api = identify_api(warehouse.tables, client.with_options(timeout=IDENTIFY_SECONDS))
            origin = replace(origin, api=api.name)
            stop_if_the_stand_in_was_not_chosen(warehouse, openai, api)
            _recover_unknown_batches(context, warehouse, client, api, is_run_alive)
            over_budget = why_over_budget(warehouse, task, day, api.name)
            submitted = submit_day(
                warehouse.tables,
                client,
                day=day,
                data_folder=warehouse.files,
                run_id=context.run.run_id,
                is_run_alive=is_run_alive,
                limits=task.limits,
                api=api,
                only_begun=over_budget is not None,
            )
        except SubmissionError as error:
            if error.is_final or context.retry_number == RETRY_POLICY.max_retries:
                pause = PAUSE_AFTER_A_REFUSAL if error.is_final else PAUSE_WHILE_UNREACHABLE
                _leave_to_sensor(context, warehouse, origin, day, pause, str(error))
            raise dg.Failure(str(error), allow_retries=not error.is_final) from error
        except dg.DagsterExecutionInterruptedError:
            run = context.instance.get_run_by_id(context.run.run_id)
            if run is None or run.status is not dg.DagsterRunStatus.CANCELING:
                raise  # no user has terminated it: its machine goes down, and the run is retried
            stop_submitting(warehouse.tables, day=day, data_folder=warehouse.files)
            _leave_to_sensor(context, warehouse, origin, day, PAUSE_AFTER_TERMINATION, "The run was terminated.")
            # Dagster would take the interrupt for an error like any other, and retry the step
            raise dg.Failure("The run was terminated; nothing more goes out by itself.", allow_retries=False) from None
        finally:
            if origin.api is not None:
                announce_days_without_event(
                    context.instance, openai_batch.key, warehouse.tables, warehouse.files, origin, day
                )
    if over_budget is not None:
        if submitted.batch_ids:  # they are paid for, and the sensor has to know of them
            _leave_to_sensor(context, warehouse, origin, day, PAUSE_AFTER_A_REFUSAL, over_budget)
        raise dg.Failure(over_budget, allow_retries=False)
    context.log.info(f"Sent to {submitted.api}.")
    if submitted.deferred:
        context.log.info(f"{submitted.deferred} files wait for room in OpenAI's limits; the sensor submits them.")
    next_attempt = submitted.next_attempt_at
    return dg.MaterializeResult(
        metadata={
            **submission_metadata(
                origin,
                submitted.batch_ids,
                submitted.deferred,
                None if next_attempt is None else next_attempt.replace(tzinfo=UTC),
            ),
            "batches": len(submitted.batch_ids),
            "batches_created": submitted.created,
            "batches_adopted": submitted.adopted,
            "batches_recovered": submitted.recovered,
            "batches_rejected_token_limit": submitted.requeued,
        }
    )


def _recover_unknown_batches(
    context: dg.AssetExecutionContext,
    warehouse: Warehouse,
    client: openai_client.OpenAI,
    api: ApiIdentity,
    is_run_alive: Callable[[str], bool],
) -> None:
    """Take in the batches that the event log names and a ledger from a backup does not know.

    Raises dagster.Failure before anything is bought if one of them cannot be taken in.
    """
    if not unknown_batches(context, warehouse, openai_batch.key):
        return
    tables = warehouse.tables
    search_for_unknown_batches(tables, client, api, tables.warehouse_id(), warehouse.files, is_run_alive)
    unknown = unknown_batches(context, warehouse, openai_batch.key)
    if unknown:
        day = context.partition_key
        raise dg.Failure(
            f"{', '.join(unknown)} of {day} are in Dagster's event log. The ledger does not know them, and they could "
            f"not be taken in from {api.name}. Materialize `raw_articles` and `batch_request_file` of the day, then "
            "this one; take in a batch that you made yourself with `batch-assets adopt`. If they are gone for good, "
            f"wipe the materializations of `{openai_batch.key.to_user_string()}` for {day}. Nothing was sent.",
            allow_retries=False,
        )


def _leave_to_sensor(
    context: dg.AssetExecutionContext, warehouse: Warehouse, origin: Origin, day: str, pause: timedelta, reason: str
) -> None:
    """Tell the sensor of a submission that got no further: it collects what is made, and tries the rest again."""
    event = report_of_submission(
        openai_batch.key, warehouse.tables, warehouse.files, origin, day, datetime.now(UTC) + pause, error=reason
    )
    context.instance.report_runless_asset_event(event)


def why_over_budget(warehouse: Warehouse, task: SummaryTask, day: str, api: str) -> str | None:
    """Why nothing new may go out. The check `day_is_within_budget` stops a run before this asset, but not one of this
    asset alone."""
    with warehouse.tables.reading() as connection:
        estimate = estimate_day(connection, day, api=api, own_prices=task.prices)
    return estimate.why_not_within(task.limits.budget)
