"""Batches, and their execution in the background.

`batches` creates, lists and cancels them. `execution` takes one after the other: `validation` reads its file by
`lines`, `quota` says whether there is room, `batch_run` answers the lines and writes `result_files`, `usage` adds
up the tokens.
"""
