"""The command `batch-assets`. `main` is its entry point; each command has a file of its own name.

`comparison_report` and `comparison_page` show what `compare` has found. `try_requests` and `trial_report` are the
command `try`. `common` has what the commands share, `terminal` what is printed there. `demo_day` runs the day of
`demo`, `local_daemon` evaluates the sensor and executes runs in this process. `dagster_home` has the processes of
`dev`.
"""
