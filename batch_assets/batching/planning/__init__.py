"""The day's pending requests → JSONL request files, and submissions in the ledger.

`plan` does it in one transaction, with `plan_options`. `pending_requests` names the day's requests, compares them with
the ledger, and writes the pending ones: `task` makes the request body, `request_lines` the lines and their custom_ids,
`shards` cuts the lines into files within OpenAI's limits, `large_file` writes the files. `images` finds the images of a
day. `steps` has the steps of a task, and `escalation` gives requests the next step. `old_names` keeps the custom_ids
that earlier versions gave. `estimate` tells what the day will cost.

`provider/endpoint.py` says what belongs to a new endpoint.
"""
