"""The schedule that submits every night, once somebody switches it on."""

import dagster as dg

from batch_assets.jobs import submit_batches

daily_submission = dg.build_schedule_from_partitioned_job(
    submit_batches,
    name="daily_submission",
    hour_of_day=2,
    # it spends money, so it waits until somebody wants it
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
