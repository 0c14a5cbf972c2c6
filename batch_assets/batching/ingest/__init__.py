"""A source of articles into the table `raw_articles`, one day at a time.

`articles` reads the source with DuckDB, checks each row, and replaces the day. A row that cannot be used goes to
`rejected_article` with its reason.
"""
