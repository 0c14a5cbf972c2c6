"""Reads a source of articles into the table `raw_articles`, one day at a time.

`source` is what the user sets: files, a query or a table. `files` (with `globbing` and `copies`) finds out what is in
the files; `rows`, `json_rows`, `json_keys`, `values` and `times` make one SELECT of all of it, and `queries` of a
query. `stage` writes its result to a Parquet file outside of the warehouse, `check` decides about each row (with
`malformed`, which finds lines), and `articles` replaces the day in one transaction.
"""
