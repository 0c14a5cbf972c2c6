"""What the user can do in addition to the assets.

`cancel` stops a day: it asks the API to cancel its batches, and withdraws its unsent request files. `prune` compresses
and deletes the files and rows that old days no longer need. Both read the ledger first, and change nothing that another
day needs.
"""
