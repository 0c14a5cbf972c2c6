"""Everything that Dagster loads, on one page."""

import dagster as dg

from batch_assets.assets import submit_days, summaries
from batch_assets.jobs import cancel_batches, submit_batches
from batch_assets.resources import all_resources
from batch_assets.schedules import daily_submission
from batch_assets.sensors import openai_batch_sensor
from batch_assets.settings import read_settings


@dg.definitions
def defs() -> dg.Definitions:
    """raw_articles → batch_request_file → openai_batch ┄ sensor ┄→ summaries"""
    return dg.Definitions(
        assets=[submit_days, summaries],
        jobs=[submit_batches, cancel_batches],
        schedules=[daily_submission],
        sensors=[openai_batch_sensor],
        resources=all_resources(read_settings()),
        # one process for a run: a process for each step would need seconds to start
        executor=dg.in_process_executor,
    )
