"""Jobs of a task: submit a day, cancel a day."""

import dagster as dg
import openai as openai_client
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from batch_assets.batching.operations.cancel import cancel_day
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.resources import WAREHOUSE, Warehouse
from batch_assets.task_set import DeclaredTask


def named_after(declared: DeclaredTask, name: str, of_others: str) -> str:
    """The name of something that each task has once: simple for the task without a key prefix."""
    return name if not declared.key_prefix else of_others


def submit_job(declared: DeclaredTask) -> UnresolvedAssetJobDefinition:
    """The job that submits a day: without the results, which the sensor materializes when the batches have ended."""
    keys = declared.keys
    return dg.define_asset_job(
        named_after(declared, "submit_batches", f"submit_{declared.name}"),
        selection=dg.AssetSelection.assets(declared.feed.key, keys.batch_request_file, keys.openai_batch),
        description="Read a day's articles, write their requests, and submit them to OpenAI. Use it for backfills.",
    )


def cancel_job(declared: DeclaredTask) -> dg.JobDefinition:
    name = named_after(declared, "cancel_batches", f"cancel_{declared.name}")

    @dg.op(name=f"{name}_of_day", required_resource_keys={WAREHOUSE, declared.openai})
    @without_secrets_in_errors
    def cancel_batches_of_day(context: dg.OpExecutionContext) -> None:
        """Cancel the day's batches at the API, and withdraw its unsent request files."""
        warehouse: Warehouse = getattr(context.resources, WAREHOUSE)
        with getattr(context.resources, declared.openai).get_client(context) as client:
            day = declared.task.on(context.partition_key)
            try:
                cancelled = cancel_day(warehouse.tables, client, day=day, data_folder=warehouse.files)
            except openai_client.OpenAIError as error:
                raise dg.Failure(f"OpenAI did not cancel: {error_message(error)}. Run this again.") from error
        context.log.info(str(cancelled))

    @dg.job(
        name=name,
        partitions_def=declared.partitions_def,
        description="Cancel a day's batches at OpenAI. Answers stay. The sensor sends the other requests no more.",
    )
    def cancel_batches() -> None:
        cancel_batches_of_day()

    return cancel_batches
