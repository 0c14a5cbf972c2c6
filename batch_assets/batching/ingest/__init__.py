"""Reads a source of articles into the table `raw_articles`, one day at a time.

`articles` lets DuckDB read the source into a Parquet file outside of the warehouse, checks each row, and replaces the
day in one transaction. A row that cannot be used goes to `rejected_article`, with the reason.
"""
