"""Dagster assets that summarize a daily stream of articles with OpenAI's Batch API. Start at `definitions`.

The assets in `assets/` call `batching/`, which knows no Dagster. `sensors` polls the batches and requests the runs that
come next: `days` reads the event log, whose metadata `day_events` knows, `run_requests` makes the run requests, whose
keys are in `run_keys` and whose ranges of days in `run_ranges`, `day_progress` the observations, and `sensor_cursor` is
what the sensor remembers. `runless_events` reports days without a run, `same_warehouse` stops a run on the wrong
database, and `old_runs` with `stored_runs` deletes Dagster's runs of finished days. `checks`, `jobs`, `schedules`,
`partitions` and `asset_keys` are Dagster's; `resources` and `settings` are the configuration. `cli/` is the command
`batch-assets`, `local_api/` the local Batch API.
"""

__version__ = "0.1.0"
