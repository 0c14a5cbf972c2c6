"""The requests that the day still owes, as JSONL files for OpenAI."""

from dataclasses import asdict

import dagster as dg
from pydantic import Field

from batch_assets.assets.raw_articles import raw_articles
from batch_assets.batching.clean_errors import without_secrets_in_errors
from batch_assets.batching.requests import plan_day
from batch_assets.batching.task import TaskError
from batch_assets.partitions import daily_partitions
from batch_assets.resources import SummaryTask, Warehouse

TASK = "task"  # metadata that the sensor reads, to ask for another round of the same


class RequestFileConfig(dg.Config):
    """What is different in one run; visible in the Launchpad."""

    refresh: bool = Field(
        default=False, description="Ask for the whole day anew, answered or not. Every request of it is paid for again."
    )
    resume_cancelled: bool = Field(default=True, description="Send what was cancelled by hand. The sensor doesn't.")


@dg.asset(
    deps=[raw_articles],
    partitions_def=daily_partitions,
    group_name="articles",
    kinds={"duckdb", "json"},
)
@without_secrets_in_errors
def batch_request_file(
    context: dg.AssetExecutionContext, config: RequestFileConfig, warehouse: Warehouse, task: SummaryTask
) -> dg.MaterializeResult:
    """JSONL shards of at most 50,000 requests and 200 MB, for what has no answer yet and isn't on its way.

    Each request's `custom_id` is made from what is asked, so an answered one is never asked again.
    """
    try:
        asked = task.as_task()
    except TaskError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    if asked.withheld_parameters:
        context.log.warning(f"Not sent, since {asked.model} refuses them: {', '.join(asked.withheld_parameters)}.")
    plan = plan_day(
        warehouse.tables,
        day=context.partition_key,
        task=asked,
        data_folder=warehouse.files,
        max_rounds=task.max_rounds,
        max_enqueued_tokens=task.max_enqueued_tokens,
        refresh=config.refresh,
        resume_cancelled=config.resume_cancelled,
    )
    cost = {} if plan.max_cost_usd is None else {"max_cost_usd": round(plan.max_cost_usd, 6)}
    return dg.MaterializeResult(
        metadata={
            "articles": plan.articles,
            "requests": sum(plan.requests.values()),
            **{f"requests_{state}": plan.requests.get(state, 0) for state in ("answered", "in_flight", "failed")},
            "round": plan.round,
            "model": asked.model,
            TASK: dg.MetadataValue.json({name: value for name, value in asdict(asked).items() if value is not None}),
            "requests_in_new_files": sum(shard.requests for shard in plan.shards),
            "bytes_in_new_files": sum(shard.bytes for shard in plan.shards),
            "estimated_input_tokens": plan.estimated_input_tokens,
            **cost,
            "new_files": dg.MetadataValue.table(
                [
                    dg.TableRecord(
                        {
                            "file": shard.path.name,
                            "requests": shard.requests,
                            "bytes": shard.bytes,
                        }
                    )
                    for shard in plan.shards
                ],
                schema=dg.TableSchema(
                    [
                        dg.TableColumn("file", "string"),
                        dg.TableColumn("requests", "int"),
                        dg.TableColumn("bytes", "int"),
                    ]
                ),
            ),
        }
    )
