"""The ledger: what was planned, sent, answered and paid for. Only this folder names its tables.

A plan writes submissions (`transitions`) and the requests in each file (`in_flight`, `aliases` for old custom_ids). A
run claims a submission (`claims`, by `expected_cost` and the budgets of `spending`; `owners`: whether it still has it)
and records the batch (`transitions`, then `batch_transitions`). `billing` records what a collected batch has billed.
`synchronous_calls` has the requests that are asked outside of batches. `withdrawal` withdraws what has no batch. All of
them change a state by `change_state`, along the moves of `states`.

For reading: `submissions`, `known_batches`, `files`, and `requests`, which derives the states of a day's requests. What
users see of days is in `day_figures`, `batch_figures`, `day_errors`, `reasons` and `costs`; `day_spending` has the rule
for which spending counts in all of them.
`outcomes` says what may be retried. `database` opens the file, `schema` has its tables, `upgrade` applies `migrations`.
"""
