"""Measures a call in a process of its own: wall time, CPU time and the highest resident memory."""

import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from batch_assets_tests.memory import peak_bytes

SECONDS_FOR_A_MEASUREMENT = 1800
# A virtual machine returns freed memory to its host after some seconds, and until then it is faster: to write 2.7 GB
# took 4.3 s directly after as much had been deleted, 7.2 s three seconds later, 8.4 s after ten.
REST_SECONDS = 10


@dataclass(frozen=True)
class Measured:
    """`peak_bytes` is of the whole process, the interpreter and its imports (about 70 MB) included."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    result: Any = None


def measured(function: Callable[..., Any], *arguments: Any) -> Measured:
    """Call it in a new process, and measure only the call. Also returns the result of the function."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        if not ours.poll(SECONDS_FOR_A_MEASUREMENT):
            raise TimeoutError(f"{function.__name__} took more than {SECONDS_FOR_A_MEASUREMENT} s")
        return ours.recv()  # type: ignore[no-any-return]
    finally:
        process.kill()
        process.join()


def measured_from_rest(function: Callable[..., Any], *arguments: Any) -> Measured:
    """The same after a pause, so that an earlier process does not make it faster."""
    time.sleep(REST_SECONDS)
    return measured(function, *arguments)


def _child(answer: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.sync()  # so that earlier writes do not count
    cpu, started = _cpu_seconds(), time.perf_counter()
    result = function(*arguments)
    wall = time.perf_counter() - started
    answer.send(Measured(wall, _cpu_seconds() - cpu, peak_bytes(), result))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def median(runs: Sequence[Measured]) -> Measured:
    """The median of the times, each by itself, and the highest peak."""
    return Measured(
        statistics.median(run.wall_seconds for run in runs),
        statistics.median(run.cpu_seconds for run in runs),
        max(run.peak_bytes for run in runs),
        runs[-1].result,
    )
