"""The command `batch-assets`: `main` has its commands, `demo` and `dev` are the longer ones, `by_hand` what the
user does beside a running Dagster. `dagster_home` starts and ends the processes of a Dagster home, `local_daemon`
runs sensors and runs in this process, `terminal` draws progress.
"""
