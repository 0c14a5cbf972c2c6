"""Ended batches into tables, and a day's tables into its result table.

`collect` asks for the day's batches, stores their result files, and loads them. `stored_results` are those that are
on this disk. `result_lines` reads the files into a temp table, `load` makes answers and failures of the lines,
`token_costs` prices them, `day_summaries` writes `summaries`, `report` counts what the day has.
"""
