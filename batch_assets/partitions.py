"""Days, in UTC. The newest partition is yesterday, since today's articles are still coming in; or the sample's last."""

import dagster as dg

from batch_assets.settings import read_settings

_settings = read_settings()

daily_partitions = dg.DailyPartitionsDefinition(start_date=_settings.first_day, end_date=_settings.end, timezone="UTC")
