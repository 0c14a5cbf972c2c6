"""What `batch-assets dev` and the processes below it use: CPU seconds of each kind, and memory. Linux only: /proc.

The CPU of a process that has ended is in that of its parent (`cutime` and `cstime` in /proc/PID/stat), so the sums
count every process that its parent waited for. Memory, and the CPU of a single run, are sampled twice a second: a
peak between two samples is not seen, and up to half a second of a run's CPU is missing.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_SECONDS = 0.5
SAMPLES_FOR_MEMORY = 2  # memory at every second sample: the kernel walks all pages of a process for it
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

RUNS, CODE_SERVER, DAEMON, WEBSERVER = "run processes", "code server, with the sensor", "daemon", "webserver"
BATCH_API, DEV = "local Batch API", "`batch-assets dev` itself"
KINDS = (RUNS, CODE_SERVER, DAEMON, WEBSERVER, DEV)
# An argument of each child process of `dev`, by which it is known.
ARGUMENTS = {"code-server": CODE_SERVER, "dagster._daemon": DAEMON, "serve": BATCH_API}
WEBSERVER_ENDING = ".webserver"
# dev → code server, which passes calls on → the server that loads the code → runs
DEPTH_OF_RUNS = 3


@dataclass(frozen=True)
class Stat:
    """A process; a zombie too. reaped: the CPU seconds of its children that have ended."""

    pid: int
    parent: int
    own_seconds: float
    reaped_seconds: float


@dataclass
class RunProcess:
    """What a run's process had used in its last sample."""

    cpu_seconds: float = 0.0
    peak_bytes: int = 0


@dataclass
class ProcessTree:
    """The processes below `root`. others: processes of a known kind that are counted as well.

    peak_bytes: the highest sum of the memory of all processes without the local Batch API; api_peak_bytes: of that.
    Memory that processes share counts once (PSS).
    """

    root: int
    others: Mapping[int, str] = field(default_factory=dict)
    runs: dict[int, RunProcess] = field(default_factory=dict)
    peak_bytes: int = 0
    api_peak_bytes: int = 0
    _kinds: dict[int, str] = field(default_factory=dict)

    def cpu_seconds(self) -> dict[str, float]:
        """The CPU seconds of each kind since its processes were started."""
        used = dict.fromkeys((*KINDS, BATCH_API), 0.0)
        for stat, depth, kind in self._members():
            used[kind] += stat.own_seconds
            # the children of the server that loads the code are runs
            used[RUNS if kind == CODE_SERVER and depth == DEPTH_OF_RUNS - 1 else kind] += stat.reaped_seconds
        return used

    def sample(self, *, memory: bool) -> None:
        """Note what each run has used so far; with `memory`, the sum of the memory of all processes as well."""
        ours = api = 0
        for stat, _, kind in self._members():
            if kind == RUNS:
                run = self.runs.setdefault(stat.pid, RunProcess())
                run.cpu_seconds = max(run.cpu_seconds, stat.own_seconds + stat.reaped_seconds)
                run.peak_bytes = max(run.peak_bytes, _kilobytes(stat.pid, "status", "VmHWM") * 1024)
            size = _kilobytes(stat.pid, "smaps_rollup", "Pss") * 1024 if memory else 0
            ours, api = (ours, api + size) if kind == BATCH_API else (ours + size, api)
        self.peak_bytes, self.api_peak_bytes = max(self.peak_bytes, ours), max(self.api_peak_bytes, api)

    def _members(self) -> Iterator[tuple[Stat, int, str]]:
        """Each process with its depth below `root`, and its kind."""
        stats = _all_stats()
        children: dict[int, list[int]] = {}
        for stat in stats.values():
            children.setdefault(stat.parent, []).append(stat.pid)
        waiting = [(self.root, 0, DEV), *((pid, 1, kind) for pid, kind in self.others.items())]
        while waiting:
            pid, depth, kind = waiting.pop()
            if pid not in stats:
                continue
            yield stats[pid], depth, kind
            for child in children.get(pid, []):
                waiting.append((child, depth + 1, self._kind(child, depth + 1, kind)))

    def _kind(self, pid: int, depth: int, parent: str) -> str:
        if depth > 1:
            return RUNS if parent == CODE_SERVER and depth >= DEPTH_OF_RUNS else parent
        if pid not in self._kinds:
            self._kinds[pid] = _kind_of_service(pid)
        return self._kinds[pid]


def machine_cpu_seconds() -> float:
    """The CPU seconds of all processes of this machine since its start."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _idle, _waiting, irq, soft_irq, *_ = fields
    return (user + nice + system + irq + soft_irq) / TICKS_PER_SECOND


@contextmanager
def sampled(tree: ProcessTree) -> Iterator[None]:
    """Sample the tree inside the `with`, from a thread."""
    ended = threading.Event()

    def sample() -> None:
        number = 0
        while not ended.is_set():
            started = time.monotonic()
            tree.sample(memory=number % SAMPLES_FOR_MEMORY == 0)
            number += 1
            ended.wait(max(0.0, started + SAMPLE_SECONDS - time.monotonic()))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _kind_of_service(pid: int) -> str:
    with suppress(OSError):
        arguments = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
        for argument in arguments:
            if argument in ARGUMENTS:
                return ARGUMENTS[argument]
            if argument.endswith(WEBSERVER_ENDING):
                return WEBSERVER
    return DEV


def _all_stats() -> dict[int, Stat]:
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - as below
        if name.isdecimal():
            with suppress(OSError, IndexError):  # it has ended
                found[int(name)] = _stat(int(name))
    return found


def _stat(pid: int) -> Stat:
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - much faster than a Path, and called often
        fields = file.read().rpartition(")")[2].split()
    own, reaped = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return Stat(pid, int(fields[1]), own / TICKS_PER_SECOND, reaped / TICKS_PER_SECOND)


def _kilobytes(pid: int, file: str, name: str) -> int:
    """The figure of this name in a file of /proc/PID; 0 if the process has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0
