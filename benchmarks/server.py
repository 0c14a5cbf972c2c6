"""The local Batch API as a process of its own, and what a process uses. Linux only: the figures are from /proc."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from batch_assets.local_api.serving.discovery import running_url

SECONDS_TO_START = 30
PROGRAM = """
import pathlib, sys
from batch_assets.local_api.serving.server import serve
from batch_assets.local_api.settings import Timing
serve(pathlib.Path(sys.argv[1]), engine="instant", without_key=True, timing=Timing(first_line_seconds=0))
"""


@dataclass(frozen=True)
class Process:
    """A process; `pid` is its number, or "self"."""

    pid: str

    def cpu_seconds(self) -> float:
        """What the process has used so far. Unlike wall time, it does not count the work of other processes."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self) -> int:
        """The highest resident memory since the start, or since `reset_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    def reset_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@contextmanager
def serving_in_process(folder: Path) -> Iterator[tuple[str, Process]]:
    """Serve the folder from a new process, whose memory is only that of the server. Gives the URL and the process."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)])
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while (url := running_url(folder)) is None:
            if time.monotonic() > deadline or process.poll() is not None:
                raise TimeoutError("The local Batch API did not start.")
            time.sleep(0.05)
        yield url, Process(str(process.pid))
    finally:
        process.terminate()
        process.wait(30)
