"""The assets of tasks, in the order of a day. Each may be materialized any number of times.

`submission` has the articles of a feed, and `batch_request_file` and `openai_batch` of each task that reads them: one
step, whose stages have a module each. `results` has the result table of a task, a step of its own. `day_run` works on
the days of a run side by side; `unfinished_days` and `missing_key` tell the sensor why a day waits.
"""
