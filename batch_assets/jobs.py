"""Jobs beside the assets: submit a day, or cancel one."""

import dagster as dg
import openai as openai_client

from batch_assets.assets import openai_batch
from batch_assets.batching.operations.cancel import cancel_day
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.partitions import daily_partitions
from batch_assets.resources import BatchApi, Warehouse

# `summaries` isn't part of it: the sensor materializes that when OpenAI is done, hours later perhaps.
submit_batches = dg.define_asset_job(
    "submit_batches",
    selection=dg.AssetSelection.assets(openai_batch).upstream(),
    description="Read a day's articles, write their requests, and submit them to OpenAI. Backfill with this one.",
)


@dg.op
@without_secrets_in_errors
def cancel_batches_of_day(
    context: dg.OpExecutionContext, warehouse: dg.ResourceParam[Warehouse], openai: dg.ResourceParam[BatchApi]
) -> None:
    """Stop what the day has in flight, and withdraw what waits."""
    with openai.get_client(context) as client:
        try:
            done = cancel_day(warehouse.tables, client, day=context.partition_key, data_folder=warehouse.files)
        except openai_client.OpenAIError as error:
            raise dg.Failure(f"OpenAI did not cancel: {error_message(error)}. Run this again.") from error
    context.log.info(str(done))


@dg.job(
    partitions_def=daily_partitions,
    description="Cancel a day's batches at OpenAI. What is answered is kept; the rest isn't sent again by itself.",
)
def cancel_batches() -> None:
    cancel_batches_of_day()
