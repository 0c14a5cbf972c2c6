"""What a day still has to ask, as JSONL request files.

`task` is what is asked. `plan` compares the day's articles with the ledger and enters the files of what is pending:
`request_lines` makes the lines and names them, `shards` cuts them into files within OpenAI's limits, `large_file`
writes them. `estimate` says what the day will cost. `old_names` keeps the names of requests of earlier versions.
"""
