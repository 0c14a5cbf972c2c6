"""Batches, and their execution in the background.

`batches` creates, lists and cancels them; `batch_row` is a batch as the database has it. `execution` has the worker
threads. They take batches from `run_queue`: `opening` validates a batch's file (`validation`, `line_checks`, `quota`),
`line_execution` answers its lines, `recording` writes the results (`result_files`, `usage`), and `finalizing` makes
file objects of them. `batch_run` is a batch in memory from its opening to its end.
"""
