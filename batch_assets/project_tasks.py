"""The tasks in the folder `defs/` of this project, for the command line."""

from pathlib import Path

import dagster as dg

from batch_assets.asset_keys import TaskKeys, keys_of_task
from batch_assets.batching.task_day import FIRST_TASK
from batch_assets.component import BatchTask
from batch_assets.settings import Settings
from batch_assets.task_set import DeclaredTask, TaskSet, make_task_set


def read_tasks(settings: Settings) -> TaskSet:
    """The tasks that `definitions` declares, with the limits of the environment."""
    tree = dg.ComponentTree.for_project(Path(__file__).parent)
    declared = [component.declare() for component in tree.get_all_components(BatchTask)]
    return make_task_set(declared, settings)


def declared_task(tasks: TaskSet, name: str) -> DeclaredTask | None:
    return next((declared for declared in tasks.tasks if declared.name == name), None)


def keys_of(tasks: TaskSet, name: str) -> TaskKeys:
    """The keys of the assets of the task. One of another project has the prefix that is the default there."""
    declared = declared_task(tasks, name)
    return keys_of_task(name, () if name == FIRST_TASK else (name,)) if declared is None else declared.keys
