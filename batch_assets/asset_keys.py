"""The keys of our assets: those of the task `summaries` by name, and those of any task."""

from collections.abc import Sequence
from typing import NamedTuple

import dagster as dg

GROUP = "articles"
REPORT_GROUP = "report"
RAW_ARTICLES = dg.AssetKey("raw_articles")
BATCH_REPORT = dg.AssetKey("batch_report")


class TaskKeys(NamedTuple):
    """The keys of the assets that each task has."""

    batch_request_file: dg.AssetKey
    openai_batch: dg.AssetKey
    results: dg.AssetKey


def keys_of_task(name: str, key_prefix: Sequence[str]) -> TaskKeys:
    """The keys of the assets of the task with this name. The asset with its results has the name of the task."""
    of_task = [dg.AssetKey([*key_prefix, part]) for part in ("batch_request_file", "openai_batch", name)]
    return TaskKeys(*of_task)


BATCH_REQUEST_FILE, OPENAI_BATCH, SUMMARIES = keys_of_task("summaries", ())
