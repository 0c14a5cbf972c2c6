"""The stage `raw_articles`: the day's articles, as they are in the source now."""

from typing import Any

import dagster as dg

from batch_assets.asset_keys import GROUP, RAW_ARTICLES
from batch_assets.asset_tables import table_metadata
from batch_assets.assets.day_run import DayRun
from batch_assets.batching.counting import counted
from batch_assets.batching.ingest.articles import Ingested, ReadSource, SourceError
from batch_assets.batching.ingest.errors import shortened
from batch_assets.batching.once import Once
from batch_assets.batching.planning.plan import is_planned
from batch_assets.day_events import LOOK_BACK_TAG
from batch_assets.resources import ArticleSource
from batch_assets.task_set import DeclaredTask, Feed

QUERY = "SELECT filename || '#' || id AS id, * EXCLUDE (id) FROM read_csv('…')"


def articles_spec(declared: DeclaredTask) -> dg.AssetSpec:
    """The asset with the articles of this task and of the others that read them."""
    return dg.AssetSpec(
        declared.feed.key,
        deps=list(declared.feed.deps),
        description="The day's articles from the source, one row each.\n\nRows that are no article are in the table "
        "`rejected_article`, with the file, the line and the reason.",
        partitions_def=declared.partitions_def,
        group_name=GROUP if declared.feed.key == RAW_ARTICLES else declared.group_name,
        owners=list(declared.owners),
        tags=declared.tags,
        kinds={"duckdb"},
        metadata=table_metadata("raw_articles"),
        skippable=True,  # of a run of many days, the days that failed are not materialized
    )


def ingest(run: DayRun, articles: Once[ReadSource], feed: Feed, day: str) -> Ingested:
    """Replace the day's articles. The run reads its source once, for the first day. Raises dagster.Failure."""
    looks_back = LOOK_BACK_TAG in run.context.run.tags
    of_tasks = [declared.task.on(day) for declared in run.tasks.reading(feed)]
    if looks_back and not any(is_planned(run.warehouse.tables, of_task) for of_task in of_tasks):
        raise dg.Failure(
            f"{day} is not read again: this warehouse has not planned it. Another code location of this Dagster has "
            "submitted it. To submit it here as well, materialize it.",
            allow_retries=False,
        )
    try:
        ingested = articles().replace_day(day, keep_if_empty=looks_back)
    except SourceError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    for warning in _warnings(ingested, feed.source, day):
        run.warning(day, warning)
    run.report(dg.AssetMaterialization(feed.key, partition=day, metadata=_metadata(ingested, feed.source)))
    return ingested


def _warnings(ingested: Ingested, article_source: ArticleSource, day: str) -> list[str]:
    warnings = []
    source = shortened(article_source.source)
    if ingested.is_kept:
        warnings.append(
            f"{source} has no article for {day} now, and the day has {counted(ingested.articles_before, 'article')}: "
            "they were kept, since a scheduled run reads the day again. Materialize `raw_articles` to remove them."
        )
    elif not ingested.articles:
        warnings.append(
            f"{source} has no article for {day}: {counted(ingested.articles, 'article')} now, "
            f"{ingested.articles_before:,} before."
        )
    if ingested.rejected:
        reasons = ", ".join(f"{counted(rows, 'row')} ({reason})" for reason, rows in ingested.rejected.items())
        warnings.append(f"Rejected, and stored in `rejected_article`: {reasons}.")
    if ingested.in_several_files:
        warnings.append(
            f"{counted(ingested.in_several_files, 'id')} in several files: one row of each counts. If the files number "
            f"their articles each on its own, make BATCH_ASSETS_SOURCE a query with the file's name in the id: {QUERY}."
        )
    if ingested.malformed:
        warnings.append(
            f"{counted(ingested.malformed, 'row')} of the source malformed; stored in `rejected_article` without a day."
        )
    if ingested.undated:
        warnings.append(
            f"{counted(ingested.undated, 'row')} of the source without a day: the time cannot be read, is ambiguous, "
            "or is before 1900 or after tomorrow. `rejected_article` has the first ones, with the reason `undated`."
        )
    return warnings


def _metadata(ingested: Ingested, article_source: ArticleSource) -> dict[str, Any]:
    return {
        "dagster/partition_row_count": ingested.articles_before if ingested.is_kept else ingested.articles,
        "source": shortened(article_source.source),
        "source_files": ingested.files,
        "rejected_rows": sum(ingested.rejected.values()),
        **({"older_versions": ingested.rejected["older_version"]} if "older_version" in ingested.rejected else {}),
        "malformed_rows": ingested.malformed,
        "undated_rows": ingested.undated,
    }
