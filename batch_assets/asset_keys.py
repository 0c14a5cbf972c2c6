"""The keys of our four assets, for modules that need no more of them."""

import dagster as dg

GROUP = "articles"
RAW_ARTICLES = dg.AssetKey("raw_articles")
BATCH_REQUEST_FILE = dg.AssetKey("batch_request_file")
OPENAI_BATCH = dg.AssetKey("openai_batch")
SUMMARIES = dg.AssetKey("summaries")
