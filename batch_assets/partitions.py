"""The partitions: days in UTC. The newest is yesterday, since today is not complete."""

import dagster as dg

from batch_assets.settings import read_settings

_settings = read_settings()

daily_partitions = dg.DailyPartitionsDefinition(start_date=_settings.first_day, timezone="UTC")
# Many days in one run: a process takes seconds to start, and a small day takes a fraction of one.
days_per_run = dg.BackfillPolicy.multi_run(max_partitions_per_run=_settings.days_per_run)
