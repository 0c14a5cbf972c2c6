"""Whether the results of each day arrive in time: freshness checks of Dagster, and the sensor that evaluates them."""

import warnings
from collections.abc import Sequence

import dagster as dg

from batch_assets.task_set import DeclaredTask

# The day before must be there by then: `daily_submission` sends it at 02:00, and a batch takes up to 24 hours.
DEADLINE_CRON, TIMEZONE = "55 23 * * *", "UTC"
FRESHNESS_SENSOR = "batch_assets_freshness_sensor"


def freshness_checks(tasks: Sequence[DeclaredTask]) -> Sequence[dg.AssetChecksDefinition]:
    """A check of the results of each task, which warns.

    Dagster supersedes these checks by `FreshnessPolicy`, whose windows count from the last materialization of any
    partition: a backfill of old days would make the asset fresh. These look at the newest partition.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.SupersessionWarning)
        return dg.build_time_partition_freshness_checks(
            assets=[declared.keys.results for declared in tasks],
            deadline_cron=DEADLINE_CRON,
            timezone=TIMEZONE,
            severity=dg.AssetCheckSeverity.WARN,
        )


def freshness_sensor(checks: Sequence[dg.AssetChecksDefinition]) -> dg.SensorDefinition:
    """Evaluates the checks after each deadline. It is off by default, as the schedule that submits every night is."""
    return dg.build_sensor_for_freshness_checks(
        freshness_checks=checks,
        name=FRESHNESS_SENSOR,
        minimum_interval_seconds=3600,
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
