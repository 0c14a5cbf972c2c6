"""The schedule that submits every night, after the user has switched it on."""

from collections.abc import Iterator
from datetime import datetime

import dagster as dg

from batch_assets.asset_keys import OPENAI_BATCH
from batch_assets.day_events import LOOK_BACK_TAG
from batch_assets.jobs import submit_batches
from batch_assets.partitions import daily_partitions
from batch_assets.resources import ArticleSource
from batch_assets.run_requests import CONFIG_WITHOUT_USER


@dg.schedule(
    job=submit_batches,
    cron_schedule="0 2 * * *",
    execution_timezone="UTC",
    # it spends money, so the user must switch it on
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def daily_submission(
    context: dg.ScheduleEvaluationContext, article_source: dg.ResourceParam[ArticleSource]
) -> Iterator[dg.RunRequest]:
    """Submits the day that is over, and reads the days before it again: late and changed articles are submitted, too.

    It reads only days again that were submitted before, `look_back_days` of the article source.
    """
    yield from requests_of_night(
        context.instance, context.scheduled_execution_time, look_back_days=article_source.look_back_days
    )


def requests_of_night(instance: dg.DagsterInstance, night: datetime, *, look_back_days: int) -> Iterator[dg.RunRequest]:
    """The run of the newest day, and those that read earlier days again, at most `look_back_days`."""
    days = daily_partitions.get_partition_keys(current_time=night)
    if not days:
        return
    newest = days[-1]
    yield dg.RunRequest(run_key=newest, partition_key=newest)
    earlier = days[-1 - look_back_days : -1]
    if not earlier:
        return
    submitted = instance.get_latest_storage_id_by_partition(
        OPENAI_BATCH, dg.DagsterEventType.ASSET_MATERIALIZATION, set(earlier)
    )
    for day in earlier:
        if day in submitted:
            yield dg.RunRequest(
                run_key=f"{day} again after {newest}",
                partition_key=day,
                run_config=CONFIG_WITHOUT_USER,
                tags={LOOK_BACK_TAG: "true"},
            )
