"""The batch protocol, with no orchestrator in it: plan requests, submit once, collect every result.

Reads top to bottom in the order of a day's life:
`articles` (source → rows), `task` (what is asked), `requests` and `shards` (rows → JSONL files),
`submission` and `creation` (files → batches, exactly once), `progress` (what runs, by listing), `results` and
`collection` (result files → tables). `database` and `tables` are what they all stand on.
"""
