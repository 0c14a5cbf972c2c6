"""The four assets of the group `articles`, in the order of a day. Each may be materialized any number of times."""

from batch_assets.assets.batch_request_file import batch_request_file
from batch_assets.assets.openai_batch import openai_batch
from batch_assets.assets.raw_articles import raw_articles
from batch_assets.assets.summaries import summaries

__all__ = ["batch_request_file", "openai_batch", "raw_articles", "summaries"]
