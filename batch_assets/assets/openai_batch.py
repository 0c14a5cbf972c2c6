"""The day's batches at OpenAI: this is where money is spent, once."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from batch_assets.assets.batch_request_file import batch_request_file
from batch_assets.batching import ledger
from batch_assets.batching.clean_errors import without_secrets_in_errors
from batch_assets.batching.control import stop_submitting
from batch_assets.batching.costs import estimate_day
from batch_assets.batching.creation import SubmissionError
from batch_assets.batching.database import Database
from batch_assets.batching.submission import submit_day
from batch_assets.partitions import daily_partitions
from batch_assets.resources import BatchApi, SummaryTask, Warehouse

# metadata that the sensor reads
BATCH_IDS, WAITING, LOOK_AGAIN_AT = "batch_ids", "waiting_shards", "look_again_at"
PAUSE_WHILE_UNREACHABLE, PAUSE_AFTER_A_REFUSAL = timedelta(minutes=10), timedelta(hours=1)
PAUSE_AFTER_TERMINATION = timedelta(seconds=30)  # before we look for a batch whose creation was cut off
# Safe here: whoever tries again looks for the batch of the first try. Dagster waits 10, 30, 70, 150 and 310 s.
PATIENCE = dg.RetryPolicy(max_retries=5, delay=10, backoff=dg.Backoff.EXPONENTIAL)


@dg.asset(
    deps=[batch_request_file],
    partitions_def=daily_partitions,
    group_name="articles",
    kinds={"openai"},
    retry_policy=PATIENCE,
)
@without_secrets_in_errors
def openai_batch(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    openai: dg.ResourceParam[BatchApi],
    task: dg.ResourceParam[SummaryTask],
) -> dg.MaterializeResult:
    """One batch at OpenAI for each request file. Materialised again, it submits only what isn't there yet.

    Files that find no room in OpenAI's limits wait, and go out as others end. The sensor `openai_batch_sensor` watches
    the batches and materialises `summaries` when they have ended.
    """

    def is_run_alive(run_id: str) -> bool:
        run = context.instance.get_run_by_id(run_id)
        return run is not None and not run.is_finished

    day = context.partition_key
    stop_if_too_dear(warehouse, task, day)
    with openai.get_client(context) as client:
        try:
            submitted = submit_day(
                warehouse.tables,
                client,
                day=day,
                data_folder=warehouse.files,
                run_id=context.run.run_id,
                is_run_alive=is_run_alive,
                limits=task.limits,
            )
        except SubmissionError as error:
            if error.is_final or context.retry_number == PATIENCE.max_retries:
                pause = PAUSE_AFTER_A_REFUSAL if error.is_final else PAUSE_WHILE_UNREACHABLE
                _leave_to_sensor(context, warehouse, day, pause, str(error))
            raise dg.Failure(str(error), allow_retries=not error.is_final) from error
        except dg.DagsterExecutionInterruptedError:
            run = context.instance.get_run_by_id(context.run.run_id)
            if run is None or run.status is not dg.DagsterRunStatus.CANCELING:
                raise  # nobody has terminated it: its machine goes down, and the run is retried
            stop_submitting(warehouse.tables, day=day, data_folder=warehouse.files)
            _leave_to_sensor(context, warehouse, day, PAUSE_AFTER_TERMINATION, "The run was terminated.")
            # Dagster would take the interrupt for an error like any other, and retry the step
            raise dg.Failure("The run was terminated; nothing more goes out by itself.", allow_retries=False) from None
    if submitted.waiting:
        context.log.info(f"{submitted.waiting} files wait for room in OpenAI's limits; the sensor sees to them.")
    look_again = submitted.look_again_at
    return dg.MaterializeResult(
        metadata={
            BATCH_IDS: dg.MetadataValue.json(submitted.batch_ids),
            "batches": len(submitted.batch_ids),
            "batches_created": submitted.created,
            "batches_adopted": submitted.adopted,
            "batches_openai_had_no_room_for": submitted.put_back,
            WAITING: submitted.waiting,
            **({LOOK_AGAIN_AT: dg.MetadataValue.timestamp(look_again.replace(tzinfo=UTC))} if look_again else {}),
        }
    )


def _leave_to_sensor(
    context: dg.AssetExecutionContext, warehouse: Warehouse, day: str, pause: timedelta, reason: str
) -> None:
    """Tell the sensor of a submission that got no further: what is made is collected, and the rest seen to."""
    word = word_to_sensor(warehouse.tables, warehouse.files, day, datetime.now(UTC) + pause, error=reason)
    context.instance.report_runless_asset_event(word)


def word_to_sensor(
    database: Database, data_folder: Path, day: str, look_again_at: datetime, **more: str | int
) -> dg.AssetMaterialization:
    """A materialisation of the day, made outside of a run, that says what the ledger waits for."""
    return dg.AssetMaterialization(
        openai_batch.key,
        partition=day,
        metadata={
            BATCH_IDS: dg.MetadataValue.json(ledger.batches_waited_for(database, day, data_folder)),
            WAITING: len(ledger.unsubmitted(database, day, data_folder)),
            LOOK_AGAIN_AT: dg.MetadataValue.timestamp(look_again_at),
            **more,
        },
    )


def stop_if_too_dear(warehouse: Warehouse, task: SummaryTask, day: str) -> None:
    """The check `day_is_within_budget` stops a run before this asset; this stops one of this asset alone."""
    if task.max_cost_usd is None:
        return
    with warehouse.tables.reading() as connection:
        estimate = estimate_day(connection, day)
    if not estimate.is_within(task.max_cost_usd):
        raise dg.Failure(estimate.sentence(task.max_cost_usd), allow_retries=False)
