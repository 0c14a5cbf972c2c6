"""The ledger: what was planned, sent, answered and paid for, and what may happen next.

`states` holds both state machines as data, `submissions` moves a submission from one state to the next, `requests`
derives the state of a day's requests, `spending` says what was billed and what a budget still allows, `schema` and
`migrations` make the tables of this version, `database` opens them. No code outside this folder names its tables.
"""
