"""Processes that end when this one ends, for any reason."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from batch_assets.cli.dagster_home import guardian

PASSWORD_VARIABLE = "BATCH_ASSETS_UI_PASSWORD"  # noqa: S105 (the name of it)
END_SECONDS = 6.0  # from SIGTERM to SIGKILL
GUARDIAN_SECONDS = 10.0

Process = subprocess.Popen[bytes]


class Family:
    """Our child processes, each the leader of a session and process group of its own, and their guardian."""

    def __init__(self, *, lock: int | None = None, folder: Path | None = None) -> None:
        """lock: file descriptor of a lock that they all hold. folder: deleted when the last of them has ended."""
        self._locks = () if lock is None else (lock,)
        self._folder = folder
        self._children: list[Process] = []
        self._guardian = self._start_guardian()

    def start(
        self,
        module: str,
        *arguments: str,
        output: Path | None = None,
        variables: Mapping[str, str] | None = None,
        files: Sequence[int] = (),
    ) -> Process:
        """Start `python -m module arguments`. Raises OSError.

        output: a file that what it prints is appended to; without one, it prints where we print.
        variables: added to our environment, of which the password of the UI is left out.
        files: descriptors that it inherits.
        """
        inherited = {name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE}
        log = None if output is None else os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "batch_assets.cli.dagster_home.child", str(self._pipe), module, *arguments],
                env={**inherited, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._pipe, *self._locks, *files),
                start_new_session=True,  # a Ctrl-C is for us; we end the children in order
            )
        finally:
            if log is not None:
                os.close(log)
        self._children.append(child)
        return child

    def end(self, children: Iterable[Process], *, seconds: float = END_SECONDS) -> None:
        """End these, with all that they have started: by SIGTERM, and what is left after the seconds by SIGKILL."""
        ending = list(children)
        guardian.end_groups(
            [child.pid for child in ending], grace_seconds=seconds, reap=lambda: [child.poll() for child in ending]
        )
        for child in ending:
            self._children.remove(child)
            self._tell(f"-{child.pid}")

    def keep_guardian(self) -> None:
        """Start the guardian again if it has ended."""
        if self._guardian.poll() is not None:
            self._guardian = self._start_guardian()
            for child in self._children:
                self._tell(f"+{child.pid}")

    def close(self) -> None:
        """End all, and return when the guardian has."""
        self.end(list(self._children))
        assert self._guardian.stdin is not None
        with suppress(BrokenPipeError):
            self._guardian.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._guardian.wait(GUARDIAN_SECONDS)

    @property
    def _pipe(self) -> int:
        assert self._guardian.stdin is not None
        return self._guardian.stdin.fileno()

    def _start_guardian(self) -> Process:
        folders = [] if self._folder is None else [str(self._folder)]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, *folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=self._locks,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE},
        )

    def _tell(self, line: str) -> None:
        with suppress(BrokenPipeError):  # it was killed: the next one is told
            os.write(self._pipe, f"{line}\n".encode())


@contextmanager
def family(*, lock: int | None = None, folder: Path | None = None) -> Iterator[Family]:
    """A family whose members have ended when the `with` is left."""
    members = Family(lock=lock, folder=folder)
    try:
        yield members
    finally:
        members.close()


def interrupt_on_signals() -> None:
    """Let each signal that asks us to end raise KeyboardInterrupt once; the next ones do not disturb the ending."""
    # SIGINT too: a shell that starts us in the background ignores it
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else `nohup` wants us to outlive the terminal
        numbers.append(signal.SIGHUP)

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)
