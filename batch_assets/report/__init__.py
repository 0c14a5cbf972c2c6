"""The report over days: what was spent and saved, how many articles, what failed or waits, and how long batches took.

`read.py` reads the figures, which are only those of the ledger. `sums.py` and `waits.py` sum them, `charts.py` places
bars, `page.py` fills in `report.html`, and `as_json.py` writes the same numbers as JSON. Nothing here knows Dagster:
the command `batch-assets report` and the asset `batch_report` both use it.
"""
