"""What `dev` keeps running: children that are started again when they end. `dagster_services` has Dagster's."""

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from batch_assets.cli.dagster_home import StartError, local_api_log, start_local_api
from batch_assets.cli.dagster_home.processes import Family, Process
from batch_assets.local_api.serving.discovery import read_discovery, running_url
from batch_assets.settings import Settings

MOST_RESTARTS = 3
RESTART_WINDOW_SECONDS = 60.0
LOOK_SECONDS = 2.0


@dataclass
class Service:
    """A child that is started again when it ends, or when it is lost in another way."""

    name: str  # begins sentences: "The daemon"
    start: Callable[[], Process | None]
    output: str = "its output is above"
    is_there: Callable[[], bool] = lambda: True
    is_lost: Callable[[], bool] = lambda: False
    process: Process | None = None
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_RESTARTS))

    def keep(self, children: Family, *, has_started: bool) -> str | None:
        """Start it again if it has ended, and say so. Raises StartError when that has been done too often.

        has_started: once all is there. Until then, one that ends by itself would do so again: a StartError.
        """
        code = None if self.process is None else self.process.poll()
        if code is None and not self.is_lost():
            return None
        if code is not None and code > 0 and not has_started:
            raise StartError(f"{self._what_happened()} while it started; {self.output}.")
        now = time.monotonic()
        if len(self.restarts) == MOST_RESTARTS and now - self.restarts[0] < RESTART_WINDOW_SECONDS:
            raise StartError(f"{self._what_happened()}, after {MOST_RESTARTS} restarts in a minute; {self.output}.")
        self.restarts.append(now)
        happened = self._what_happened()
        self.end(children)
        self.process = self.start()
        return f"{happened}, and is started again; {self.output}."

    def end(self, children: Family) -> None:
        """End it, with all that it has started and left behind."""
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


def local_api_service(settings: Settings, children: Family) -> Service:
    """The local Batch API: ours, or that of another `demo`, `dev` or `serve`, which is replaced when it has ended."""

    def start() -> Process | None:
        running = running_url(settings.local_api_folder) is not None
        return None if running else start_local_api(settings, children)

    looks = Looks(lambda: service.process is None and not _is_served(settings.local_api_folder))
    log = local_api_log(settings)
    service = Service("The local Batch API", start, f"its output is in {log}", is_lost=looks.have_missed)
    service.process = start()
    return service


def _is_served(folder: Path) -> bool:
    """Whether a server of this folder is there; one that is too busy to answer is."""
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
class Looks:
    """Looks at something from time to time; says when it was missed several times in a row."""

    is_missed: Callable[[], bool]
    most_misses: int = 1
    misses: int = 0
    next_look: float = 0.0

    def have_missed(self) -> bool:
        if time.monotonic() < self.next_look:
            return False
        self.misses = self.misses + 1 if self.is_missed() else 0
        self.next_look = time.monotonic() + LOOK_SECONDS
        if self.misses < self.most_misses:
            return False
        self.misses = 0
        return True
