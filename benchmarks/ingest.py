"""A source → `raw_articles`: our code, and one INSERT from DuckDB's own reader, which checks nothing."""

from pathlib import Path

from batch_assets.batching.ingest.articles import ingest_day
from batch_assets.batching.ledger.database import Database
from benchmarks.data import DAY, NO_LIMIT

READERS = {".csv": "read_csv", ".jsonl": "read_json", ".parquet": "read_parquet"}


def ours(source: Path, folder: Path) -> int:
    """As the asset does; returns the articles."""
    return ingest_day(Database(str(folder / "ours.duckdb")), source=str(source), day=DAY).articles


def plain(source: Path, folder: Path) -> int:
    """Only the rows of the day, without a check of a row, a count, or a line number."""
    with Database(str(folder / "plain.duckdb"), memory_limit=NO_LIMIT).writing() as connection:
        inserted = connection.execute(
            f"""
            INSERT INTO raw_articles (partition_date, article_id, title, body, url, published_at)
            SELECT CAST($day AS DATE), id, title, body, url, published_at
            FROM {READERS[source.suffix]}($source) WHERE published_at::DATE = CAST($day AS DATE)
            """,
            {"day": DAY, "source": str(source)},
        ).fetchone()
        return int(inserted[0]) if inserted else 0
