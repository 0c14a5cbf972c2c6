"""Request files into batches, exactly once.

`submit` takes a day's submissions from the claim to the batch: `reconcile` first brings the ledger up to date with
what is at the API, `create` uploads the file, creates the batch, and searches for one whose answer was lost,
`adoption` takes in a batch that the ledger does not know.
"""
