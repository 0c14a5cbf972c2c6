"""Request files → batches at the API, each created once.

`submit` handles a day. `reconcile` first updates the ledger with what the API lists. Then `submit` claims each
submission in the ledger, `upload` uploads its request file, and `create` creates the batch. No other module creates a
batch. The run has committed the claim before it sends anything, and the batch has the claim token in its metadata. So
`submit` calls `find` to search for the batch of an earlier run before it continues, and `create` calls it after a lost
answer. `adoption` enters a batch that the ledger does not know. `submitter` has the client, the database and the timing
that all steps need, `errors` the error texts and what an error of the API means.

A new endpoint changes nothing here: `planning/__init__.py` says where it would go.
"""
