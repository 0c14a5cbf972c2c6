"""A process that ends others when the one that started it is gone, for whatever reason.

It reads its standard input: `+123` puts the process group 123 under its guard, `-123` takes it out. Only its starter
keeps the other end of that pipe open, so the pipe ends when the starter does, also by kill -9. Then the guardian
ends the groups, and deletes the folder that is its argument, if there is one. It holds the starter's lock until then.

It is run as a file, and uses the standard library only: it must start at once, and never fail to.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

TERMINATION_SECONDS = 5.0  # from SIGTERM to SIGKILL
KILLED_SECONDS = 2.0  # a killed process is gone sooner, unless the system does not clear it away


def end_groups(groups: Collection[int], *, grace_seconds: float, reap: Callable[[], object] = bool) -> None:
    """End all processes of these groups: by SIGTERM, and those that are left after `grace_seconds` seconds by SIGKILL.

    reap: asks for the exit codes of children of the caller; until then, an ended child counts as there.
    """
    left = set(groups)
    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, KILLED_SECONDS)):
        for group in left:
            _send(group, number)
        deadline = time.monotonic() + seconds
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            reap()
            left = {group for group in left if _send(group, 0) and not _has_only_ended(group)}


def _send(group: int, number: int) -> bool:
    """Whether there was a process to receive it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # the latter is what macOS says of one that has just ended
        return False
    return True


def _has_only_ended(group: int) -> bool:
    """Whether all of it has ended, and waits to be cleared away, which the first process of a container may never do.

    Linux tells it; elsewhere, this is False.
    """
    states = []
    for process in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = process.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has just gone
        if int(process_group) == group:
            states.append(state)
    return bool(states) and set(states) <= {"Z", "X"}


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its starter, and last
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        group = int(line[1:])
        if line[:1] == b"+":
            groups.add(group)
        else:
            groups.discard(group)
    end_groups(groups, grace_seconds=TERMINATION_SECONDS)
    for folder in sys.argv[1:]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
