"""The day's articles, as they are in the source now."""

import dagster as dg

from batch_assets.batching.counting import counted
from batch_assets.batching.ingest.articles import SourceError, ingest_day
from batch_assets.batching.safety.clean_errors import without_secrets_in_errors
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.partitions import daily_partitions
from batch_assets.resources import ArticleSource, Warehouse

COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("partition_date", "DATE"),
        dg.TableColumn("article_id", "VARCHAR", "the source's id, or one made from the text"),
        dg.TableColumn("title", "VARCHAR"),
        dg.TableColumn("body", "VARCHAR"),
        dg.TableColumn("url", "VARCHAR"),
        dg.TableColumn("published_at", "TIMESTAMP", "UTC"),
    ]
)


@dg.asset(
    partitions_def=daily_partitions,
    group_name="articles",
    kinds={"duckdb"},
    metadata={"dagster/column_schema": COLUMNS},
)
@without_secrets_in_errors
def raw_articles(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    article_source: dg.ResourceParam[ArticleSource],
) -> dg.MaterializeResult:
    """The day's articles from `BATCH_ASSETS_SOURCE`, one row each.

    Rows without text, and second rows of an id, are in the table `rejected_article` with the reason.
    """
    day = context.partition_key
    try:
        ingested = ingest_day(warehouse.tables, source=article_source.source, day=day)
    except SourceError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    if not ingested.articles:
        context.log.warning(f"{as_message(article_source.source)} has no article for {day}.")
    if ingested.rejected:
        reasons = ", ".join(f"{counted(rows, 'row')} ({reason})" for reason, rows in ingested.rejected.items())
        context.log.warning(f"Rejected, and stored in `rejected_article`: {reasons}.")
    if ingested.undated:
        context.log.warning(
            f"{counted(ingested.undated, 'row')} of the source without a day: `published_at` cannot be read as a time."
        )
    return dg.MaterializeResult(
        metadata={
            "dagster/partition_row_count": ingested.articles,
            "source": as_message(article_source.source),
            "source_files": ingested.files,
            "rejected_rows": sum(ingested.rejected.values()),
            "undated_rows": ingested.undated,
        }
    )
