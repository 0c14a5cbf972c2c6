"""Dagster assets that ask a model about a daily stream of articles, with OpenAI's Batch API. Start at `definitions`.

A task is a YAML file in `defs/`: `component` has its fields, `declare` adds the defaults, `task_set` has all tasks of a
project, and `build` makes Dagster's definitions of them. The assets in `assets/` call `batching/`, which knows no
Dagster. `sensors` polls the batches and requests the runs that come next: `days` reads the event log, whose metadata
`day_events` knows, `run_requests` makes the run requests, whose keys are in `run_keys` and whose ranges of days in
`run_ranges`, `day_progress` the observations, and `sensor_cursor` is what the sensor remembers. `runless_events`
reports days without a run, `same_warehouse` stops a run on the wrong database, and `old_runs` with `stored_runs`
deletes Dagster's runs of finished days. `checks`, `figure_checks`, `freshness`, `jobs`, `schedules`, `partitions`,
`asset_keys` and `asset_tables` are Dagster's; `days_in_flight` is what the command `status` shows of waiting days;
`resources` and `settings` are the configuration. `cli/` is the command `batch-assets`, whose tasks `project_tasks`
reads; `local_api/` is the local Batch API, and `output_schema/` the JSON schema of an answer, for both.
"""

import warnings
from typing import Any

__version__ = "0.1.0"

# Dagster warns each process that loads a freshness check, about a parameter that Dagster itself sets.
warnings.filterwarnings("ignore", "Parameter `execution_type` of function")


def __getattr__(name: str) -> Any:
    # late: the command line needs no Dagster, and `dg` looks for components in this module
    if name == "BatchTask":
        from batch_assets.component import BatchTask

        return BatchTask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "BatchTask"]
