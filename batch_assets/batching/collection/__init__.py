"""Ended batches → answers and failures → the day's rows in the result table of a task.

`collect` handles a day. `fetch` asks the API for its batches, stores the result files of those that have ended, and
records the state of the others. `stored_results` finds the result files on this disk. `load` loads them in groups of
batches: `ended_batches` enters the batches into a temp table, `result_lines` reads the lines of the files. Lines that
DuckDB cannot read as they are go through `line_repair`, and `other_bodies` finds errors and reasons in answers of other
servers. If the task has an output schema, `judged_answers` makes failures of the answers that do not fit it. `failures`
records the requests without an answer, and why. `day_results` then writes the result table, and `report` counts what
the day has.

`result_table` makes and changes the table of a task's results, and `column_types` has the types of columns that change.

`comparison` reads the result tables of two tasks side by side.

`answer_bodies` says where the body of a line has its answer, for each endpoint.
"""
