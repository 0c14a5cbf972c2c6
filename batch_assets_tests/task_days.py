"""Days of the task `summaries`."""

from batch_assets.batching.task_day import FIRST_TASK, TaskDay


def of(day: str) -> TaskDay:
    return TaskDay(FIRST_TASK, day)
