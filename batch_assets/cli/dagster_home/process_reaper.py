"""A process that ends the child processes of its parent when the parent ends, for any reason.

It reads its standard input: `+123` adds the process group 123, `-123` removes it. Only the parent keeps the other end
of that pipe open, so the pipe closes when the parent ends, also by kill -9. Then the reaper ends the groups, and
deletes the folder that is its argument, if there is one. It holds the parent's lock until then.

It is run as a file, and uses the standard library only: so it starts fast, and cannot fail to.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

TERMINATION_SECONDS = 5.0  # from SIGTERM to SIGKILL
KILLED_SECONDS = 2.0  # a killed process ends sooner, unless its parent does not reap it


def end_groups(groups: Collection[int], *, grace_seconds: float, reap: Callable[[], object] = bool) -> None:
    """End all processes of these groups: by SIGTERM, and those that are left after `grace_seconds` by SIGKILL.

    reap: reads the exit codes of children of the caller; until then, an ended child is a zombie, and counts as running.
    """
    left = set(groups)
    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, KILLED_SECONDS)):
        for group in left:
            _send(group, number)
        deadline = time.monotonic() + seconds
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            reap()
            left = {group for group in left if _send(group, 0) and not _has_only_zombies(group)}


def _send(group: int, number: int) -> bool:
    """Whether a process received the signal."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS raises the latter for one that has just ended
        return False
    return True


def _has_only_zombies(group: int) -> bool:
    """Whether each process of the group has ended. In a container, the first process may never reap them.

    Only Linux tells; False elsewhere.
    """
    states = []
    for process in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = process.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has just ended
        if int(process_group) == group:
            states.append(state)
    return bool(states) and set(states) <= {"Z", "X"}


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends after its parent
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
