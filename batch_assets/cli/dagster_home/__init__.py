"""The persistent Dagster home of `demo` and `dev`, the local Batch API beside it (`home`), and the processes of `dev`.

`supervisor` starts the services (`services`, `dagster_services`) and restarts those that end. `processes` starts
child processes: each runs in `run_child`, and `process_reaper` ends them when the supervisor ends. `lock` allows one
`dev` for each Dagster home, and `shared_home` keeps `dev` from changing the runs of other projects there. `ui` is where
Dagster's UI listens, `webserver` serves it, `ui_access` refuses requests of other sites. `daemon` is
Dagster's, with less waiting.
"""
