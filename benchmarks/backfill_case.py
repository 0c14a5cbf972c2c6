"""One backfill as a user does it: `batch-assets dev`, the mutation of the UI, and what came of it."""

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import openai

from batch_assets.local_api.serving.keys import local_api_key
from batch_assets_tests.end_to_end.processes import Dev, running_dev
from benchmarks import event_log
from benchmarks.data import write_source_of_days
from benchmarks.event_log import ASSETS, Days, RunTimes, median_seconds
from benchmarks.process_tree import BATCH_API, KINDS, ProcessTree, RunProcess, machine_cpu_seconds, sampled
from benchmarks.server import serving_in_process

FIRST_DAY = date(2025, 1, 1)
FOLLOW_SECONDS = 1.0
SECONDS_FOR_DAEMON = 120.0
SECONDS_FOR_BACKFILL_END = 90.0  # the daemon looks at a backfill every 30 s
DAEMONS = {"BACKFILL", "SENSOR", "QUEUED_RUN_COORDINATOR"}

Figures = dict[str, float | int | str | None]  # float: seconds; int: a number or MB


@dataclass(frozen=True)
class Case:
    """A backfill of so many days. ending: that of the source file. is_instant: whether the API answers at once, in a
    process of its own.
    """

    name: str
    days: int
    articles: int
    ending: str = ".jsonl"
    is_instant: bool = False

    @property
    def partitions(self) -> list[str]:
        return [(FIRST_DAY + timedelta(days=number)).isoformat() for number in range(self.days)]

    def write_source(self, folder: Path) -> Path:
        return write_source_of_days(folder / f"{self.name}{self.ending}", self.articles, self.partitions)


@dataclass(frozen=True)
class Followed:
    """What was seen from the launch to the last summaries, or to the time limit."""

    launched_at: float
    days: Days
    cpu_seconds: Mapping[str, float]
    other_cpu_seconds: float  # of all other processes of this machine
    status: str
    ended_at: float | None  # of the backfill
    note: str


def measure(case: Case, code: Path, source: Path, folder: Path, limit_seconds: float) -> Figures:
    """Run the case with the code in `code`. `folder` is made, and deleted at the end."""
    folder.mkdir()
    data = folder / "data"
    try:
        with (
            _api(case, folder) as (variables, servers),
            chdir(code),  # `python -m` imports from there
            running_dev(data, **variables, **_variables(code, source)) as dev,
            dg.DagsterInstance.from_config(str(data / "dagster_home")) as instance,
        ):
            _wait_for_daemons(dev)
            tree = ProcessTree(dev.process.pid, servers)
            with sampled(tree):
                followed = _launch_and_follow(case, dev, instance, tree, limit_seconds)
            runs = event_log.read_runs(instance)
            return {
                **_times(instance, followed, runs),
                **_of_runs(followed, runs),
                **_usage(followed, tree, runs),
                **_stages(runs),
                "batches at the API: s with at least one": _server_seconds(dev, variables),
                "note": followed.note,
            }
    finally:
        shutil.rmtree(folder)


@contextmanager
def _api(case: Case, folder: Path) -> Iterator[tuple[dict[str, str], dict[int, str]]]:
    """The variables for `dev`, and the process of the server if it is not one of `dev`'s."""
    if not case.is_instant:
        yield {}, {}
        return
    with serving_in_process(folder / "api") as (url, server):
        yield {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "local"}, {int(server.pid): BATCH_API}


def _variables(code: Path, source: Path) -> dict[str, str]:
    return {
        "BATCH_ASSETS_SOURCE": str(source),
        "BATCH_ASSETS_START_DATE": FIRST_DAY.isoformat(),
        "PYTHONPATH": str(code),  # before the installed package
        "PYTHONDONTWRITEBYTECODE": "",  # users do not compile all modules again in each process
    }


def _wait_for_daemons(dev: Dev) -> None:
    deadline = time.monotonic() + SECONDS_FOR_DAEMON
    query = "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy } } } }"
    while True:
        statuses = dev.graphql(query)["instance"]["daemonHealth"]["allDaemonStatuses"]
        if {status["daemonType"] for status in statuses if status["healthy"]} >= DAEMONS:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"The daemon did not start: {statuses}")
        time.sleep(0.5)


def _launch_and_follow(
    case: Case, dev: Dev, instance: dg.DagsterInstance, tree: ProcessTree, limit_seconds: float
) -> Followed:
    days = Days(case.partitions, case.articles)
    before, machine_before = tree.cpu_seconds(), machine_cpu_seconds()
    launched_at, started = time.time(), time.monotonic()
    backfill_id = _launch(dev, case.partitions)
    note = ""
    while not days.are_complete and not note:
        time.sleep(FOLLOW_SECONDS)
        days.read(instance)
        if dev.process.poll() is not None:
            note = "`batch-assets dev` has ended"
        elif time.monotonic() - started > limit_seconds:
            note = f"ended after {limit_seconds:.0f} s"
    cpu = tree.cpu_seconds()
    used = {kind: cpu[kind] - before[kind] for kind in cpu}
    others = machine_cpu_seconds() - machine_before - sum(used.values())
    ended_at = _end_of_backfill(instance, backfill_id, 0.0 if note else SECONDS_FOR_BACKFILL_END)
    status, _ = event_log.status_of(instance, backfill_id)
    return Followed(launched_at, days, used, others, status, ended_at, note)


def _launch(dev: Dev, days: Sequence[str]) -> str:
    """Do what the button "Launch backfill" does for the three selected assets; returns the backfill's id."""
    launched = dev.graphql(
        """
        mutation ($assets: [AssetKeyInput!]!, $days: [String!]!) {
            launchPartitionBackfill(backfillParams: { assetSelection: $assets, partitionNames: $days }) {
                __typename
                ... on LaunchBackfillSuccess { backfillId }
                ... on PythonError { message }
            }
        }
        """,
        assets=[{"path": [asset]} for asset in event_log.UPSTREAM],
        days=list(days),
    )["launchPartitionBackfill"]
    if launched["__typename"] != "LaunchBackfillSuccess":
        raise RuntimeError(f"The backfill was not launched: {launched}")
    return str(launched["backfillId"])


def _end_of_backfill(instance: dg.DagsterInstance, backfill_id: str, seconds: float) -> float | None:
    """When the backfill has ended; None if it goes on after so many seconds."""
    deadline = time.monotonic() + seconds
    while not event_log.status_of(instance, backfill_id)[1]:
        if time.monotonic() > deadline:
            return None
        time.sleep(FOLLOW_SECONDS)
    backfill = instance.get_backfill(backfill_id)
    return backfill.backfill_end_timestamp if backfill else None


def _times(instance: dg.DagsterInstance, followed: Followed, runs: Sequence[RunTimes]) -> Figures:
    """Seconds from the launch."""
    figures: Figures = {
        "the first run is in the queue": _first(run.record.create_timestamp.timestamp() for run in runs),
        "the first run starts": _first(run.record.start_time for run in runs),
        "the first step starts": _first(run.first_step_at for run in runs),
        "our first line in a run's log": _first(run.first_line_at for run in runs),
    }
    for asset in ASSETS:
        times = event_log.times_of(instance, asset)
        figures[f"first day in `{asset}`"] = _first(times)
        figures[f"last day in `{asset}`"] = max(times, default=None)
    figures["the backfill has ended"] = followed.ended_at
    return {name: at - followed.launched_at if isinstance(at, float) else None for name, at in figures.items()}


def _first(times: Iterable[float | None]) -> float | None:
    return min((at for at in times if at is not None), default=None)


def _of_runs(followed: Followed, runs: Sequence[RunTimes]) -> Figures:
    of_backfill = [run for run in runs if run.is_of_backfill]
    return {
        "days with all summaries": len(followed.days.complete),
        "runs of the backfill": len(of_backfill),
        "runs of the sensor": len(runs) - len(of_backfill),
        "failed runs": sum(run.record.dagster_run.status in event_log.FAILED for run in runs),
        "status of the backfill": followed.status,
        "a run, median: s in the queue": median_seconds(
            (run.record.create_timestamp.timestamp(), run.launched_at) for run in runs
        ),
        "a run, median: s from its launch to its first step": median_seconds(
            (run.launched_at, run.first_step_at) for run in runs
        ),
        "a run, median: s from its first step to its end": median_seconds(
            (run.first_step_at, run.record.end_time) for run in runs
        ),
    }


def _usage(followed: Followed, tree: ProcessTree, runs: Sequence[RunTimes]) -> Figures:
    cpu = followed.cpu_seconds
    figures: Figures = {"CPU s, all without the local Batch API": sum(cpu[kind] for kind in KINDS)}
    figures.update({f"CPU s, {kind}": cpu[kind] for kind in (*KINDS, BATCH_API)})
    figures["CPU s, other programs of this machine"] = followed.other_cpu_seconds
    figures["peak memory, all without the local Batch API, MB"] = round(tree.peak_bytes / 1e6)
    figures["peak memory, local Batch API, MB"] = round(tree.api_peak_bytes / 1e6)
    for name, is_of_backfill in (("backfill", True), ("sensor", False)):
        processes = [
            tree.runs.get(run.pid, RunProcess())
            for run in runs
            if run.pid is not None and run.is_of_backfill == is_of_backfill
        ]
        figures[f"largest run of the {name}: CPU s"] = max((process.cpu_seconds for process in processes), default=None)
        figures[f"largest run of the {name}: peak memory, MB"] = max(
            (round(process.peak_bytes / 1e6) for process in processes), default=None
        )
    return figures


def _stages(runs: Sequence[RunTimes]) -> Figures:
    seconds = event_log.seconds_in_steps(runs)
    return {f"s in all steps `{step}`": seconds[step] for step in seconds}


def _server_seconds(dev: Dev, variables: Mapping[str, str]) -> float | None:
    """How long at least one batch was at the API and had not ended. The API gives whole seconds."""
    if dev.process.poll() is not None:
        return None
    url = variables.get("OPENAI_BASE_URL") or dev.api_url
    key = variables.get("OPENAI_API_KEY") or local_api_key(dev.data / "local_api")
    with openai.OpenAI(base_url=url, api_key=key) as client:
        batches = [(batch.created_at, batch.completed_at) for batch in client.batches.list(limit=100)]
    busy: Counter[int] = Counter()
    for created_at, completed_at in batches:
        if completed_at is not None:
            busy.update(range(created_at, max(completed_at, created_at + 1)))
    return float(len(busy))
