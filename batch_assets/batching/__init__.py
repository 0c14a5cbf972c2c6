"""The batch protocol, without Dagster. A day passes through the first four folders, in this order.

`ingest` (source → rows), `planning` (rows → request files), `submission` (request files → batches, each created once)
and `collection` (result files → tables). `synchronous` asks single requests of a day outside of a batch. `operations`
has what the user can do in addition: cancel and prune. All of them use `ledger` (what was planned, sent, answered and
paid for) and `provider` (how to read what an API returns). `safety` removes secrets and control characters from the
texts of others. `next_step` tells the sensor which step comes next for a day, `timing` has all pauses and timeouts,
`counting` writes "1 file" and "2 files" in messages.
"""
