"""The day of a task: what a run plans, submits and collects."""

from typing import NamedTuple

FIRST_TASK = "summaries"  # the only one of earlier versions
FIRST_SOURCE = "raw_articles"


class TaskDay(NamedTuple):
    """A task, by its name, and a day such as 2026-01-05, which is its partition."""

    task: str
    day: str

    def __str__(self) -> str:
        return self.day

    @property
    def label(self) -> str:
        """The day, and which task it is of unless it is of `summaries`: for a sentence."""
        return self.day if self.task == FIRST_TASK else f"{self.day} of {self.task}"

    @property
    def arguments(self) -> str:
        """What a command is told to mean this day of this task."""
        return self.day if self.task == FIRST_TASK else f"{self.day} --task {self.task}"
