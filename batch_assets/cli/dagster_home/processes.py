"""Child processes that end when this process ends, for any reason."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from batch_assets.cli.dagster_home import process_reaper

PASSWORD_VARIABLE = "BATCH_ASSETS_UI_PASSWORD"  # noqa: S105 (the name of it)
END_SECONDS = 6.0  # from SIGTERM to SIGKILL
REAPER_SECONDS = 10.0

Process = subprocess.Popen[bytes]


class ChildProcesses:
    """Our child processes, each the leader of its own session and process group, and the reaper that ends them."""

    def __init__(self, *, lock: int | None = None, folder: Path | None = None) -> None:
        """lock: file descriptor of a lock that each child holds. folder: deleted when the last child has ended."""
        self._locks = () if lock is None else (lock,)
        self._folder = folder
        self._children: list[Process] = []
        self._reaper = self._start_reaper()

    def start(
        self,
        module: str,
        *arguments: str,
        output: Path | None = None,
        variables: Mapping[str, str] | None = None,
        files: Sequence[int] = (),
    ) -> Process:
        """Start `python -m module arguments`. Raises OSError.

        output: the file that the child's output is appended to; without one, the child prints where we print.
        variables: added to our environment, which the child inherits without the password of the UI.
        files: descriptors that the child inherits.
        """
        inherited = {name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE}
        log = None if output is None else os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "batch_assets.cli.dagster_home.run_child", str(self._pipe), module, *arguments],
                env={**inherited, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._pipe, *self._locks, *files),
                start_new_session=True,  # Ctrl-C reaches us only; we end the children in order
            )
        finally:
            if log is not None:
                os.close(log)
        self._children.append(child)
        return child

    def end(self, children: Iterable[Process], *, seconds: float = END_SECONDS) -> None:
        """End these, with all that they have started: by SIGTERM, and after `seconds` by SIGKILL."""
        ending = list(children)
        process_reaper.end_groups(
            [child.pid for child in ending], grace_seconds=seconds, reap=lambda: [child.poll() for child in ending]
        )
        for child in ending:
            self._children.remove(child)
            self._send_to_reaper(f"-{child.pid}")

    def ensure_reaper(self) -> None:
        """Start the reaper again if it has ended."""
        if self._reaper.poll() is not None:
            self._reaper = self._start_reaper()
            for child in self._children:
                self._send_to_reaper(f"+{child.pid}")

    def close(self) -> None:
        """End all children, then the reaper."""
        self.end(list(self._children))
        assert self._reaper.stdin is not None
        with suppress(BrokenPipeError):
            self._reaper.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._reaper.wait(REAPER_SECONDS)

    @property
    def _pipe(self) -> int:
        assert self._reaper.stdin is not None
        return self._reaper.stdin.fileno()

    def _start_reaper(self) -> Process:
        folders = [] if self._folder is None else [str(self._folder)]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", process_reaper.__file__, *folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=self._locks,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name != PASSWORD_VARIABLE},
        )

    def _send_to_reaper(self, line: str) -> None:
        with suppress(BrokenPipeError):  # the reaper was killed: `ensure_reaper` tells the next one
            os.write(self._pipe, f"{line}\n".encode())


@contextmanager
def child_processes(*, lock: int | None = None, folder: Path | None = None) -> Iterator[ChildProcesses]:
    """Child processes that have ended when the `with` ends."""
    children = ChildProcesses(lock=lock, folder=folder)
    try:
        yield children
    finally:
        children.close()


def interrupt_on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt once. Later ones are ignored, so that we end in order."""
    # SIGINT too: a process that a shell starts in the background ignores it
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else `nohup` has started us
        numbers.append(signal.SIGHUP)

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)
