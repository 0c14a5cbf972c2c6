"""Jobs: submit a day, cancel a day."""

import dagster as dg
import openai as openai_client

from batch_assets.asset_keys import OPENAI_BATCH
from batch_assets.batching.operations.cancel import cancel_day
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.partitions import daily_partitions
from batch_assets.resources import BatchApi, Warehouse

# without `summaries`: the sensor materializes it when the batches have ended, up to a day later
submit_batches = dg.define_asset_job(
    "submit_batches",
    selection=dg.AssetSelection.assets(OPENAI_BATCH).upstream(),
    description="Read a day's articles, write their requests, and submit them to OpenAI. Use it for backfills.",
)


@dg.op
@without_secrets_in_errors
def cancel_batches_of_day(
    context: dg.OpExecutionContext, warehouse: dg.ResourceParam[Warehouse], openai: dg.ResourceParam[BatchApi]
) -> None:
    """Cancel the day's batches at the API, and withdraw its unsent request files."""
    with openai.get_client(context) as client:
        try:
            cancelled = cancel_day(warehouse.tables, client, day=context.partition_key, data_folder=warehouse.files)
        except openai_client.OpenAIError as error:
            raise dg.Failure(f"OpenAI did not cancel: {error_message(error)}. Run this again.") from error
    context.log.info(str(cancelled))


@dg.job(
    partitions_def=daily_partitions,
    description="Cancel a day's batches at OpenAI. Answers stay. The sensor does not send the other requests again.",
)
def cancel_batches() -> None:
    cancel_batches_of_day()
