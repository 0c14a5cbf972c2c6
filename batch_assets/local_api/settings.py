"""What a local Batch API can be told, and where it keeps things."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from batch_assets.local_api.faults import FaultInjector
from batch_assets.local_api.storage.private import make_private_folder

COMPLETION_WINDOW_SECONDS = 24 * 3600.0
ENGINE_TIMEOUT_SECONDS = 600.0
# Everything that is ever in a server's folder; `server.log` is written by `demo` and `dev`.
FOLDER_HOLDS = (
    *("batches", "files", "uploads", "local_api.sqlite3*"),
    *("key*", "webhook_secret*", "server.json*", "server.lock", "server.log"),
)


@dataclass(frozen=True)
class Settings:
    """One server's options.

    engine: a name, or the URL of an OpenAI-compatible server, whose models engine_model stands for, if given.
    engine_timeout_seconds: how long one answer of such a server may take.
    concurrency: lines that are executed at the same time, over all batches together.
    latency_seconds: time that each line takes at least; with `concurrency` of them side by side.
    batch_seconds: least time between creation and completion of a batch; its lines are spread over it.
    completion_window_seconds: what "24h" means here; shorter in tests of expiry.
    fault_injector: what the server gets wrong on purpose; may change while it runs.
    control: whether it may be changed over HTTP.
    """

    directory: Path
    engine: str = "extractive"
    engine_model: str | None = None
    engine_timeout_seconds: float = ENGINE_TIMEOUT_SECONDS
    concurrency: int = 4
    latency_seconds: float = 0.0
    batch_seconds: float = 0.0
    completion_window_seconds: float = COMPLETION_WINDOW_SECONDS
    fault_injector: FaultInjector = field(default_factory=FaultInjector)
    control: bool = False

    @property
    def database_path(self) -> Path:
        return self.directory / "local_api.sqlite3"

    @property
    def files_directory(self) -> Path:
        """Contents of file objects, each under its generated id."""
        return self.directory / "files"

    @property
    def uploads_directory(self) -> Path:
        """Uploads that have not ended yet; emptied at start."""
        return self.directory / "uploads"

    @property
    def work_directory(self) -> Path:
        """One folder for each batch that has not ended: its input, and the results recorded so far."""
        return self.directory / "batches"

    def make_directories(self) -> None:
        """For this user only. Raises OSError."""
        make_private_folder(self.directory, holds=FOLDER_HOLDS)
        for path in (self.files_directory, self.uploads_directory, self.work_directory):
            make_private_folder(path)
