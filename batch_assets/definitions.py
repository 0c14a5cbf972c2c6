"""Everything that Dagster loads, on one page."""

from pathlib import Path

import dagster as dg

from batch_assets.resources import all_resources
from batch_assets.settings import read_settings


@dg.definitions
def defs() -> dg.Definitions:
    """raw_articles → batch_request_file → openai_batch ┄ sensor ┄→ summaries, and the same for each task in `defs/`."""
    return dg.Definitions.merge(
        # one process for a run: a process for each step would need seconds to start
        dg.Definitions(resources=all_resources(read_settings()), executor=dg.in_process_executor),
        dg.load_from_defs_folder(path_within_project=Path(__file__).parent),
    )
