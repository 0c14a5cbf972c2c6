"""The schedule that submits every night, after the user has switched it on."""

import dagster as dg

from batch_assets.jobs import submit_batches

daily_submission = dg.build_schedule_from_partitioned_job(
    submit_batches,
    name="daily_submission",
    hour_of_day=2,
    # it spends money, so the user must switch it on
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
