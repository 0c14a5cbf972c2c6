"""Reads what an API returns. This folder does not decide what a run does with it.

`identity` names the API and the account of the key. `batches` reads one batch, or the list of batches; `polling` reads
those of many days within one tick of the sensor; `download` stores result files. `endpoint` has the endpoint of the
requests, `prices` the price of a token in a batch. `elsewhere` has the message about a batch of another API.

`token_costs` prices the tokens of a request, `model_options` knows which parameters a model and an API take.

A quirk in the batch objects of a new provider goes into `read_batch` of `batches`, its name into `identify` of
`identity`, its prices into `prices`. Quirks in the lines of a result file go into `collection/result_lines.py`, error
codes into `ledger/outcomes.py`.
"""
