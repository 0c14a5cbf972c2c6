"""What the user can do in addition to the assets.

`cancel` stops a day: it asks the API to cancel its batches, and withdraws its unsent request files. `abandon`
gives up a batch that does not end, and frees its requests. `prune` compresses and deletes the files and rows that old
days no longer need; `remote_deletion` deletes the API's copies. All read the ledger first, and change nothing that
another day needs.
"""
