"""The stage `batch_request_file`: the day's pending requests, as JSONL files for OpenAI."""

from typing import Any

import dagster as dg
from pydantic import Field

from batch_assets.asset_tables import request_lineage, table_metadata
from batch_assets.assets.day_run import TaskRun
from batch_assets.batching.counting import USD_DECIMALS
from batch_assets.batching.planning.plan import Plan, is_planned, is_planned_by, plan_day, planned_task
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.task import Task, TaskError
from batch_assets.task_set import DeclaredTask

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


def request_file_spec(declared: DeclaredTask) -> dg.AssetSpec:
    return dg.AssetSpec(
        declared.keys.batch_request_file,
        deps=[declared.feed.key],
        description="JSONL files of at most 50,000 requests and 200 MB each, with the day's requests that are pending."
        "\n\nEach request's `custom_id` is made from its content, so no run sends an answered request again.",
        partitions_def=declared.partitions_def,
        group_name=declared.group_name,
        owners=list(declared.owners),
        tags=declared.tags,
        kinds={"duckdb", "json"},
        metadata=table_metadata("batch_request_file", request_lineage(declared)),
        skippable=True,
    )


def write_request_files(run: TaskRun, config: RequestFileConfig, day: str) -> None:
    """Plan the day: write the files of its pending requests. Raises dagster.Failure.

    A run that goes on where another one was killed does not do again what the user asked for once: a refresh, or a
    retry of failed requests. Between the two, answers may have been collected, or the user may have cancelled the day.
    """
    first_run_id = run.run.first_run_id
    is_asked_again = first_run_id != run.run.context.run.run_id and is_planned_by(
        run.warehouse.tables, run.on(day), first_run_id
    )
    if is_asked_again and config.refresh:
        metadata: dict[str, Any] = {"planned_by_run": first_run_id}
    else:
        task_to_ask = _task_to_ask(run, day, same_task=config.same_task)
        if task_to_ask.withheld_parameters:
            withheld = ", ".join(task_to_ask.withheld_parameters)
            run.warning(day, f"The run does not send {withheld}: {task_to_ask.model} refuses it.")
        api = run.run.api().name
        options = PlanOptions(
            max_rounds=run.declared.max_rounds,
            source=run.declared.feed.name,
            api=api,
            max_enqueued_tokens=run.limits.max_enqueued_tokens,
            refresh=config.refresh,
            resume_cancelled=config.resume_cancelled and not is_asked_again,
            retry_failed=config.retry_failed and not is_asked_again,
            respect_pauses=config.respect_pauses,
            planned_by=first_run_id,
            image_folder=run.declared.image_folder,
            own_prices=run.limits.own_prices,
        )
        try:
            plan = plan_day(
                run.warehouse.tables, day=day, task=task_to_ask, data_folder=run.warehouse.files, options=options
            )
        except TaskError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        metadata = _metadata(plan, task_to_ask)
    run.run.report(dg.AssetMaterialization(run.keys.batch_request_file, partition=day, metadata=metadata))


def _metadata(plan: Plan, task: Task) -> dict[str, Any]:
    new_files = [
        dg.TableRecord({"file": shard.path.name, "requests": shard.requests, "bytes": shard.bytes})
        for shard in plan.shards
    ]
    cost = {} if plan.max_cost_usd is None else {"max_cost_usd": round(plan.max_cost_usd, USD_DECIMALS)}
    return {
        "articles": plan.articles,
        "requests": sum(plan.requests.values()),
        **{f"requests_{state}": plan.requests.get(state, 0) for state in ("answered", "in_flight", "failed")},
        "requests_cached": plan.requests.get("answered", 0),
        "plan": plan.plan,
        "round": plan.round,
        "model": task.model,
        "requests_in_new_files": sum(shard.requests for shard in plan.shards),
        "bytes_in_new_files": sum(shard.bytes for shard in plan.shards),
        "estimated_input_tokens": plan.estimated_input_tokens,
        **cost,
        "new_files": dg.MetadataValue.table(new_files, schema=NEW_FILES),
    }


def _task_to_ask(run: TaskRun, day: str, *, same_task: bool) -> Task:
    """The configured task; with `same_task`, that of the day's last plan, if there was one."""
    tables = run.warehouse.tables
    try:
        if not same_task or not is_planned(tables, run.on(day)):
            return run.task
        planned = planned_task(tables, run.on(day)) or _task_of_an_older_version(run, day)
    except TaskError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    if planned is None:
        raise dg.Failure(
            f"The ledger does not know the task of the last plan of {day}. With another task, all "
            "requests would cost money again. If the configured task is the right one, materialize "
            "`batch_request_file` and `openai_batch` of the day without `same_task`.",
            allow_retries=False,
        )
    return planned


def _task_of_an_older_version(run: TaskRun, day: str) -> Task | None:
    """Earlier versions recorded the plan's task in the metadata of the materialization, not in the ledger."""
    of_the_day = dg.AssetRecordsFilter(run.keys.batch_request_file, asset_partitions=[day])
    for record in run.instance.fetch_materializations(of_the_day, limit=1).records:
        materialization = record.asset_materialization
        recorded = materialization.metadata.get("task") if materialization else None
        if isinstance(recorded, dg.JsonMetadataValue) and isinstance(recorded.data, dict):
            return Task(**recorded.data)
    return None
