"""The day's pending requests, as JSONL files for OpenAI."""

from typing import Any

import dagster as dg
from pydantic import Field

from batch_assets.assets.raw_articles import raw_articles
from batch_assets.batching.planning.plan import Plan, is_planned, plan_day, planned_task
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.task import Task, TaskError
from batch_assets.batching.provider.model_options import known_options
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.partitions import daily_partitions
from batch_assets.resources import BatchApi, SummaryTask, Warehouse
from batch_assets.same_warehouse import stop_until_there_is_a_key

OPENAI_BATCH = dg.AssetKey("openai_batch")  # the asset after this one

NEW_FILES = dg.TableSchema(
    [dg.TableColumn("file", "string"), dg.TableColumn("requests", "int"), dg.TableColumn("bytes", "int")]
)


class RequestFileConfig(dg.Config):
    """The switches of one run, which the Launchpad shows.

    It has no text: Dagster resolves `{"env": …}` in any string of a run's config, so a text could contain the key.
    """

    refresh: bool = Field(
        default=False,
        description="Send all requests of the day again, answered or not. All of them cost money again. An old answer "
        "stays until the new one is loaded.",
    )
    resume_cancelled: bool = Field(default=True, description="Send what the user has cancelled. The sensor does not.")
    retry_failed: bool = Field(
        default=False,
        description="Send the requests again that failed for good, after their cause is removed. No answered request "
        "is sent.",
    )
    respect_pauses: bool = Field(
        default=False,
        description="Leave out requests that wait after an error of the account (billing, key, access, model). The "
        "sensor does so.",
    )
    same_task: bool = Field(
        default=False,
        description="Use the task of the day's last plan instead of the configured one. The sensor does.",
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
    """JSONL files of at most 50,000 requests and 200 MB each, with the day's requests that are pending.

    Each request's `custom_id` is made from its content, so no run sends an answered request again.
    """
    task_to_ask = _task_to_ask(context, warehouse, task, same_task=config.same_task)
    if task_to_ask.withheld_parameters:
        withheld = ", ".join(task_to_ask.withheld_parameters)
        context.log.warning(f"The run does not send {withheld}: {task_to_ask.model} refuses it.")
    api = openai.identify(context, warehouse)
    stop_until_there_is_a_key(context, warehouse, openai, api, OPENAI_BATCH)
    plan = plan_day(
        warehouse.tables,
        day=context.partition_key,
        task=task_to_ask,
        data_folder=warehouse.files,
        options=PlanOptions(
            max_rounds=task.max_rounds,
            api=api.name,
            max_enqueued_tokens=task.max_enqueued_tokens,
            refresh=config.refresh,
            resume_cancelled=config.resume_cancelled,
            retry_failed=config.retry_failed,
            respect_pauses=config.respect_pauses,
            optional_parameters=known_options(task_to_ask.model, api.name),
            own_prices=task.prices,
        ),
    )
    return dg.MaterializeResult(metadata=_metadata(plan, task_to_ask))


def _metadata(plan: Plan, task: Task) -> dict[str, Any]:
    new_files = [
        dg.TableRecord({"file": shard.path.name, "requests": shard.requests, "bytes": shard.bytes})
        for shard in plan.shards
    ]
    cost = {} if plan.max_cost_usd is None else {"max_cost_usd": round(plan.max_cost_usd, 6)}
    return {
        "articles": plan.articles,
        "requests": sum(plan.requests.values()),
        **{f"requests_{state}": plan.requests.get(state, 0) for state in ("answered", "in_flight", "failed")},
        "plan": plan.plan,
        "round": plan.round,
        "model": task.model,
        "requests_in_new_files": sum(shard.requests for shard in plan.shards),
        "bytes_in_new_files": sum(shard.bytes for shard in plan.shards),
        "estimated_input_tokens": plan.estimated_input_tokens,
        **cost,
        "new_files": dg.MetadataValue.table(new_files, schema=NEW_FILES),
    }


def _task_to_ask(
    context: dg.AssetExecutionContext, warehouse: Warehouse, task: SummaryTask, *, same_task: bool
) -> Task:
    """The configured task; with `same_task`, that of the day's last plan, if there was one."""
    try:
        if not same_task or not is_planned(warehouse.tables, context.partition_key):
            return task.as_task()
        planned = planned_task(warehouse.tables, context.partition_key) or _task_of_an_older_version(context)
    except TaskError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    if planned is None:
        raise dg.Failure(
            f"The ledger does not know the task of the last plan of {context.partition_key}. With another task, all "
            "requests would cost money again. If the configured task is the right one, materialize "
            "`batch_request_file` and `openai_batch` of the day without `same_task`.",
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
