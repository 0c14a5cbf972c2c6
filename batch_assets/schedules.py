"""The schedules, which do nothing until the user switches them on: one for each task, and that of the report."""

from collections.abc import Iterator
from datetime import datetime

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from batch_assets.asset_keys import BATCH_REPORT
from batch_assets.day_events import LOOK_BACK_TAG, newest_storage_ids
from batch_assets.jobs import named_after
from batch_assets.run_requests import TaskRuns
from batch_assets.task_set import DeclaredTask


def nightly_schedule(declared: DeclaredTask, job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """Submits the day that is over, and reads the days before it again: late and changed articles are submitted, too.

    It reads only days again that were submitted before, `look_back_days` of the article source.
    """

    @dg.schedule(
        job=job,
        name=named_after(declared, "daily_submission", f"{declared.name}_daily_submission"),
        cron_schedule="0 2 * * *",
        execution_timezone="UTC",
        # it spends money, so the user must switch it on
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Submits the day that is over, and reads the days before it again.",
    )
    def daily_submission(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        yield from requests_of_night(context.instance, declared, context.scheduled_execution_time)

    return daily_submission


def report_schedule() -> dg.ScheduleDefinition:
    """Writes the report every morning. Off: a project starts no run that its user has not asked for."""
    return dg.ScheduleDefinition(
        name="daily_batch_report",
        target=dg.AssetSelection.assets(BATCH_REPORT),
        cron_schedule="0 6 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Writes the report about the last 30 days.",
    )


def requests_of_night(instance: dg.DagsterInstance, declared: DeclaredTask, night: datetime) -> Iterator[dg.RunRequest]:
    """The run of the newest day, and those that read earlier days again, at most `look_back_days`."""
    days = declared.partitions_def.get_partition_keys(current_time=night)
    if not days:
        return
    newest = days[-1]
    yield dg.RunRequest(run_key=newest, partition_key=newest)
    earlier = days[-1 - declared.feed.source.look_back_days : -1]
    if not earlier:
        return
    submitted = newest_storage_ids(instance, declared.keys.openai_batch, earlier)
    for day in earlier:
        if day in submitted:
            yield dg.RunRequest(
                run_key=f"{day} again after {newest}",
                partition_key=day,
                run_config=TaskRuns(declared.keys, declared.feed.step).config_without_user,
                tags={LOOK_BACK_TAG: "true"},
            )
