"""The day's pending requests, as JSONL files for OpenAI."""

import dagster as dg
from pydantic import Field

from batch_assets.assets.raw_articles import raw_articles
from batch_assets.batching.planning.model_options import known_options
from batch_assets.batching.planning.plan import plan_day, planned_task
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.task import Task, TaskError
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.partitions import daily_partitions
from batch_assets.resources import BatchApi, SummaryTask, Warehouse
from batch_assets.same_warehouse import stop_if_the_stand_in_was_not_chosen


class RequestFileConfig(dg.Config):
    """What is different in one run; visible in the Launchpad.

    Switches only: Dagster resolves `{"env": …}` in any string that a run may set, so a text could carry the key out.
    """

    refresh: bool = Field(
        default=False,
        description="Ask for the whole day anew, answered or not. Every request of it is paid for again; an old "
        "answer stays until the new one is loaded.",
    )
    resume_cancelled: bool = Field(default=True, description="Send what the user cancelled. The sensor does not.")
    same_task: bool = Field(
        default=False,
        description="Ask with the task of the day's last plan, whatever the environment says now. The sensor does so.",
    )


@dg.asset(
    deps=[raw_articles],
    partitions_def=daily_partitions,
    group_name="articles",
    kinds={"duckdb", "json"},
)
@without_secrets_in_errors
def batch_request_file(
    context: dg.AssetExecutionContext,
    config: RequestFileConfig,
    warehouse: dg.ResourceParam[Warehouse],
    task: dg.ResourceParam[SummaryTask],
    openai: dg.ResourceParam[BatchApi],
) -> dg.MaterializeResult:
    """JSONL shards of at most 50,000 requests and 200 MB, for what has no answer yet and isn't on its way.

    Each request's `custom_id` is made from what is asked, so an answered one is never asked again.
    """
    asked = _task_to_ask(context, warehouse, task, same_task=config.same_task)
    if asked.withheld_parameters:
        context.log.warning(f"Not sent, since {asked.model} refuses them: {', '.join(asked.withheld_parameters)}.")
    api = openai.identify(context, warehouse)
    stop_if_the_stand_in_was_not_chosen(warehouse, openai, api)
    plan = plan_day(
        warehouse.tables,
        day=context.partition_key,
        task=asked,
        data_folder=warehouse.files,
        options=PlanOptions(
            max_rounds=task.max_rounds,
            api=api.name,
            max_enqueued_tokens=task.max_enqueued_tokens,
            refresh=config.refresh,
            resume_cancelled=config.resume_cancelled,
            optional_parameters=known_options(asked.model, api.name),
            own_prices=task.prices,
        ),
    )
    cost = {} if plan.max_cost_usd is None else {"max_cost_usd": round(plan.max_cost_usd, 6)}
    return dg.MaterializeResult(
        metadata={
            "articles": plan.articles,
            "requests": sum(plan.requests.values()),
            **{f"requests_{state}": plan.requests.get(state, 0) for state in ("answered", "in_flight", "failed")},
            "plan": plan.plan,
            "round": plan.round,
            "model": asked.model,
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


def _task_to_ask(
    context: dg.AssetExecutionContext, warehouse: Warehouse, task: SummaryTask, *, same_task: bool
) -> Task:
    """The configured task; with `same_task`, that of the day's last plan."""
    try:
        if not same_task:
            return task.as_task()
        planned = planned_task(warehouse.tables, context.partition_key) or _task_of_an_older_version(context)
    except TaskError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    if planned is None:
        raise dg.Failure(
            f"The ledger does not know the task that {context.partition_key} was planned with, and another one may ask "
            "and pay for everything again. Materialize `batch_request_file` and `openai_batch` of the day yourself, "
            "without `same_task`, if the configured task is right.",
            allow_retries=False,
        )
    return planned


def _task_of_an_older_version(context: dg.AssetExecutionContext) -> Task | None:
    """Earlier versions recorded the plan's task in the metadata of the materialization, not in the ledger."""
    of_the_day = dg.AssetRecordsFilter(context.asset_key, asset_partitions=[context.partition_key])
    for record in context.instance.fetch_materializations(of_the_day, limit=1).records:
        materialization = record.asset_materialization
        recorded = materialization.metadata.get("task") if materialization else None
        if isinstance(recorded, dg.JsonMetadataValue) and isinstance(recorded.data, dict):
            return Task(**recorded.data)
    return None
