"""What `dev` does with the runs of a Dagster home that other projects may use, too: it changes only those of its own.

Its own are the runs of the code locations whose servers it starts: they run in processes of these servers.
"""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from batch_assets.batching.counting import counted
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.cli.dagster_home.home import StartError
from batch_assets.cli.local_daemon import fail_orphaned_runs, fail_runs_of_locations
from batch_assets.day_events import server_location

OUR_RUN_LAUNCHER = "DefaultRunLauncher"  # as in our `dagster.yaml`, which names none


def check_run_launcher(dagster_home: Path) -> None:
    """Raise StartError if the Dagster home launches runs elsewhere than in code servers. Reads `dagster.yaml` only.

    `dev` cannot know whether such a run still goes on: its process may be on another machine or in a container.
    """
    launcher = InstanceRef.from_dir(str(dagster_home)).run_launcher_data
    if launcher is None or _is_ours(launcher.module_name, launcher.class_name):
        return
    raise StartError(
        f"The Dagster home {dagster_home} has the run launcher {as_message(launcher.class_name)}. Its runs are not "
        f"processes of `batch-assets dev`, which works with Dagster's {OUR_RUN_LAUNCHER} only. Nothing was changed. "
        "Add the code location of `workspace.yaml` to that Dagster, or set DAGSTER_HOME to another folder."
    )


def check_queue(dagster_home: Path, locations: Collection[str]) -> None:
    """Raise StartError if runs of other code locations are queued: the daemon of `dev` would mark them as failed."""
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        queued = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
    foreign = Counter(location for run in queued if (location := server_location(run)) is not None)
    for location in locations:
        del foreign[location]
    if not foreign:
        return
    names = ", ".join(f"{as_message(location)} ({counted(runs, 'run')})" for location, runs in sorted(foreign.items()))
    raise StartError(
        f"The queue of the Dagster home {dagster_home} has runs of other code locations: {names}. The daemon of "
        "`batch-assets dev` does not know these locations, and would mark the runs as failed. No run was changed. "
        "Wait until their own Dagster has started the runs, or cancel them, or set DAGSTER_HOME to another folder."
    )


def fail_runs_of_ended_servers(dagster_home: Path, locations: Collection[str]) -> None:
    """Mark the runs of these code locations as failed. Call it only while no code server of them runs."""
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        fail_orphaned_runs(instance)
        fail_runs_of_locations(instance, locations)


def _is_ours(module: str, name: str) -> bool:
    return name == OUR_RUN_LAUNCHER and module.split(".")[0] == "dagster"
