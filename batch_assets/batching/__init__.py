"""The batch protocol, with no orchestrator in it: one folder for each part of a day's life, in this order.

`ingest` (source → rows), `planning` (rows → request files), `submission` (request files → batches, exactly once),
`collection` (result files → tables). `operations` are what the user does beside them: cancel, prune. All of them
stand on `ledger` (what was planned, sent, answered and paid for) and `provider` (what an API says). `safety` keeps
outside text and secrets harmless.
"""
