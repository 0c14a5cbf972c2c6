"""Requests of a day that are asked outside of a batch, at the standard price. Their answers count as those of a batch.

`pending` finds the requests that a batch would have, and makes the same body for each. `ask` asks one: it records the
call (`ledger/synchronous_calls`), sends it (`provider/synchronous`), stores the answer byte for byte, and loads it like
a line of a result file. `callers` says whether the process of an unfinished call still runs.

It has no Dagster and prints nothing: the client and the database are arguments.
"""
