"""A service of `dev`: a child process that is restarted when it ends. `dagster_services` has those of Dagster."""

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from batch_assets.cli.dagster_home.home import StartError, local_api_log, start_local_api
from batch_assets.cli.dagster_home.processes import ChildProcesses, Process
from batch_assets.local_api.serving.discovery import read_discovery, running_url
from batch_assets.settings import Settings

MAX_RESTARTS = 3
RESTART_WINDOW_SECONDS = 60.0
CHECK_SECONDS = 2.0


@dataclass
class Service:
    """A child process that is restarted when it ends or no longer works."""

    name: str  # begins sentences: "The daemon"
    start: Callable[[], Process | None]
    output: str = "its output is above"
    is_ready: Callable[[], bool] = lambda: True
    has_failed: Callable[[], bool] = lambda: False
    process: Process | None = None
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_RESTARTS))

    def restart_if_ended(self, children: ChildProcesses, *, has_started: bool) -> str | None:
        """Restart the service if it has ended. Returns what happened, as a sentence. Raises StartError after too many.

        has_started: whether all services have started. Before, one that ends by itself would end again: StartError.
        """
        code = None if self.process is None else self.process.poll()
        if code is None and not self.has_failed():
            return None
        if code is not None and code > 0 and not has_started:
            raise StartError(f"{self._what_happened()} while it started; {self.output}.")
        now = time.monotonic()
        if len(self.restarts) == MAX_RESTARTS and now - self.restarts[0] < RESTART_WINDOW_SECONDS:
            raise StartError(f"{self._what_happened()}, after {MAX_RESTARTS} restarts in a minute; {self.output}.")
        self.restarts.append(now)
        what_happened = self._what_happened()
        self.end(children)
        self.process = self.start()
        return f"{what_happened}, and is restarted; {self.output}."

    def end(self, children: ChildProcesses) -> None:
        """End the process, and all that it has started."""
        if self.process is not None:
            children.end([self.process])
            self.process = None

    def _what_happened(self) -> str:
        code = None if self.process is None else self.process.poll()
        if code is None:
            return f"{self.name} does not answer"
        return f"{self.name} has ended " + (
            f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        )


def local_api_service(settings: Settings, children: ChildProcesses) -> Service:
    """The local Batch API: ours, or that of another `demo`, `dev` or `serve`. We replace that one when it has ended."""

    def start() -> Process | None:
        running = running_url(settings.local_api_folder) is not None
        return None if running else start_local_api(settings, children)

    health = HealthCheck(lambda: service.process is None and not _is_served(settings.local_api_folder))
    log = local_api_log(settings)
    service = Service("The local Batch API", start, f"its output is in {log}", has_failed=health.has_failed_repeatedly)
    service.process = start()
    return service


def _is_served(folder: Path) -> bool:
    """Whether the process of this folder's server exists. It may be too busy to answer."""
    found = read_discovery(folder)
    if found is None:
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, KeyError, ValueError):
        pass
    return True


@dataclass
class HealthCheck:
    """Checks a service every few seconds; says when it failed several times in a row."""

    is_failing: Callable[[], bool]
    max_failures: int = 1
    failures: int = 0
    next_check: float = 0.0

    def has_failed_repeatedly(self) -> bool:
        if time.monotonic() < self.next_check:
            return False
        self.failures = self.failures + 1 if self.is_failing() else 0
        self.next_check = time.monotonic() + CHECK_SECONDS
        if self.failures < self.max_failures:
            return False
        self.failures = 0
        return True
