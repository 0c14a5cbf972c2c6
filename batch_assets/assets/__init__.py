"""The four assets of the group `articles`, in the order of a day. Each may be materialized any number of times.

`submission` has `raw_articles`, `batch_request_file` and `openai_batch`: one step, whose stages have a module each.
`summaries` is a step of its own. `day_run` works on the days of a run side by side; `unfinished_days` and `missing_key`
tell the sensor why a day waits.
"""

from batch_assets.assets.batch_request_file import batch_request_file
from batch_assets.assets.openai_batch import openai_batch
from batch_assets.assets.raw_articles import raw_articles
from batch_assets.assets.submission import make_submit_days, submit_days
from batch_assets.assets.summaries import summaries

__all__ = ["batch_request_file", "make_submit_days", "openai_batch", "raw_articles", "submit_days", "summaries"]
